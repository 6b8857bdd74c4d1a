//! Login, push and pull.

use crate::{
    http::outside,
    images::build,
    stage::{Stage, samples},
    up::{Up, record},
};

#[test]
fn an_image_goes_to_the_registry_and_comes_back_elsewhere() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    build(&stage, "hello").ok();
    let image = format!("{}/me/hello:v1", up.registry);
    stage.margay(["tag", "hello", &image]).ok();

    let err = stage.margay(["push", &image]).fails(1);
    assert!(
        err.contains("wants a login") && err.contains("hint: log in first: margay login -u "),
        "{err}"
    );
    let err = stage
        .margay_fed(["login", "-u", "me", "--password-stdin", &up.registry], "wrong\n")
        .fails(1);
    let want =
        format!("error: the registry at `{}` does not accept that password for `me`", up.registry);
    assert!(err.starts_with(&want), "{err}");
    assert_eq!(stage.margay(["login", "-u", "me", &up.registry]).ok(), "Login Succeeded\n");

    let pushed = stage.margay(["push", &image]).ok();
    assert!(pushed.starts_with(&format!("{image}@sha256:")), "{pushed}");
    let again = stage.margay(["push", &image]);
    assert!(again.err.contains("already there"), "{}", again.err);

    // Another home of the same machine: its own login, the same digest, also pinned and run in one
    // go.
    let other = Stage::new();
    let err = other.margay(["pull", &image]).fails(1);
    assert!(err.contains("hint: "), "{err}");
    let password =
        std::fs::read_to_string(stage.home().join("registry/password")).expect("a password");
    other.margay_fed(["login", "-u", "me", "--password-stdin", &up.registry], &password).ok();
    assert_eq!(other.margay(["pull", &image]).ok(), pushed);
    assert_eq!(other.margay(["run", &image]).ok(), "hello from margay\n");
    let digest = pushed.trim().rsplit_once('@').expect("a digest").1;
    let pinned = format!("{}/me/hello@{digest}", up.registry);
    let err = other.margay(["rmi", &image]).fails(1);
    assert!(err.contains("was made from image"), "{err}");
    other.margay(["rmi", "--force", &image]).ok();
    assert_eq!(other.margay(["run", &pinned]).ok(), "hello from margay\n");

    // A second user sees nothing of the first one's until it is public.
    let added = stage
        .margay_fed(["registry", "user", "add", "you", "--password-stdin"], "a fine password\n");
    added.ok();
    let other = Stage::new();
    other
        .margay_fed(["login", "-u", "you", "--password-stdin", &up.registry], "a fine password\n")
        .ok();
    other.margay(["pull", &image]).fails(1);
    stage.margay(["registry", "visibility", "me/hello", "public"]).ok();
    other.margay(["pull", &image]).ok();
    other.margay(["tag", &image, &format!("{}/me/other:v1", up.registry)]).ok();
    other.margay(["push", &format!("{}/me/other:v1", up.registry)]).fails(1);

    assert_eq!(
        stage.margay(["logout", &up.registry]).ok(),
        format!("Removed the login for {}\n", up.registry)
    );
    up.end();
    stage.is_empty();
}

/// skopeo and podman of Debian; crane, oras and regctl of the Go module registry, where `tests/run`
/// has built them. One that is not installed is named in the script's output and skipped.
#[test]
fn common_oci_clients_move_images_unchanged() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    clients(&stage, "clients.sh", &up.registry, &[]);
    up.end();
    stage.is_empty();
}

/// With the platform's authority in the folders where these clients look for it.
#[test]
fn docker_podman_and_skopeo_move_images_over_tls_and_as_robots_that_end() {
    let Some(address) = outside() else { return };
    let stage = Stage::new();
    let up = Up::start_with(&stage, &["--listen", &address.to_string()]);
    let registry = record(&stage)["registry"].as_str().expect("an address").to_owned();
    let authority = stage.home().join("server/ca.pem").display().to_string();
    clients(&stage, "clients-tls.sh", &registry, &[&authority]);
    up.end();
    stage.is_empty();
}

/// Runs a script of `registry/` as the first user.
fn clients(stage: &Stage, script: &str, registry: &str, more: &[&str]) {
    let password =
        std::fs::read_to_string(stage.home().join("registry/password")).expect("a password");
    let built = std::env::var("MARGAY_TEST_CLIENTS").unwrap_or_default();
    let path = format!("{built}:{}", std::env::var("PATH").unwrap_or_default());
    let output = std::process::Command::new("bash")
        .arg(samples().join("../registry").join(script))
        .args([registry, "me", password.trim()])
        .args(more)
        .env("PATH", path)
        .env("MARGAY", env!("CARGO_BIN_EXE_margay"))
        .env("MARGAY_HOME", stage.home())
        .output()
        .expect("bash");
    let (out, err) = (&output.stdout, &output.stderr);
    println!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "a client failed");
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let stage = Stage::new();
    build(&stage, "hello").ok();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    drop(taken);
    let image = format!("localhost:{port}/me/hello:v1");
    stage.margay(["tag", "hello", &image]).ok();
    let err = stage.margay(["push", &image]).fails(1);
    assert!(err.contains(&format!("cannot reach the registry at `localhost:{port}`")), "{err}");
    assert!(err.contains("hint: is it running"), "{err}");
    let err = stage.margay(["push", "hello"]).fails(1);
    assert!(err.starts_with("error: `hello:latest` names no registry"), "{err}");
}
