//! Certificates in files: which server shows which, when they are read again, and by which process.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use crate::{
    http::exchange,
    stage::{Running, Stage, eventually},
    up::{HOST, Up, record, serve_cats},
};

/// A certificate for `name` that is its own authority, as files.
fn certificate(stage: &Stage, name: &str) -> Option<(String, String)> {
    certificate_for(stage, &format!("DNS:{name}"))
}

/// The same for names as a certificate has them: `DNS:NAME,IP:ADDRESS`.
pub fn certificate_for(stage: &Stage, names: &str) -> Option<(String, String)> {
    certificate_at(&stage.path("tls.crt"), &stage.path("tls.key"), names)
}

/// A certificate with its key in these files.
pub fn certificate_at(chain: &Path, key: &Path, names: &str) -> Option<(String, String)> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-addext"])
        .arg(format!("subjectAltName={names}"))
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(chain)
        .output();
    match made {
        Ok(output) if output.status.success() => {
            Some((chain.display().to_string(), key.display().to_string()))
        }
        _ => {
            println!("skipped: openssl is not here");
            None
        }
    }
}

/// What curl gets from `https://NAME:PORT/PATH`, with the certificate at `chain` as its authority.
fn curl(chain: &str, name: &str, address: &str, path: &str) -> String {
    let port = address.rsplit(':').next().expect("a port");
    let to = format!("{name}:{port}:{address}");
    curl_with(chain, &format!("https://{name}:{port}{path}"), &["--connect-to", &to])
}

/// The same with more arguments: head, body and complaints.
pub fn curl_with(chain: &str, url: &str, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--http1.1", "--max-time", "20", "--cacert", chain])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_certificate_in_files_is_served_by_ingress_and_registry_and_read_again() {
    let stage = Stage::new();
    let Some((chain, key)) = certificate(&stage, HOST) else { return };
    let up = Up::start_with(&stage, &["--tls-cert", &chain, "--tls-key", &key]);
    serve_cats(&stage, &up, 1);
    let create = ["service", "create", "dogs", "--task", "cats:1", "--cluster", "allthecats"];
    let created = stage.margay(create.iter().chain(&["--detach"]));
    assert!(created.err.contains("Reach it at https://dogs.allthecats"), "{}", created.err);
    let ingress = up.ingress.clone();
    let page = || curl(&chain, HOST, &ingress, "/").starts_with("HTTP/1.1 200").then_some(());
    eventually("the page over TLS", page);
    let plain = format!("GET /a?b HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = exchange(&ingress, plain.as_bytes());
    assert!(answer.contains(&format!("location: https://{HOST}/a?b\r\n")), "{answer}");
    let registry = up.registry.replace("localhost", "127.0.0.1");
    let challenge = curl(&chain, HOST, &registry, "/v2/");
    assert!(challenge.contains("realm=\"https://"), "{challenge}");
    // A bad pair changes nothing; the next good one is taken up.
    let good = fs::read(&chain).expect("a certificate");
    fs::write(&chain, "no certificate").expect("written");
    let old = stage.write("old.crt", &good).display().to_string();
    let old_page = || curl(&old, HOST, &ingress, "/").starts_with("HTTP/1.1 200").then_some(());
    eventually("the page with the pair before", old_page);
    certificate(&stage, HOST).expect("another one");
    eventually("the page with the new pair", page);
    eventually("the registry with the new pair", || {
        curl(&chain, HOST, &registry, "/v2/").contains("realm=").then_some(())
    });
    up.end();
    stage.is_empty();
    let wrong = stage.write("wrong.key", "no key").display().to_string();
    let err = stage.margay(["ingress", "--tls-cert", &chain, "--tls-key", &wrong]).fails(1);
    assert!(err.contains("there is no private key in `") && err.contains("hint: "), "{err}");
    stage.margay(["ingress", "--proxy-protocol"]).fails(2);
}

/// As certbot keeps a certificate: files of root alone, in a folder of root alone, behind links.
struct Renewed<'a> {
    stage: &'a Stage,
    name: &'a str,
    generation: u32,
}

