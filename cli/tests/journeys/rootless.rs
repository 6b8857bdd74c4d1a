//! Linux images of an ordinary user: in a user namespace whose root is that user, and whose other
//! users are of its subordinate ids.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use serde_json::Value;

use crate::{
    native::{self, published},
    stage::{Stage, eventually, get, signal},
    subordinate::{self, BOB, COUNT, FIRST, GROUP, RANGE, pid_of},
    up::{UP, Up},
};

fn bob() -> Option<Stage> {
    if !native::ready() {
        return None;
    }
    let bob = subordinate::bob(RANGE, GROUP)?;
    native::build_for(&bob, "box", "CMD [\"/bin/sh\"]", &["web:33"]);
    Some(bob)
}

fn shell<'a>(before: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["run"], before, &["box", "/bin/sh", "-c", script]].concat()
}

#[test]
fn a_linux_image_runs_for_an_ordinary_user() {
    let Some(bob) = bob() else { return };
    let said = bob.margay(shell(&["--rm"], "id -u; cat /proc/self/uid_map; exit 7"));
    let words: Vec<&str> = said.out.split_whitespace().collect();
    assert_eq!(
        (words, said.code),
        (vec!["0", "0", "0", "1", "1", "1", "65535"], 7),
        "{}",
        said.err
    );
    let said = bob.margay(shell(&["--rm", "-u", "web"], "id -u; touch /file; echo $?")).ok();
    assert_eq!(said, "33\n1\n", "it is no root");
    let said = bob.margay(shell(
        &["--rm", "--read-only", "--tmpfs", "/x"],
        "echo hi >/x/f; cat /x/f; touch /f; echo $?",
    ));
    assert_eq!(said.ok(), "hi\n1\n");

    // What is done with a task that runs.
    let forever = "echo started; echo 1 >>/count; wc -l </count; exec sleep 1000";
    bob.margay(shell(&["-d", "--name", "one"], forever)).ok();
    let logs = |want: &str| {
        eventually("it has said so", || (bob.margay(["logs", "one"]).ok() == want).then_some(()));
    };
    logs("started\n1\n");
    assert_eq!(bob.margay(["exec", "-u", "web", "one", "id", "-u"]).ok(), "33\n");
    let file = bob.write("text", "a text");
    bob.margay(["cp", file.to_str().unwrap(), "one:/text"]).ok();
    assert_eq!(bob.margay(["exec", "one", "cat", "/text"]).ok(), "a text");
    let top = bob.margay(["top", "one"]).ok();
    assert!(top.contains("sleep 1000"), "{top}");
    let stats = bob.margay(["stats", "--no-stream", "--output", "json"]).ok();
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert!(stats[0]["memory_bytes"].as_u64() > Some(0), "{stats}");
    bob.margay(["restart", "-t", "0", "one"]).ok();
    logs("started\n1\nstarted\n2\n");
    bob.margay(["stop", "-t", "0", "one"]).ok();
    bob.margay(["cp", "one:/text", "back"]).ok();
    assert_eq!(fs::read_to_string(bob.path("back")).unwrap(), "a text");
    bob.margay(["rm", "one"]).ok();
    bob.is_empty();
}

/// What it leaves belongs to users that bob is not, and goes with the verbs that remove it.
#[test]
fn files_of_other_users_of_an_image_are_kept_and_removed() {
    let Some(bob) = bob() else { return };
    let script = "mkdir -m 700 /data/d && echo secret >/data/d/f && chown -R web /data/d && \
                  mkdir -m 500 /var && mkdir -m 700 /var/web && chown web /var/web && \
                  touch /var/web/f && chown web /var/web/f";
    bob.margay(shell(&["--name", "one", "-v", "shop:/data", "-v", "/more"], script)).ok();
    let on_disk = bob.home().join("volumes/local/shop/d");
    assert_eq!(fs::metadata(&on_disk).expect("a folder").uid(), FIRST + 32);
    let read = shell(&["--rm", "-u", "web", "-v", "shop:/data"], "cat /data/d/f");
    assert_eq!(bob.margay(read).ok(), "secret\n");
    bob.margay(["rm", "-v", "one"]).ok();
    bob.margay(["volume", "rm", "shop"]).ok();
    assert!(!on_disk.exists());
    bob.margay(["rmi", "box"]).ok();
    bob.margay(["system", "prune", "-af"]).ok();
    let left = |folder: &str| {
        let all = fs::read_dir(bob.home().join(folder)).into_iter().flatten().flatten();
        all.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
    };
    assert_eq!((left("tasks"), left("volumes/local")), (0, 0));
    assert!(!has(&bob.home(), "busybox"), "no unpacked layer is left");
    bob.is_empty();
}

fn has(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        entry.file_name() == name
            || (entry.file_type().is_ok_and(|kind| kind.is_dir()) && has(&entry.path(), name))
    })
}

