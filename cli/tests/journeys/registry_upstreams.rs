//! Registries whose images are fetched when they are pulled, from the command line to clients.

use std::process::Command;

use crate::{
    registry_admin::{Apart, check},
    stage::Stage,
};

#[test]
fn images_of_an_upstream_are_pulled_by_name_and_kept_when_it_is_gone() {
    let (far, near) = (Stage::new(), Stage::new());
    let origin = Apart::with_images(&far);
    let cache = Apart::start(&near);
    far.margay(["registry", "visibility", "me/cats", "public"]).ok();
    let url = format!("http://{}", origin.address);
    let image = format!("{}/hub/me/cats:hello", cache.address);
    for (line, code, want) in [
        ("upstream ls", 0, "UPSTREAM"),
        ("upstream rm hub", 1, "there is no upstream `hub`"),
        ("upstream create hub docker.io", 1, "is not the URL of a registry: https://HOST[:PORT]"),
        ("upstream create hub https://ghcr.io/acme", 1, "is not the URL of a registry"),
        (&*format!("upstream create hub {url}"), 1, "--private allows it"),
        ("upstream create Hub https://ghcr.io", 2, "Hub"),
        ("upstream create hub https://ghcr.io --match A", 1, "`A` is no pattern of repositories"),
        ("upstream create hub https://ghcr.io --ttl soon", 2, "soon"),
        ("upstream create hub https://ghcr.io --username me", 2, "--password-stdin"),
        (&*format!("upstream create hub {url} --private --match me/*"), 0, "hub"),
        ("upstream ls", 0, "me/*"),
        ("org ls", 0, "hub"),
    ] {
        check(&near, line, code, want);
    }
    let denied = near.margay(["pull", &image]).fails(1);
    assert!(denied.contains("wants a login"), "{denied}");
    check(&near, &format!("upstream create hub {url} --private --public"), 0, "hub");
    near.margay(["pull", &image]).ok();
    near.margay(["run", "--rm", &image]).ok();
    check(&near, "tag ls hub/me/cats", 0, "hello");
    let metrics = near.margay(["registry", "metrics"]).ok();
    let counted = r#"margay_registry_upstream_requests_total{upstream="hub",result="miss"}"#;
    assert!(metrics.lines().any(|line| line.starts_with(counted)), "{metrics}");
    podman_pulls(&image);
    origin.end();
    near.margay(["rmi", &image]).ok();
    near.margay(["pull", &image]).ok();
    let gone = near.margay(["pull", &format!("{}/hub/me/cats:httpd", cache.address)]).fails(1);
    assert!(gone.contains("upstream `hub`"), "{gone}");
    check(&near, "upstream ls", 0, "cannot reach the registry");
    check(&near, "upstream rm hub", 0, "hub");
    near.margay(["pull", &image]).ok();
    check(&near, "org rm hub --delete-repositories", 0, "hub");
    near.margay(["pull", &image]).fails(1);
    cache.end();
}

/// Needs podman, which `tests/run` installs; without it this is skipped, and says so.
fn podman_pulls(image: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().display().to_string();
    let storage = ["--root", &root, "--runroot", &root, "--storage-driver", "vfs"];
    let podman = |arguments: &[&str]| Command::new("podman").args(storage).args(arguments).output();
    match podman(&["pull", "--tls-verify=false", image]) {
        Err(error) => println!("SKIPPED: podman does not start: {error}"),
        Ok(output) => {
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "podman pull: {err}");
        }
    }
}
