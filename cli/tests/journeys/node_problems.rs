//! What is wrong with a node: seen, shown, and kept in mind when tasks are placed.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use crate::{
    stage::{Stage, eventually},
    up::{Up, page_is_served, serve_cats},
};

/// A file system of its own, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the rights for it.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "small"])
            .arg(&path)
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn problems(stage: &Stage, node: &str) -> Vec<String> {
    let shown: Value =
        serde_json::from_str(&stage.margay(["node", "inspect", node]).ok()).expect("JSON");
    let problems = shown[0]["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().filter_map(|found| Some(found["kind"].as_str()?.to_owned())).collect()
}

fn places(stage: &Stage) -> Vec<String> {
    let out = stage.margay(["task", "ls", "--cluster", "allthecats", "--output", "json"]).ok();
    let list: Value = serde_json::from_str(&out).expect("JSON");
    let tasks = list.as_array().expect("a list").iter();
    let running = tasks.filter(|task| task["status"]["phase"] == "running");
    running.map(|task| task["spec"]["node"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_node_whose_disk_is_full_gets_no_new_task() {
    let (stage, other) = (Stage::new(), Stage::new());
    let Some(disk) = SmallDisk::mount(other.home()) else {
        return eprintln!("not run: it takes root to mount a small disk");
    };
    let up = Up::start(&stage);
    let token = stage.margay(["node", "token"]).ok();
    let mut node = other.start(["node", "join", token.trim(), "--name", "second"]);
    assert_eq!(node.line(), "second");
    serve_cats(&stage, &up, 2);
    let two = || {
        let places = places(&stage);
        (places.len() == 2 && places.contains(&"second".to_owned())).then_some(())
    };
    eventually("one of two replicas is on each node", two);
    assert!(!problems(&stage, "second").contains(&"disk-pressure".to_owned()));
    let row = |stage: &Stage| {
        let out = stage.margay(["node", "ls"]).ok();
        out.lines().find(|line| line.starts_with("second")).expect("a row").to_owned()
    };
    assert!(row(&stage).contains(env!("CARGO_PKG_VERSION")), "{}", row(&stage));

    // Up to the last megabyte.
    let ballast = other.home().join("ballast");
    let (mut bytes, mut file) = (Vec::new(), fs::File::create(&ballast).expect("a file"));
    bytes.resize(1 << 20, 0);
    while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
    drop(file);
    let room = fs::File::options().write(true).open(&ballast).expect("the file");
    let size = room.metadata().expect("a size").len();
    room.set_len(size.saturating_sub(1 << 20)).expect("room for what is written beside it");
    drop(room);
    eventually("it says so", || {
        problems(&stage, "second").contains(&"disk-pressure".to_owned()).then_some(())
    });
    assert!(row(&stage).contains("ready,disk-pressure"), "{}", row(&stage));
    let explained = stage.margay(["explain", "node", "second"]).ok();
    assert!(explained.contains("it takes no new task"), "{explained}");
    stage.margay(["service", "scale", "cats", "4", "--cluster", "allthecats"]).ok();
    eventually("four run", || (places(&stage).len() == 4).then_some(()));
    let there = places(&stage).iter().filter(|node| *node == "second").count();
    assert_eq!(there, 1, "it keeps what it had, and got nothing");
    page_is_served(&up).expect("the page");

    fs::remove_file(&ballast).expect("it goes");
    eventually("it is well again", || {
        (!problems(&stage, "second").contains(&"disk-pressure".to_owned())).then_some(())
    });
    stage.margay(["service", "scale", "cats", "6", "--cluster", "allthecats"]).ok();
    eventually("it gets tasks again", || {
        let places = places(&stage);
        let there = places.iter().filter(|node| *node == "second").count();
        (places.len() == 6 && there == 3).then_some(())
    });
    node.signal("INT");
    node.end();
    up.end();
    drop(disk);
    stage.is_empty();
    other.is_empty();
}
