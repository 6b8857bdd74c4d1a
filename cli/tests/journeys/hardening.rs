//! What each process of a platform may, and what one that was taken over gets.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
    time::Duration,
};

use http::{Method, StatusCode};
use net::{ApiClient, ApiRequest, tls};
use serde_json::Value;

use crate::{
    stage::{Running, Stage, eventually, get},
    up::{HOST, UP, Up, page_is_served, pid_of, record, serve_cats},
};

const CONTROL_PLANE: u32 = 999_999_998;
/// The users of the servers.
const USERS: [(&str, u32); 3] =
    [("registry", 999_999_997), ("server", CONTROL_PLANE), ("ingress", 999_999_999)];
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
/// SYS_CHROOT, SYS_PTRACE, SYS_ADMIN, SETFCAP: the table of SECURITY.md.
const AGENT: [u32; 13] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 19, 21, 31];

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: users of their own take root");
    }
    root
}

/// A platform that serves the page of the cats.
fn serving() -> (Stage, Up) {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    (stage, up)
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).trim().to_owned()
}

/// Waits until a process has given up what it does not need: the last is its system calls. Clients
/// wait in its queue meanwhile, and nothing of theirs is read before.
fn confined(pid: i32) {
    eventually("it is confined", || (status(pid, "Seccomp") == "2").then_some(()));
}

#[test]
fn each_process_has_what_it_needs_and_no_more() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    stage.write("stray", "left open");
    // A shell that left a descriptor and a secret behind.
    let inner = stage.command(UP);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec 9<stray; exec \"$0\" \"$@\""]).arg(inner.get_program());
    shell.args(inner.get_args()).current_dir(stage.path("")).env_clear();
    shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("CLOUD_TOKEN", "canary");
    let up = Up::run(&stage, shell);
    let agent = AGENT.iter().fold(0, |mask, number| mask | 1_u64 << number);
    for (name, user) in USERS {
        let pid = up.pid(&stage, name);
        confined(pid);
        for id in ["Uid", "Gid"] {
            assert_eq!(status(pid, id), format!("{user}\t{user}\t{user}\t{user}"), "{name} {id}");
        }
        assert_eq!(status(pid, "Groups"), "", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), "0".repeat(16), "{name} {set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1", "{name}");
        // Of the home it sees its own folder.
        let home = format!("/proc/{pid}/root{}", stage.home().display());
        let seen: Vec<_> = fs::read_dir(home).expect("a home").flatten().collect();
        let seen: Vec<_> = seen.iter().map(|entry| entry.file_name()).collect();
        assert_eq!(seen, [name], "{name}");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core")).expect("a limit");
        assert!(core.split_whitespace().eq(["Max", "core", "file", "size", "0", "0", "bytes"]));
    }
    for pid in [up.pid(&stage, "node"), record(&stage)["pid"].as_i64().unwrap() as i32] {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(pid, set), format!("{agent:016x}"), "{set}");
        }
    }
    for name in ["registry", "server", "ingress", "node"] {
        let pid = up.pid(&stage, name);
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("an environment");
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let mut names: Vec<_> =
            environment.split('\0').filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["MARGAY_HOME", "PATH"], "{name}");
        let held = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
        let stray = held.filter_map(|fd| fs::read_link(fd.path()).ok());
        assert!(!stray.into_iter().any(|path| path.ends_with("stray")), "{name}");
    }
    up.end();
    stage.is_empty();
}

/// A client with the key that the ingress has.
fn as_ingress(folder: &Path, address: &str) -> ApiClient {
    let text = fs::read(folder.join("ingress.json")).expect("its identity");
    let identity: Value = serde_json::from_slice(&text).expect("JSON");
    let pem = |name: &str| identity[name].as_str().expect("PEM").to_owned();
    let roots = tls::roots(tls::certificates(&pem("ca_pem")).unwrap()).unwrap();
    let chain = tls::certificates(&pem("certificate_pem")).unwrap();
    let key = tls::private_key(&pem("key_pem")).unwrap();
    ApiClient::tls(address, tls::client(chain, key, roots).unwrap())
}