#[test]
fn files_of_the_user_are_those_of_the_root_of_its_containers() {
    let Some(bob) = bob() else { return };
    let folder = bob.path("mine");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.join("page"), "hello").unwrap();
    for path in [&folder, &folder.join("page")] {
        chown(path, Some(BOB), Some(BOB)).unwrap();
    }
    let script = "stat -c %u /d/page; cat /d/page; echo made >/d/made";
    let said = bob.margay(shell(&["--rm", "-v", "./mine:/d"], script)).ok();
    assert_eq!(said, "0\nhello");
    let made = fs::metadata(folder.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (BOB, BOB));
    let said =
        bob.margay(shell(&["--rm", "-v", "./mine/page:/p:ro"], "cat /p; echo x >/p; echo $?"));
    assert_eq!(said.ok(), "hello1\n");
    // What the user may not open, a container that it starts may not either, whatever is in it.
    for (owner, mode, why, next) in [
        (0, 0o700, "is not open to you", "chmod o+rwx"),
        (FIRST + COUNT, 0o700, "is not open to you", "chmod o+rwx"),
        (0, 0o755, "may not be written by you", ":/PATH:ro"),
    ] {
        chown(&folder, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        let err = bob.margay(shell(&["--rm", "-v", "./mine:/d"], "ls /d")).fails(125);
        assert!(err.contains(why) && err.contains(next), "{err}");
        if mode == 0o700 {
            // No more is to be opened than what was asked for.
            let err = bob.margay(shell(&["--rm", "-v", "./mine:/d:ro"], "ls /d")).fails(125);
            assert!(err.contains(why) && err.contains("`chmod o+rx "), "{err}");
        }
    }
    let read = shell(&["--rm", "-v", "./mine:/d:ro"], "cat /d/page");
    assert_eq!(bob.margay(read).ok(), "hello");
    // What is mounted in a folder comes along.
    let read = shell(
        &["--rm", "-v", "/:/host:ro"],
        "ls /host/proc/self/status; echo x >/host/dev/shm/x; echo $?",
    );
    assert_eq!(bob.margay(read).ok(), "/host/proc/self/status\n1\n");
    bob.is_empty();
}

#[test]
fn a_port_of_an_ordinary_users_image_is_served() {
    let Some(bob) = bob() else { return };
    let httpd =
        ["run", "-d", "--name", "web", "-p", "127.0.0.1:0:80", "-v", "./www:/www:ro", "box"];
    bob.write("www/index.html", "cats");
    let serve = ["/bin/busybox", "httpd", "-f", "-p", "80", "-u", "web", "-h", "/www"];
    bob.margay([&httpd[..], &serve].concat()).ok();
    let address = eventually("it has a port", || published(&bob, "web"));
    let answer = eventually("it serves", || get(&address, "localhost", "/"));
    assert_eq!(answer.body, b"cats");
    bob.margay(["rm", "-f", "web"]).ok();
    bob.is_empty();
}

/// Without a cgroup: the kernel counts processes, and the shim memory.
#[test]
fn a_task_of_an_ordinary_user_has_limits() {
    let Some(bob) = bob() else { return };
    let bomb = "i=0; while [ $i -lt 400 ]; do sleep 100 & i=$((i+1)); done; echo all";
    let said = bob.margay(shell(&["--rm", "--pids-limit", "50"], bomb));
    assert!(!said.out.contains("all") && said.err.contains("fork"), "{said:?}");
    let eat = "y=$(seq 100000); while :; do x=$x$y; sleep 0.02; done";
    let said = bob.margay(shell(&["--rm", "-m", "64m"], eat));
    assert!(said.code == 137 && said.err.contains("64MiB of memory"), "{said:?}");
    let said = bob.margay(shell(&["--rm", "--cpus", "0.5"], "true")).fails(125);
    assert!(said.contains("`--cpus` takes root") && said.contains("--cpu-time"), "{said}");
    bob.is_empty();
}

/// Neither a process nor a mount outlives a shim: they are in namespaces whose first process it is.
#[test]
fn a_killed_shim_takes_its_container_along() {
    let Some(bob) = bob() else { return };
    bob.margay(shell(&["-d", "--name", "one"], "sleep 1000 & sleep 1001")).ok();
    let sleepers = || {
        let all = bob.margay(["top", "one"]);
        (all.code == 0 && all.out.contains("sleep 1000") && all.out.contains("sleep 1001"))
            .then_some(())
    };
    eventually("it runs", sleepers);
    signal(pid_of(&bob, "one"), "KILL");
    eventually("it is known to have ended", || {
        bob.margay(["ps"]).ok().lines().count().eq(&1).then_some(())
    });
    let of_bob = |line: &str| line.contains("sleep 100");
    let all = || fs::read_dir("/proc").expect("/proc").flatten();
    let lines = || all().filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    let left = || lines().filter(|line| of_bob(&line.replace('\0', " "))).count();
    eventually("none is left", || (left() == 0).then_some(()));
    bob.margay(["start", "one"]).ok();
    eventually("it runs again", sleepers);
    bob.margay(["rm", "-f", "one"]).ok();
    bob.is_empty();
}

