//! Credentials of the control plane and robot accounts of the registry: made, used, rotated,
//! removed.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::{
    images::build,
    stage::{Stage, eventually},
    up::Up,
};

fn secret(file: &Path) -> String {
    let credential: Value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON");
    credential["secret"].as_str().expect("a secret").to_owned()
}

#[test]
fn a_credential_is_made_used_rotated_and_removed() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    let made =
        stage.margay(["credential", "create", "ci", "--scope", "deploy", "--expires", "30d"]);
    assert!(made.err.contains("shown this once"), "{}", made.err);
    let file = stage.write("ci.json", made.ok());
    let other = Stage::new();
    let file = file.display().to_string();
    let with =
        |arguments: &[&str]| other.margay([arguments, &["--credential", file.as_str()]].concat());
    assert_eq!(with(&["cluster", "create", "remote"]).ok(), "remote\n");
    let err = with(&["credential", "create", "more"]).fails(1);
    assert!(
        err.contains("hint: credential `ci` has the scope `deploy`, and this needs `manage`"),
        "{err}"
    );
    let err = with(&["secret", "create", "key", &file]).fails(1);
    assert!(err.contains("this credential may not do that"), "{err}");
    let listed = stage.margay(["credential", "ls"]).ok();
    assert!(listed.contains("ci") && listed.contains("deploy"), "{listed}");
    assert!(!listed.contains(&secret(Path::new(&file))), "{listed}");
    let err = stage.margay(["credential", "create", "ci"]).fails(1);
    assert!(err.contains("a credential `ci` is there already"), "{err}");
    stage.margay(["credential", "create", "x", "--expires", "400d"]).fails(1);
    stage.margay(["credential", "create", "x", "--scope", "root"]).fails(2);

    let rotated = stage.margay(["credential", "rotate", "ci"]).ok();
    let err = with(&["cluster", "ls"]).fails(1);
    assert!(err.contains("has another secret"), "{err}");
    fs::write(&file, rotated).expect("written");
    assert!(with(&["cluster", "ls"]).ok().contains("remote"));
    stage.margay(["credential", "rm", "ci"]).ok();
    with(&["cluster", "ls"]).fails(1);
    let err = stage.margay(["credential", "rm", "ci"]).fails(1);
    assert!(err.contains("there is no credential `ci`"), "{err}");

    // One that may manage gives itself another secret, in its own file.
    let own = stage.write("own.json", stage.margay(["credential", "create", "own"]).ok());
    let before = secret(&own);
    let own_path = own.display().to_string();
    let rotate = ["credential", "rotate", "own", "--credential", own_path.as_str()];
    assert_eq!(other.margay(rotate).ok(), "own\n");
    assert_ne!(secret(&own), before);
    other.margay(["cluster", "ls", "--credential", own_path.as_str()]).ok();
    // The operator's, which the control plane keeps itself.
    let operator = stage.home().join("server/credential.json");
    let before = secret(&operator);
    stage.margay(["credential", "rotate", "operator"]).ok();
    assert_ne!(secret(&operator), before);
    up.end();
    stage.is_empty();
}