#[test]
fn what_the_ingress_holds_opens_nothing_but_routes() {
    if !is_root() {
        return;
    }
    let (stage, up) = serving();
    let folder = stage.home().join("ingress");
    eventually("it has a certificate", || folder.join("ingress.json").exists().then_some(()));

    // What lies there, sockets of tasks aside.
    let mut names: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = names.iter().map(fs::DirEntry::file_name).collect();
    let files = ["counts.json", "ingress.json", "routes.json", "waiting.json"];
    let all = [files[0], files[1], "inside.sock", files[2], "sockets", files[3]];
    assert_eq!(names, all);
    let node = fs::read_to_string(stage.home().join("node/identity.json")).expect("the node's");
    let node: Value = serde_json::from_str(&node).expect("JSON");
    let key = serde_json::to_string(&node["key_pem"]).expect("JSON");
    for file in files {
        let text = fs::read_to_string(folder.join(file)).expect("text");
        assert!(!text.contains(&key), "{file} has the node's key");
    }

    // Every route of the control plane, with its certificate.
    let address = record(&stage)["server"].as_str().expect("an address").to_owned();
    let client = as_ingress(&folder, &address);
    let ask = |method: Method, path: &str| {
        let request = ApiRequest::new(method, path, Duration::from_secs(20));
        let answer = client.exchange(request.json(&serde_json::json!({})));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(answer).map_err(|error| format!("{path}: {error}")).unwrap()
    };
    let (status, document) = ask(Method::GET, "/v1/openapi.json");
    assert_eq!(status, StatusCode::OK);
    let document: Value = serde_json::from_slice(&document).expect("JSON");
    let mut tried = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        // These take a secret in their body, or have none to tell.
        let open = ["/v1/health", "/v1/openapi.json", "/v1/access-tokens", "/v1/node/join"];
        let open = open.contains(&path.as_str());
        for method in methods.as_object().expect("methods").keys().filter(|_| !open) {
            let method: Method = method.to_uppercase().parse().expect("a method");
            // The tenant and the task that there are.
            let path = path.replace("{tenant}", "me").replace(['{', '}'], "");
            let (status, answer) = ask(method.clone(), &path);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {answer}");
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried} routes");

    // The registry, where it is no more than any other client.
    let registry = record(&stage)["registry"].as_str().expect("an address").to_owned();
    for path in ["/v2/_catalog", "/v2/me/cats/manifests/v1", "/v2/me/cats/tags/list"] {
        let answer = get(&registry, &registry, path).expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let shows_none = text.trim() == r#"{"repositories":[]}"#;
        assert!(answer.status == 401 || shows_none, "{path}: {} {text}", answer.status);
    }

    closed_to(&stage.home(), 999_999_999, &["node", "server", "registry", "key", "up.json"]);
    up.end();
    stage.is_empty();
}

/// What matters of each server.
const FILES: [&str; 12] = [
    "node/identity.json",
    "node/desired.json",
    "server/credential.json",
    "server/secret.key",
    "server/ca.key",
    "server/store.db",
    "server/server.sock",
    "registry/token.key",
    "registry/secret.key",
    "registry/password",
    "registry/registry.db",
    "registry/admin.sock",
];

/// Holds that `user` reads nothing of `folders`.
fn closed_to(home: &Path, user: u32, folders: &[&str]) {
    let below = FILES.iter().filter(|file| folders.iter().any(|folder| file.starts_with(folder)));
    let files = folders.iter().filter(|name| home.join(name).is_file());
    let mut tried = 0;
    for file in below.chain(files) {
        assert!(home.join(file).exists(), "{file} is there");
        let mut cat = Command::new("/bin/cat");
        let output = cat.arg(home.join(file)).uid(user).gid(user).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{file}");
        tried += 1;
    }
    assert!(tried > folders.len(), "{tried} files");
}

#[test]
fn the_control_plane_holds_its_own_folder_and_still_takes_back_the_tokens_of_a_node() {
    if !is_root() {
        return;
    }
    let (stage, up) = serving();
    closed_to(&stage.home(), CONTROL_PLANE, &["node", "registry", "ingress", "key", "up.json"]);
    // In what it sees, its own folder is all that there is to write to.
    let pid = up.pid(&stage, "server").to_string();
    let home = stage.home().display().to_string();
    let script = "for f in \"$0\" \"$0/server\" /tmp /var/tmp; do touch \"$f/x\" 2>/dev/null && \
                  echo \"$f\" && rm \"$f/x\"; done; ls \"$0\"";
    let mut inside = Command::new("/usr/bin/nsenter");
    inside.args(["-m", "-t", &pid, "--", "/usr/bin/setpriv", "--clear-groups"]);
    inside.args(["--reuid", "999999998", "--regid", "999999998", "/bin/sh", "-c", script, &home]);
    let output = inside.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Of its user the machine's folders for all are kept away by Landlock alone, which this shell
    // does not have.
    let said: Vec<_> = said.lines().filter(|line| !line.ends_with("/tmp")).collect();
    assert_eq!(said, [&format!("{home}/server"), "server"], "{output:?}");
    // Removing a node reaches the registry, whose folder is closed.
    stage.margay(["node", "rm", "--force", "local"]).ok();
    let revoked = eventually("the registry has recorded it", || {
        let lines = stage.margay(["audit", "--server", "registry", "--output", "json"]).ok();
        let lines: Value = serde_json::from_str(&lines).ok()?;
        let found = lines.as_array()?.iter().find(|line| {
            line["object"].as_str().is_some_and(|object| object.ends_with("/machines/local"))
        });
        found.cloned()
    });
    assert_eq!(revoked["principal"], "control-plane", "{revoked}");
    assert_eq!(revoked["status"], 204, "{revoked}");
    up.end();
    stage.is_empty();
}

