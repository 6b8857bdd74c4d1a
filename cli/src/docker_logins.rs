//! Logins that docker and podman keep for their user: read where margay has none of its own.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::{
    credentials::Login,
    output::{notice, printable},
};

/// A helper may ask its user to unlock a keychain.
const HELPER_TIME_MAX: Duration = Duration::from_secs(60);
/// A name and a secret.
const HELPER_BYTES_MAX: u64 = 64 << 10;
/// What some helpers answer for a secret that is a refresh token, which no password is.
const TOKEN_USER: &str = "<token>";
/// The name of Docker Hub in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// `config.json` of docker, and `auth.json` of podman.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// `USER:PASSWORD`, in Base64.
    auth: String,
    username: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The login for `registry` in the files of the environment's user.
pub fn of(registry: &str) -> Option<Login> {
    files().iter().find_map(|path| in_file(path, registry))
}

/// Where they look, the first to have it first.
fn files() -> Vec<PathBuf> {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = folder("HOME");
    let of_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
    let docker = folder("DOCKER_CONFIG").or_else(|| of_home(".docker"));
    let podman = folder("REGISTRY_AUTH_FILE")
        .or_else(|| folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")));
    let files = [
        docker.map(|folder| folder.join("config.json")),
        podman,
        of_home(".config/containers/auth.json"),
    ];
    files.into_iter().flatten().collect()
}

fn in_file(path: &Path, registry: &str) -> Option<Login> {
    let text = fs::read(path).ok()?;
    let config: Config = match serde_json::from_slice(&text) {
        Ok(config) => config,
        Err(error) => {
            notice(format_args!("Cannot read the logins in `{}`: {error}", path.display()));
            return None;
        }
    };
    let helper = config.cred_helpers.iter().find(|(key, _)| is_of(key, registry));
    let helper = helper.map(|(_, name)| name).or(config.creds_store.as_ref());
    if let Some(login) = helper.and_then(|name| from_helper(name, registry)) {
        return Some(login);
    }
    config.auths.iter().find(|(key, _)| is_of(key, registry)).and_then(|(_, entry)| entry.login())
}

/// Whether a key of these files, a host or a URL, is about `registry`.
fn is_of(key: &str, registry: &str) -> bool {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = rest.unwrap_or(key).split('/').next().unwrap_or_default();
    // A key of podman may name a part of a registry, which is not the whole.
    let is_whole = rest.is_some() || key == host;
    is_whole && (host == registry || host == "index.docker.io" && registry == "docker.io")
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if !self.username.is_empty() {
            return login(&self.username, &self.password);
        }
        let decoded = BASE64_STANDARD.decode(self.auth.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        // Docker pads what it writes.
        let (user, password) = text.trim_end_matches('\0').split_once(':')?;
        login(user, password)
    }
}

fn login(user: &str, password: &str) -> Option<Login> {
    let is_one = !user.is_empty() && !password.is_empty() && user != TOKEN_USER;
    is_one.then(|| Login { user: user.to_owned(), password: password.to_owned() })
}

/// What `docker-credential-NAME get` answers.
fn from_helper(name: &str, registry: &str) -> Option<Login> {
    // It is the name of a program on the path, and no path.
    let is_name = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let program = format!("docker-credential-{name}");
    let key = if registry == "docker.io" { DOCKER_HUB } else { registry };
    match ask(&program, key) {
        Ok(answer) => answer.and_then(|answer| login(&answer.username, &answer.secret)),
        Err(error) => {
            let error = printable(&error.to_string());
            notice(format_args!("Cannot ask `{program}` for the login of `{registry}`: {error}"));
            None
        }
    }
}

/// `None` when it has none.
fn ask(program: &str, key: &str) -> anyhow::Result<Option<Answer>> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // One that reads nothing has closed its end.
    child.stdin.take().expect("it is piped").write_all(key.as_bytes()).ok();
    let out = child.stdout.take().expect("it is piped");
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = out.take(HELPER_BYTES_MAX).read_to_end(&mut bytes);
        sender.send(read.map(|_| bytes)).ok();
    });
    let answer = answer.recv_timeout(HELPER_TIME_MAX);
    if answer.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let bytes = answer.map_err(|_| anyhow::anyhow!("it did not answer in time"))??;
    match status.success() {
        true => Ok(Some(serde_json::from_slice(&bytes)?)),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_by_the_host_of_its_registry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        let config = serde_json::json!({
            "auths": {
                DOCKER_HUB: { "auth": encode("ann:hub") },
                "localhost:5000": { "auth": encode("me:a:b\0\0") },
                "https://quay.example": { "auth": encode("ann:quay") },
                "half.example/team": { "auth": encode("ann:half") },
                "plain.example": { "username": "ann", "password": "plain" },
                "token.example": { "auth": encode("<token>:x") },
                "empty.example": {},
                "bad.example": { "auth": "%%" },
            },
            "HttpHeaders": { "User-Agent": "x" },
        });
        fs::write(&path, config.to_string()).unwrap();
        for (registry, want) in [
            ("docker.io", Some("ann:hub")),
            ("localhost:5000", Some("me:a:b")),
            ("localhost:5001", None),
            ("quay.example", Some("ann:quay")),
            ("half.example", None),
            ("plain.example", Some("ann:plain")),
            ("token.example", None),
            ("empty.example", None),
            ("bad.example", None),
            ("other.example", None),
        ] {
            let got = in_file(&path, registry);
            let got = got.map(|Login { user, password }| format!("{user}:{password}"));
            assert_eq!(got.as_deref(), want, "{registry}");
        }
        fs::write(&path, "{").unwrap();
        assert!(in_file(&path, "docker.io").is_none());
        assert!(in_file(&dir.path().join("none"), "docker.io").is_none());
    }

    #[test]
    fn a_helper_is_a_program_by_its_name_and_no_path() {
        for name in ["", "../x", "a/b", "a b", "$(x)"] {
            assert!(from_helper(name, "docker.io").is_none(), "{name}");
        }
    }
}
