//! Linux images: the same verbs, another wall. They need root, an OCI runtime and a static busybox; without, each journey
//! says that it did not run.

use std::{os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::stage::{Stage, eventually, get, samples};

const BUSYBOX: &str = "/bin/busybox";

/// Whether Linux images can run here. Says why not.
fn ready() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !["/usr/sbin/runc", "/usr/bin/runc", "/usr/bin/crun"].iter().any(|path| Path::new(path).exists()) {
        "no OCI runtime: apt-get install runc"
    } else if !Path::new(BUSYBOX).exists() {
        "no static busybox: apt-get install busybox-static"
    } else {
        return true;
    };
    println!("SKIPPED: no Linux image was run: {why}");
    false
}

/// Builds the page of the cats on busybox, with `last` as the end of its Dockerfile.
fn build(stage: &Stage, tag: &str, last: &str) {
    let root = stage.path("rootfs");
    if !root.exists() {
        for folder in ["bin", "etc", "srv/www"] {
            std::fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox");
        for applet in ["sh", "cat", "echo", "httpd", "sleep", "touch", "hostname"] {
            symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        stage.write("rootfs/etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
        std::fs::copy(samples().join("cats/www/index.html"), root.join("srv/www/index.html")).expect("the page");
    }
    stage.write("Dockerfile", format!("FROM scratch\nCOPY rootfs/ /\n{last}\n"));
    stage.margay(["build", "-t", tag, "."]).ok();
}

const CATS: &str = "EXPOSE 80\nCMD [\"/bin/busybox\", \"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/srv/www\"]";

fn published(stage: &Stage, name: &str) -> Option<String> {
    let list: Value = serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).ok()?;
    let task = list.as_array()?.iter().find(|task| task["name"] == name)?;
    let port = task["ports"][0]["host_port"].as_u64()?;
    (task["state"] == "running").then(|| format!("127.0.0.1:{port}"))
}

#[test]
fn a_linux_image_runs_a_command_and_passes_its_exit_code() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "busybox-cats:native", CATS);
    let run = |line: &str| stage.margay(["run", "--rm", "busybox-cats:native", "/bin/sh", "-c", line]);
    assert_eq!(run("echo hi").ok(), "hi\n");
    let said = run("echo out; echo err >&2; exit 7");
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7), "{}", said.err);
    assert!(said.err.contains("err\n"), "{}", said.err);
    // The first process of a container cannot kill itself: Linux ignores that.
    assert_eq!(run("/bin/sh -c 'kill -9 $$'; exit $?").code, 137);
    assert_eq!(run("touch /x || echo read-only").ok(), "read-only\n");
    let fed = stage.margay_fed(["run", "-i", "--rm", "busybox-cats:native", "cat"], "meow\n").ok();
    assert_eq!(fed, "meow\n");
    let said = stage.margay(["run", "--rm", "-e", "NAME=Tom", "busybox-cats:native", "/bin/sh", "-c", "echo $NAME"]);
    assert_eq!(said.ok(), "Tom\n");
    stage.is_empty();
}

#[test]
fn a_linux_image_serves_the_cats_in_the_background() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    stage.margay(["run", "-d", "-p", "0:80", "--name", "tom", "native-cats"]).ok();
    let address = eventually("tom has a port", || published(&stage, "tom"));
    let page = eventually("tom answers", || get(&address, "localhost", "/"));
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("<html"), "{}", page.head);
    assert_eq!(stage.margay(["stop", "--time", "1", "tom"]).ok(), "tom\n");
    assert!(get(&address, "localhost", "/").is_none());
    assert_eq!(stage.margay(["rm", "tom"]).ok(), "tom\n");
    stage.is_empty();
}

#[test]
fn a_linux_image_in_a_docker_archive_runs() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    stage.margay(["save", "-o", "cats.tar", "native-cats"]).ok();
    let said = stage.margay(["run", "--rm", "./cats.tar", "/bin/echo", "from a tar"]);
    assert_eq!(said.ok(), "from a tar\n");
    stage.is_empty();
}

#[test]
fn a_linux_image_without_an_oci_runtime_says_what_to_install() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    let output =
        stage.command(["run", "--rm", "native-cats"]).env("PATH", "/nonexistent").output().expect("margay runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{err}");
    assert!(err.contains("no OCI runtime is installed") && err.contains("apt-get install runc"), "{err}");
    stage.is_empty();
}

#[test]
fn a_linux_program_that_is_not_there_or_eats_too_much_is_named() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    let err = stage.margay(["run", "--rm", "native-cats", "/bin/dog"]).fails(125);
    assert!(err.contains("/bin/dog"), "{err}");
    let hog = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];
    let err = stage.margay(["run", "--rm", "-m", "32m", "native-cats"].iter().chain(&hog)).fails(137);
    assert!(err.contains("E_MEMORY") && err.contains("oom"), "{err}");
    let err = stage.margay(["run", "--rm", "--allow", "net.out:https://example.com", "native-cats"]).fails(125);
    assert!(err.contains("cannot be granted `net.out:https://example.com:443`"), "{err}");
    stage.is_empty();
}
