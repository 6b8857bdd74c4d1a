//! Homes that cannot be used, and disks without room.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::stage::{Stage, samples};

/// A small disk of its own, as long as it lives. Needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m,mode=0700", "none"]).arg(&path);
        mount.stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(path))
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("fill")).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_without_room_is_named_and_what_is_there_can_be_listed() {
    let stage = Stage::new();
    let Some(disk) = SmallDisk::at(stage.home()) else {
        println!("SKIPPED: a small disk takes root");
        return;
    };
    disk.fill();
    // Nothing was kept in this home yet, and nothing can be.
    for line in ["ps -a", "images", "volume ls"] {
        stage.margay(line.split(' ')).ok();
    }
    // Room for the image, and none for its machine code.
    let fill = fs::File::options().write(true).open(disk.0.join("fill")).expect("a file");
    let length = fill.metadata().expect("metadata").len();
    fill.set_len(length - (180 << 10)).expect("shorter");
    let hello = samples().join("hello/hello.wasm").display().to_string();
    let err = stage.margay(["run", "--rm", &hello]).fails(125);
    assert!(err.contains("No space left on device"), "{err}");
    assert!(err.contains("hint: the disk is full: make room"), "{err}");
    drop(disk);
    stage.is_empty();
}

/// What makes room works without any.
#[test]
fn room_can_be_made_on_a_full_disk() {
    let stage = Stage::new();
    let Some(disk) = SmallDisk::at(stage.home()) else {
        println!("SKIPPED: a small disk takes root");
        return;
    };
    let hello = samples().join("hello/hello.wasm").display().to_string();
    let httpd = samples().join("httpd").display().to_string();
    stage.margay(["build", "-q", "-t", "page", &httpd]).ok();
    for name in ["one", "two", "three"] {
        stage.margay(["run", "-d", "--name", name, "-p", "127.0.0.1:0:80", "page"]).ok();
    }
    disk.fill();
    let err = stage.margay(["run", "--rm", &hello]).fails(125);
    assert!(err.contains("hint: the disk is full: make room"), "{err}");
    let err = stage.margay(["up", "--server-port", "0", "--registry-port", "0"]).fails(1);
    assert!(err.contains("hint: the disk is full: make room"), "{err}");
    for line in ["stop -t 1 one", "rm one", "kill two", "rm two", "rm -f three", "rmi page"] {
        stage.margay(line.split(' ')).ok();
    }
    assert_eq!(stage.margay(["ps", "-aq"]).ok(), "");
    stage.margay(["system", "prune", "-f"]).ok();
    stage.margay(["run", "--rm", &hello]).ok();
    drop(disk);
    stage.is_empty();
}

#[test]
fn a_home_that_cannot_be_used_is_named_with_the_next_step() {
    let stage = Stage::new();
    let file = stage.write("file", "");
    for (home, message) in [
        (file.display().to_string(), "cannot make the folder"),
        ("/proc/none".into(), "`/proc/none`"),
    ] {
        let err = stage.margay(["--home", &home, "images"]).fails(1);
        assert!(err.contains(message) && err.contains("MARGAY_HOME=FOLDER"), "{home}: {err}");
    }
    // An empty variable is none.
    let mut command = stage.command(["completions", "bash"]);
    command.env("MARGAY_HOME", "");
    assert!(command.output().expect("margay runs").status.success());
}