#[test]
fn a_robot_account_logs_in_and_ends_with_its_user() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    build(&stage, "hello").ok();
    let image = format!("{}/me/hello:v1", up.registry);
    stage.margay(["tag", "hello", &image]).ok();
    let robot = |arguments: &[&str]| {
        let all = [&["registry", "robot"], arguments].concat();
        stage.margay(all)
    };
    let pusher = robot(&["add", "me+ci", "--scope", "push"]).ok();
    let puller = robot(&["add", "me+cd", "--repository", "me/hello", "--expires", "7d"]).ok();
    let log_in = |stage: &Stage, login: &str, secret: &str| {
        stage.margay_fed(["login", "-u", login, "--password-stdin", &up.registry], secret)
    };
    let (one, two) = (Stage::new(), Stage::new());
    for stage in [&one, &two] {
        build(stage, "hello").ok();
        stage.margay(["tag", "hello", &image]).ok();
    }
    log_in(&one, "me+ci", &pusher).ok();
    one.margay(["push", &image]).ok();
    log_in(&two, "me+cd", &puller).ok();
    two.margay(["pull", &image]).ok();
    let err = two.margay(["push", &format!("{}/me/hello:v2", up.registry)]).fails(1);
    assert!(!err.is_empty());
    let listed = robot(&["ls"]).ok();
    assert!(listed.contains("me+cd") && listed.contains("me/hello"), "{listed}");
    assert!(!listed.contains(puller.trim()), "{listed}");
    // Clients of others, as the pipelines that robots are for have them.
    podman_pulls(&up.registry, "me+cd", puller.trim());
    robot(&["rm", "me+cd"]).ok();
    log_in(&two, "me+cd", &puller).fails(1);
    two.margay(["pull", &image]).fails(1);

    for (name, password) in [("you", "a fine password\n"), ("her", "a good password\n")] {
        let add = ["registry", "user", "add", name, "--password-stdin"];
        stage.margay_fed(add, password).ok();
        stage.margay_fed(add, password).fails(1);
    }
    let passwd = ["registry", "user", "passwd", "you", "--password-stdin"];
    stage.margay_fed(passwd, "another password\n").ok();
    log_in(&two, "you", "a fine password\n").fails(1);
    log_in(&two, "you", "another password\n").ok();
    let yours = format!("{}/you/hello:v1", up.registry);
    two.margay(["tag", "hello", &yours]).ok();
    two.margay(["push", &yours]).ok();
    let err = stage.margay(["registry", "user", "rm", "you"]).fails(1);
    assert!(err.contains("`you` owns `you/hello`"), "{err}");
    stage.margay(["registry", "user", "rm", "you", "--transfer-to", "her"]).ok();
    log_in(&two, "you", "another password\n").fails(1);
    assert!(stage.margay(["registry", "ls"]).ok().contains("her/hello"));
    stage.margay(["registry", "user", "rm", "her", "--delete-repositories"]).ok();
    assert!(!stage.margay(["registry", "ls"]).ok().contains("her/hello"));
    up.end();
    stage.is_empty();
}

/// Needs podman, which `tests/run` installs; without it this is skipped, and says so.
fn podman_pulls(registry: &str, login: &str, secret: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let podman = |arguments: &[&str]| {
        std::process::Command::new("podman")
            .args(arguments)
            .env("REGISTRY_AUTH_FILE", folder.path().join("auth.json"))
            .output()
    };
    let log_in = ["login", "--tls-verify=false", "-u", login, "-p", secret, registry];
    match podman(&log_in) {
        Err(error) => println!("skipped: podman does not start: {error}"),
        Ok(output) => {
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "podman login: {err}");
        }
    }
}

#[test]
fn guesses_of_a_password_are_limited_and_lock_no_other_address_out() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    let password = fs::read_to_string(stage.home().join("registry/password")).expect("a password");
    let log_in = |password: &str| {
        stage.margay_fed(["login", "-u", "me", "--password-stdin", &up.registry], password)
    };
    for _ in 0..10 {
        log_in("a wrong guess").fails(1);
    }
    let err = log_in(&password).fails(1);
    assert!(err.contains("too many"), "{err}");
    // From another address of this machine the same name logs in.
    let port = up.registry.rsplit_once(':').expect("a port").1;
    eventually("another address logs in", || {
        let basic = BASE64_STANDARD.encode(format!("me:{}", password.trim()));
        let answer = from_address("127.0.0.2:0", &format!("127.0.0.1:{port}"), &basic);
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    up.end();
    stage.is_empty();
}

/// The answer to a login whose connection comes from `local`.
fn from_address(local: &str, registry: &str, basic: &str) -> String {
    use std::io::{Read as _, Write as _};
    let local: std::net::SocketAddr = local.parse().expect("an address");
    let remote: std::net::SocketAddr = registry.parse().expect("an address");
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    rustix::net::bind(&socket, &local).expect("an address of this machine");
    rustix::net::connect(&socket, &remote).expect("the registry");
    let mut stream = std::net::TcpStream::from(socket);
    let request = format!(
        "GET /token HTTP/1.1\r\nhost: x\r\nauthorization: Basic {basic}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// A refusal comes before the body is read: a client that is still sending gets to read it.
#[test]
fn a_refusal_is_read_by_a_client_that_sends_a_long_body() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    let made = ["credential", "create", "reader", "--tenant", "acme", "--scope", "read"];
    let credential = stage.write("reader.json", stage.margay(made).ok()).display().to_string();
    let definition = format!(
        "family = \"long\"\n[[containers]]\nname = \"app\"\nimage = \"{}/me/cats:v1\"\n\
         env = {{ A = \"{}\" }}\n",
        up.registry,
        "x".repeat(900 << 10)
    );
    let definition = stage.write("long.toml", definition).display().to_string();
    for _ in 0..5 {
        let err =
            stage.margay(["task", "register", &definition, "--credential", &credential]).fails(1);
        assert!(err.contains("this credential may not do that"), "{err}");
    }
    up.end();
    stage.is_empty();
}