#[test]
fn a_home_of_an_earlier_version_is_taken_over() {
    if !is_root() {
        return;
    }
    let (stage, up) = serving();
    up.end();
    // All of it was root's, and the ingress had the key of the node.
    let home = stage.home();
    for folder in ["registry", "server"] {
        let mut give = Command::new("/bin/chown");
        assert!(give.args(["-R", "0:0"]).arg(home.join(folder)).status().unwrap().success());
    }
    let of_the_node = home.join("ingress/identity.json");
    fs::copy(home.join("node/identity.json"), &of_the_node).expect("a copy");
    chown(&of_the_node, None, Some(999_999_999)).expect("a gift");
    fs::remove_file(home.join("ingress/ingress.json")).expect("there was one");
    for _ in 0..2 {
        let up = Up::start(&stage);
        eventually("the page is served", || page_is_served(&up));
        assert!(!of_the_node.exists(), "the ingress still has the key of the node");
        eventually("the ingress has its own", || {
            home.join("ingress/ingress.json").exists().then_some(())
        });
        assert!(stage.margay(["secret", "ls"]).code == 0);
        up.end();
    }
    for (folder, user, database) in
        [("registry", 999_999_997, "registry.db"), ("server", CONTROL_PLANE, "store.db")]
    {
        let owner = |path: &Path| fs::symlink_metadata(path).expect("it is there").uid();
        assert_eq!(owner(&home.join(folder)), user, "{folder}");
        assert_eq!(owner(&home.join(folder).join(database)), user, "{database}");
    }
    stage.is_empty();
}

#[test]
fn a_server_that_is_killed_comes_back_as_the_same_user_and_serves_what_it_served() {
    if !is_root() {
        return;
    }
    let (stage, up) = serving();
    for (name, user) in USERS {
        let before = up.pid(&stage, name);
        crate::stage::signal(before, "KILL");
        let now =
            eventually("it is started again", || pid_of(&stage, name).filter(|pid| *pid != before));
        eventually("it has its user", || {
            (status(now, "Uid").starts_with(&user.to_string())).then_some(())
        });
    }
    eventually("the page is served", || page_is_served(&up));
    eventually("the control plane answers", || {
        (stage.margay(["service", "ls", "--cluster", "allthecats"]).code == 0).then_some(())
    });
    let image = format!("{}/me/cats:v1", up.registry);
    eventually("the registry answers", || (stage.margay(["push", &image]).code == 0).then_some(()));
    up.end();
    stage.is_empty();
}

#[test]
fn an_ordinary_users_platform_is_confined_as_far_as_that_user_may() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let home = stage.home();
    fs::create_dir(&home).expect("a home");
    let user = 65534;
    let margay = stage.path("margay");
    fs::copy(env!("CARGO_BIN_EXE_margay"), &margay).expect("a copy");
    chown(&home, Some(user), Some(user)).expect("a gift");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(stage.path(""), open).expect("open");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&margay);
        command.args(arguments).env_clear().env("MARGAY_HOME", &home);
        command.current_dir(stage.path("")).uid(user).gid(user);
        command
    };
    let mut up = Running::of(command(&UP));
    let first = up.line();
    assert!(first.starts_with("margay is up"), "{first}: {:?}", up.end());
    for (name, _) in USERS {
        let pid = pid_of(&stage, name).expect("a process");
        confined(pid);
        assert_eq!(status(pid, "NoNewPrivs"), "1", "{name}");
        assert_eq!(status(pid, "CapEff"), "0".repeat(16), "{name}");
    }
    let ran = command(&["cluster", "create", "allthecats"]).output().expect("it runs");
    assert!(ran.status.success(), "{ran:?}");
    let ingress = record(&stage)["ingress"].as_str().expect("an address").to_owned();
    assert_eq!(get(&ingress, HOST, "/").map(|answer| answer.status), Some(404));
    up.signal("INT");
    assert_eq!(up.end().code, 0);
    stage.is_empty();
}
