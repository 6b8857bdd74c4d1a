//! Tasks of an ordinary user, each as a user of its own from that user's subordinate ids.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, samples, signal},
    up::{UP, Up, page_is_served, serve_cats},
};

pub const BOB: u32 = 1000;
pub const FIRST: u32 = 300_000;
pub const COUNT: u32 = 65_536;
/// In `/etc/subuid` and `/etc/subgid`.
pub const RANGE: &str = "bob:300000:65536";
/// What `setpriv` makes of him besides his user.
pub const GROUP: &str = "--regid=1000";
const PROGRAMS: [&str; 3] = ["/usr/bin/newuidmap", "/usr/bin/setpriv", "/usr/bin/unshare"];

/// A home of bob's, an ordinary user with this `range` in files that his processes alone see. None
/// where that cannot be tried.
pub fn bob(range: &str, setpriv: &str) -> Option<Stage> {
    let root = rustix::process::geteuid().is_root();
    if !root || PROGRAMS.iter().any(|program| !Path::new(program).exists()) {
        println!("SKIPPED: subordinate ids take root, and newuidmap of Debian's uidmap");
        return None;
    }
    let mut stage = Stage::new();
    let own = fs::read_to_string("/etc/passwd").expect("passwd");
    let others = own.lines().filter(|line| line.split(':').nth(2) != Some("1000"));
    let users = others.chain(["bob:x:1000:1000::/:/bin/sh"]).collect::<Vec<_>>().join("\n");
    let mut script = String::new();
    for (name, text) in [("passwd", users.as_str()), ("subuid", range), ("subgid", range)] {
        let file = stage.write(&format!("etc/{name}"), format!("{text}\n"));
        script += &format!("mount --bind {} /etc/{name} && ", file.display());
    }
    let margay = stage.path("margay");
    fs::copy(env!("CARGO_BIN_EXE_margay"), &margay).expect("a binary that he may read");
    fs::set_permissions(stage.path(""), Permissions::from_mode(0o755)).expect("his");
    chown(stage.path(""), Some(BOB), Some(BOB)).expect("his");
    script += "exec setpriv --reuid=1000 --clear-groups ";
    script += &format!("{setpriv} {} \"$@\"", margay.display());
    stage.start_by(["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec());
    Some(stage)
}

pub fn pid_of(bob: &Stage, task: &str) -> i32 {
    let said = bob.margay(["inspect", task]).ok();
    let found: Value = serde_json::from_str(&said).expect("JSON");
    let pid = found[0]["seen"]["process"]["pid"].as_i64();
    pid.unwrap_or_else(|| panic!("{said}")).try_into().expect("a pid")
}

/// The numbers of a line of `/proc/PID/status`.
fn numbers(pid: i32, name: &str) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let words = line.unwrap_or_else(|| panic!("no {name}: {text}")).split_whitespace();
    words.map(|word| word.parse().expect("a number")).collect()
}

/// The user of a worker: its real, effective and saved ids are one, which is of the range and in
/// its namespace.
fn own_user(pid: i32) -> u32 {
    let (uids, gids) = (numbers(pid, "Uid"), numbers(pid, "Gid"));
    for ids in [&uids, &gids] {
        assert!((FIRST..FIRST + COUNT).contains(&ids[0]), "{ids:?}");
        assert_eq!(ids[..3], [ids[0]; 3]);
    }
    assert_eq!(numbers(pid, "CapEff"), [0]); // in hexadecimal digits
    for (map, own) in [("uid_map", uids[0]), ("gid_map", gids[0])] {
        let map = fs::read_to_string(format!("/proc/{pid}/{map}")).expect("a map");
        let map: Vec<u32> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert_eq!(map, [0, BOB, 1, 1, own, 1]);
    }
    uids[0]
}

#[test]
fn each_task_of_an_ordinary_user_is_a_user_of_its_own() {
    let Some(bob) = bob(RANGE, GROUP) else { return };
    let said = bob.margay(["doctor"]).ok();
    assert!(
        said.contains("each task gets a user id of its own, of the 65536 from 300000"),
        "{said}"
    );
    let httpd = samples().join("httpd/httpd.wasm").display().to_string();
    let detached = ["run", "-d", "-p", "0:8080", "--name"];
    for (name, flags) in [("one", &[][..]), ("two", &[]), ("three", &["-v", "shop:/data"])] {
        bob.margay([&detached, &[name][..], flags, &[&httpd]].concat()).ok();
    }
    let pids = ["one", "two", "three"].map(|name| pid_of(&bob, name));
    let users = pids.map(own_user);
    assert!(users[0] != users[1] && users[1] != users[2] && users[0] != users[2], "{users:?}");
    // The fourth decides about files: of a task with a volume those are its owner's.
    let files = pids.map(|pid| (numbers(pid, "Uid")[3], numbers(pid, "Gid")[3]));
    assert_eq!(files, [(users[0], users[0]), (users[1], users[1]), (BOB, BOB)]);
    assert!(numbers(pids[0], "Groups").is_empty());

    // Whatever is done with such a task from outside finds it.
    let said = bob.margay(["top", "one"]).ok();
    assert!(said.contains(&users[0].to_string()), "{said}");
    let file = bob.write("text", "a text");
    bob.margay(["cp", file.to_str().unwrap(), "three:/data/text"]).ok();
    let on_disk = bob.home().join("volumes/local/shop/text");
    assert_eq!(fs::metadata(&on_disk).expect("a file").uid(), BOB);
    bob.margay(["cp", "three:/data/text", "back"]).ok();
    assert_eq!(fs::read_to_string(bob.path("back")).unwrap(), "a text");
    assert_eq!(bob.margay(["stop", "one"]).ok(), "one\n");
    assert_eq!(bob.margay(["kill", "two"]).ok(), "two\n");
    bob.margay(["restart", "three"]).ok();
    own_user(pid_of(&bob, "three"));
    bob.margay(["rm", "-f", "one", "two", "three"]).ok();
    bob.margay(["volume", "rm", "shop"]).ok();
    bob.is_empty();
}

#[test]
fn files_of_the_host_are_used_with_the_rights_of_their_owner() {
    let Some(bob) = bob(RANGE, GROUP) else { return };
    let folder = bob.path("private");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    chown(&folder, Some(BOB), Some(BOB)).unwrap();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let mount = format!("{}:/data", folder.display());
    let run = ["run", "--rm", "-v", &mount, &probe, "write", "/data/g", "10"];
    assert_eq!(bob.margay(run).ok(), "wrote 10 bytes\n");
    let made = fs::metadata(folder.join("g")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (BOB, BOB, 0o644));
    // Root's are as closed as they are to the user that mounts them.
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    chown(&folder, Some(0), Some(0)).unwrap();
    let said = bob.margay(run).fails(125);
    assert!(said.contains("belongs to uid 0"), "{said}");
    bob.is_empty();
}

/// Where there is no range, where the programs refuse one, and where they have no rights.
#[test]
fn without_subordinate_ids_tasks_run_and_doctor_says_what_is_missing() {
    let hello = samples().join("hello/hello.wasm").display().to_string();
    for (range, setpriv, why, next) in [
        (
            "ann:300000:65536",
            GROUP,
            "has no range of at least 1024 ids for `bob`",
            "usermod --add-subuids",
        ),
        ("bob:300000:100", GROUP, "has no range of at least 1024 ids for `bob`", "usermod"),
        ("bob:300000:65536", "--regid=1000 --no-new-privs", "no_new_privs", "NoNewPrivileges="),
        // newuidmap serves a user in its first group alone.
        ("bob:300000:65536", "--regid=1001", "newuidmap: ", "/etc/subgid exist"),
    ] {
        let Some(bob) = bob(range, setpriv) else { return };
        let said = bob.margay(["doctor"]).out;
        let line = said.lines().find(|line| line.starts_with("warn  user")).unwrap_or_default();
        assert!(line.contains(why) && said.contains(next), "{range} {setpriv}: {said}");
        let said = bob.margay(["run", "--rm", &hello]);
        assert_eq!((said.out.as_str(), said.code), ("hello from margay\n", 0), "{}", said.err);
        bob.is_empty();
    }
}

/// The agent that comes back has no other rights over its workers than the one before.
#[test]
fn an_agent_adopts_and_ends_tasks_that_are_other_users() {
    let Some(bob) = bob(RANGE, GROUP) else { return };
    let up = Up::run(&bob, bob.command(UP));
    serve_cats(&bob, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    let workers = || -> Vec<i32> {
        let all = bob.processes().into_iter().map(|(pid, _)| pid);
        all.filter(|pid| (FIRST..FIRST + COUNT).contains(&numbers(*pid, "Uid")[1])).collect()
    };
    let serving = workers();
    assert_eq!(serving.len(), 1, "{:?}", bob.processes());
    own_user(serving[0]);
    let agent = up.pid(&bob, "node");
    signal(agent, "KILL");
    eventually("another agent is there", || (up.pid_of(&bob, "node")? != agent).then_some(()));
    eventually("the page is served", || page_is_served(&up));
    assert_eq!(workers(), serving, "it was adopted");
    let none = ["service", "update", "cats", "--cluster", "allthecats", "--count", "0"];
    bob.margay(none).ok();
    eventually("it has ended what it adopted", || workers().is_empty().then_some(()));
    up.end();
    bob.is_empty();
}