impl<'a> Renewed<'a> {
    fn new(stage: &'a Stage, name: &'a str) -> Option<Self> {
        for folder in ["archive/x", "live/x"] {
            fs::create_dir_all(stage.path(folder)).expect("a folder");
        }
        for folder in ["archive", "live"] {
            fs::set_permissions(stage.path(folder), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let mut renewed = Self { stage, name, generation: 0 };
        renewed.renew().map(|_| renewed)
    }

    /// Makes the next pair, and turns the links to it. Returns the certificate.
    fn renew(&mut self) -> Option<String> {
        self.generation += 1;
        let archived = |what: &str| format!("archive/x/{what}{}.pem", self.generation);
        let (chain, key) = (archived("fullchain"), archived("privkey"));
        let names = format!("DNS:{}", self.name);
        let made = certificate_at(&self.stage.path(&chain), &self.stage.path(&key), &names)?;
        fs::set_permissions(&made.1, fs::Permissions::from_mode(0o600)).expect("a mode");
        for (what, to) in [("fullchain", chain), ("privkey", key)] {
            self.link(what, &to);
        }
        Some(made.0)
    }

    fn link(&self, what: &str, to: &str) {
        let next = self.stage.path("live/x/next");
        symlink(format!("../../{to}"), &next).expect("a link");
        fs::rename(next, self.live(what)).expect("a rename");
    }

    fn live(&self, what: &str) -> std::path::PathBuf {
        self.stage.path(&format!("live/x/{what}.pem"))
    }

    fn flags(&self) -> [String; 4] {
        let file = |what: &str| self.live(what).display().to_string();
        ["--tls-cert".to_owned(), file("fullchain"), "--tls-key".to_owned(), file("privkey")]
    }
}

/// The same with its stderr in a file.
fn with_log(inner: &Command, log: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "log=$0; exec \"$@\" 2> \"$log\""]).arg(log).arg(inner.get_program());
    shell.args(inner.get_args()).env_clear();
    shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

fn address_of(line: &str) -> String {
    line.rsplit(' ').next().expect("an address").to_owned()
}

/// Whether a server shows the certificate at `chain`.
fn shows(chain: &str, address: &str) -> Option<()> {
    curl(chain, "box.example.com", address, "/").starts_with("HTTP/1.1 ").then_some(())
}

#[test]
fn a_server_that_runs_apart_takes_up_a_certificate_that_root_alone_may_read() {
    for (verb, user) in
        [("registry", 999_999_997), ("server", 999_999_998), ("ingress", 999_999_999)]
    {
        let stage = Stage::new();
        let Some(mut files) = Renewed::new(&stage, "box.example.com") else { return };
        let first = files.live("fullchain").display().to_string();
        let mut arguments = vec![verb.to_owned(), "--listen".to_owned(), "127.0.0.1:0".to_owned()];
        arguments.extend(files.flags());
        let mut running = Running::of(with_log(&stage.command(&arguments), &stage.path("log")));
        let refusals = || {
            let log = fs::read_to_string(stage.path("log")).expect("a log");
            log.matches("The certificate stays as it was: ").count()
        };
        let address = address_of(&running.line());
        eventually("it shows the first", || shows(&first, &address));
        // Two processes: the second one serves, and is no longer root where it was.
        let serving = stage.processes().into_iter().find(|(_, line)| line.contains("--parent"));
        let (serving, line) = serving.unwrap_or_else(|| panic!("{verb}: {:?}", stage.processes()));
        assert!(!line.contains("live/x"), "{line}");
        let owner = fs::metadata(format!("/proc/{serving}")).expect("a process").uid();
        if rustix::process::geteuid().is_root() {
            eventually("it has its user", || {
                let status = fs::read_to_string(format!("/proc/{serving}/status")).ok()?;
                status.contains(&format!("Uid:\t{user}\t")).then_some(())
            });
        } else {
            assert_eq!(owner, rustix::process::geteuid().as_raw());
        }

        let second = files.renew().expect("another one");
        eventually("it shows the second", || shows(&second, &address));
        // The key of one pair beside the certificate of another, as in the middle of a renewal.
        files.link("privkey", "archive/x/privkey1.pem");
        fs::write(stage.path("archive/x/junk.pem"), "no certificate").expect("written");
        files.link("fullchain", "archive/x/junk.pem");
        let third = files.stage.path("archive/x/fullchain3.pem").display().to_string();
        eventually("it is refused", || (refusals() > 0).then_some(()));
        assert!(shows(&second, &address).is_some(), "a bad pair changed what it shows");
        files.renew().expect("another one");
        eventually("it shows the third", || shows(&third, &address));
        running.signal("TERM");
        let said = running.end();
        assert_eq!(said.code, 0, "{verb}: {said:?}");
        // Once for each of the two files.
        assert!((1..=2).contains(&refusals()), "{verb}: {} refusals", refusals());
        stage.is_empty();
    }
}

#[test]
fn a_server_with_a_certificate_ends_with_the_code_of_the_process_that_serves() {
    let stage = Stage::new();
    let Some((chain, key)) = certificate(&stage, "box.example.com") else { return };
    let arguments = ["server", "--listen", "127.0.0.1:0", "--tls-cert", &chain, "--tls-key", &key];
    let mut first = stage.start(arguments);
    first.line();
    eventually("it has its store", || {
        stage.home().join("server/server.sock").exists().then_some(())
    });
    let err = stage.margay(arguments).fails(1);
    assert!(err.contains("in use by another process") && !err.contains("ended by"), "{err}");
    // Without the first process the second one ends as well.
    first.signal("KILL");
    first.end();
    stage.is_empty();
}

#[test]
fn the_control_plane_shows_its_certificate_to_clients_that_call_its_name() {
    let stage = Stage::new();
    let Some((chain, key)) = certificate(&stage, "api.example.com") else { return };
    let up = Up::start_with(&stage, &["--tls-cert", &chain, "--tls-key", &key]);
    let address = record(&stage)["server"].as_str().expect("an address").to_owned();
    let health = |authority: &str, name: &str| curl(authority, name, &address, "/v1/health");
    eventually("its own name", || {
        health(&chain, "api.example.com").starts_with("HTTP/1.1 200").then_some(())
    });
    // Parts of the platform and holders of a credential trust the platform's authority alone.
    let authority = stage.home().join("server/ca.pem").display().to_string();
    for (authority, name, answers) in [
        (&authority, "control.margay", true),
        (&authority, "localhost", true),
        (&chain, "control.margay", false),
        (&authority, "api.example.com", false),
    ] {
        let said = health(authority, name);
        assert_eq!(said.starts_with("HTTP/1.1 200"), answers, "{name}: {said}");
    }
    let other = Stage::new();
    let credential = other.write("ci.json", stage.margay(["credential", "create", "ci"]).ok());
    let credential = credential.display().to_string();
    other.margay(["cluster", "create", "far", "--credential", &credential]).ok();
    let nodes = stage.margay(["node", "ls"]).ok();
    assert!(nodes.contains("local") && nodes.contains("ready"), "{nodes}");
    // TLS 1.2 is not spoken there.
    let old = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--tls-max", "1.2", "--cacert", &chain])
        .args(["--connect-to", &format!("api.example.com:443:{address}")])
        .arg("https://api.example.com/v1/health")
        .output()
        .expect("curl");
    assert!(!old.status.success(), "{old:?}");
    up.end();
    stage.is_empty();
}