/// The rights that root of a container has end where the container does.
#[test]
fn a_hostile_guest_of_an_ordinary_user_stays_inside() {
    let Some(bob) = bob() else { return };
    let secret = bob.write("secret", "bobs own");
    chown(&secret, Some(BOB), Some(BOB)).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let path = secret.display();
    let script = format!(
        "cat /proc/1/root{path} /proc/self/root{path} {path}; mount -t tmpfs x /bin; \
         mount -t proc x /proc; chroot /proc/1/root true; mknod /d b 8 0; cat /d; \
         unshare -r true; kill -9 -1; echo 3 >/proc/sys/vm/drop_caches; echo end"
    );
    let said = bob.margay(shell(&["--rm"], &script));
    assert!(!said.out.contains("bobs own"), "{said:?}");
    assert!(said.out.ends_with("end\n"), "{said:?}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "bobs own");
    // A link that leads out of a volume leads nowhere, and one that is left in it is not followed.
    let script = format!("ln -s {path} /data/link; ln -s {path} /data/out; cat /data/link");
    let said = bob.margay(shell(&["--name", "one", "-v", "shop:/data"], &script));
    assert!(said.code != 0 && !said.out.contains("bobs own"), "{said:?}");
    let said = bob.margay(["cp", "-L", "one:/data/link", "stolen"]);
    assert!(said.code != 0 && !bob.path("stolen").exists(), "{said:?}");
    bob.margay(["rm", "one"]).ok();
    bob.margay(["volume", "rm", "shop"]).ok();
    assert!(secret.exists());
    bob.is_empty();
}

#[test]
fn an_agent_of_an_ordinary_user_adopts_its_linux_containers() {
    let Some(bob) = bob() else { return };
    let up = Up::run(&bob, bob.command(UP));
    let image = format!("{}/me/naps:v1", up.registry);
    bob.margay(["login", "-u", "me", &up.registry]).ok();
    bob.margay(["tag", "box", &image]).ok();
    bob.margay(["push", &image]).ok();
    let definition = "family = \"naps\"\nlaunch_types = [\"node\"]\n[role]\nallow = []\n\
         [[containers]]\nname = \"naps\"\nimage = \"naps:v1\"\ncpu_millis = 100\n\
         memory_soft_bytes = 33554432\nmemory_hard_bytes = 67108864\n\
         command = [\"/bin/sleep\", \"1000\"]\n";
    let file = bob.write("naps.toml", definition).display().to_string();
    bob.margay(["task", "register", &file]).ok();
    bob.margay(["cluster", "create", "main"]).ok();
    let create = ["service", "create", "naps", "--task", "naps:1", "--cluster", "main"];
    bob.margay(create).ok();
    let sleeps = || native::running(&bob, "/bin/sleep 1000");
    let first = eventually("it runs", || Some(sleeps()).filter(|found| found.len() == 1));
    let agent = up.pid(&bob, "node");
    signal(agent, "KILL");
    eventually("another agent is there", || (up.pid_of(&bob, "node")? != agent).then_some(()));
    assert_eq!(sleeps(), first, "it was adopted");
    let none = ["service", "update", "naps", "--cluster", "main", "--count", "0"];
    bob.margay(none).ok();
    eventually("it was ended", || sleeps().is_empty().then_some(()));
    up.end();
    bob.is_empty();
}

/// What is missing is said before anything is made, with what gives it.
#[test]
fn without_subordinate_ids_a_linux_image_is_refused() {
    if !native::ready() {
        return;
    }
    for (range, setpriv, why, next) in [
        ("ann:300000:65536", GROUP, "has no range of at least 1024 ids for `bob`", "usermod"),
        (
            "bob:300000:2000",
            GROUP,
            "has a range of 2000 ids for `bob`, and Linux images need 65535",
            "usermod",
        ),
        ("bob:300000:65536", "--regid=1000 --no-new-privs", "no_new_privs", "NoNewPrivileges="),
        ("bob:300000:65536", "--regid=1001", "newuidmap: ", "/etc/subgid exist"),
    ] {
        let Some(bob) = subordinate::bob(range, setpriv) else { return };
        native::build_for(&bob, "box", "CMD [\"/bin/sh\"]", &["web:33"]);
        let err = bob.margay(shell(&["--rm"], "true")).fails(125);
        assert!(err.contains(why) && err.contains(next), "{range} {setpriv}: {err}");
        let said = bob.margay(["doctor"]).out;
        let line = said.lines().find(|line| line.contains("native: root")).unwrap_or_default();
        assert!(line.starts_with("warn") && line.contains(why), "{range} {setpriv}: {said}");
        bob.is_empty();
    }
    let Some(bob) = subordinate::bob(RANGE, GROUP) else { return };
    let said = bob.margay(["doctor"]).ok();
    assert!(
        said.contains("their root is this user, and their other users are the 65535"),
        "{said}"
    );
    bob.is_empty();
}
