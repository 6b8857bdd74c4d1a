//! Files in and out of tasks, for both engines.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt, symlink},
    path::Path,
    process::Stdio,
};

use crate::{
    native,
    stage::{Stage, eventually, samples},
};

/// A task `tom` that sleeps, with a volume at `/data`, and files that both kinds have.
fn tasks(stage: &Stage) -> Vec<&'static str> {
    for folder in ["img/bin", "img/srv/www"] {
        fs::create_dir_all(stage.path(folder)).expect("a folder");
    }
    stage.write("img/srv/www/index.html", "<html>");
    stage.write("img/srv/www/other", "other");
    symlink("other", stage.path("img/srv/www/link")).expect("a link");
    let probe = samples().join("hostile/probe-cli.wasm");
    fs::copy(probe, stage.path("img/bin/probe.wasm")).expect("the sample");
    stage.write(
        "Dockerfile",
        "FROM scratch\nCOPY img/ /\nENTRYPOINT [\"/bin/probe.wasm\"]\nCMD [\"sleep\", \"600000\"]\n",
    );
    stage.margay(["build", "-t", "wasm", "."]).ok();
    let wasm = ["run", "-d", "--name", "wasm", "-v", "wasm:/data", "--allow", "fs:/#rwd", "wasm"];
    stage.margay(wasm).ok();
    if !native::ready() {
        return vec!["wasm"];
    }
    native::build(stage, "linux", "COPY img/srv /srv\nCMD [\"/bin/sleep\", \"600\"]");
    stage.margay(["run", "-d", "--name", "linux", "-v", "linux:/data", "linux"]).ok();
    vec!["wasm", "linux"]
}

fn end(stage: &Stage, tasks: &[&str]) {
    for task in tasks {
        stage.margay(["rm", "-f", task]).ok();
    }
    stage.is_empty();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// The names in an archive on stdout.
fn listed(stage: &Stage, from: &str) -> Vec<String> {
    let mut child = stage.command(["cp", from, "-"]).stdout(Stdio::piped()).spawn().expect("cp");
    let tar = std::process::Command::new("tar")
        .arg("t")
        .stdin(child.stdout.take().expect("piped"))
        .output()
        .expect("tar runs");
    assert!(child.wait().expect("cp ends").success());
    let mut names: Vec<_> =
        String::from_utf8_lossy(&tar.stdout).lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn files_are_copied_by_dockers_rules_in_both_directions() {
    let stage = Stage::new();
    let tasks = tasks(&stage);
    for task in &tasks {
        let at = |path: &str| format!("{task}:{path}");
        let here = |name: &str| stage.path(&format!("{task}-{name}"));
        let cp = |from: &str, to: &str| stage.margay(["cp", from, to]);
        let local = |name: &str| here(name).display().to_string();
        fs::create_dir(here("there")).expect("a folder");
        // A file: into a folder, under a new name, over a file.
        cp(&at("/srv/www/index.html"), &local("there")).ok();
        cp(&at("srv/www/index.html"), &local("there/new")).ok();
        fs::write(here("there/old"), "old").expect("a file");
        cp(&at("/srv/www/index.html"), &local("there/old")).ok();
        assert_eq!(names(&here("there")), ["index.html", "new", "old"]);
        assert_eq!(fs::read_to_string(here("there/old")).expect("a file"), "<html>");
        // A folder: into one that is there, as one that is not, its content.
        cp(&at("/srv/www"), &local("there")).ok();
        cp(&at("/srv/www"), &local("fresh")).ok();
        cp(&at("/srv/www/."), &local("fresh")).ok();
        cp(&at("/srv/www/."), &local("content/")).ok();
        let www = ["index.html", "link", "other"];
        for folder in ["there/www", "fresh", "content"] {
            assert_eq!(names(&here(folder)), www, "{task} {folder}");
        }
        // A link itself, or what it leads to.
        cp(&at("/srv/www/link"), &local("link")).ok();
        assert_eq!(fs::read_link(here("link")).expect("a link"), Path::new("other"));
        stage.margay(["cp", "-L", &at("/srv/www/link"), &local("target")]).ok();
        assert_eq!(fs::read_to_string(here("target")).expect("a file"), "other");

        // In: the same, and as an archive.
        cp(&local("target"), &at("/srv/in")).ok();
        cp(&local("fresh"), &at("/srv/folder")).ok();
        cp(&local("fresh"), &at("/srv/folder")).ok();
        cp(&format!("{}/.", local("fresh")), &at("/data")).ok();
        let got = listed(&stage, &at("/srv/folder"));
        for name in ["", "link", &format!("{task}-fresh/index.html")] {
            assert!(got.contains(&format!("folder/{name}")), "{name}: {got:?}");
        }
        assert_eq!(
            listed(&stage, &at("/data")),
            ["data/", "data/index.html", "data/link", "data/other"]
        );
        let archive = stage
            .command(["cp", &at(&format!("/srv/folder/{task}-fresh")), "-"])
            .output()
            .expect("cp");
        let mut child = stage
            .command(["cp", "-", &at("/data")])
            .stdin(Stdio::piped())
            .spawn()
            .expect("cp starts");
        let mut stdin = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut stdin, &archive.stdout).expect("fed");
        drop(stdin);
        assert!(child.wait().expect("cp ends").success());
        assert!(listed(&stage, &at("/data")).contains(&format!("data/{task}-fresh/other")));
    }
    end(&stage, &tasks);
}

#[test]
fn a_copy_that_cannot_be_says_why() {
    let stage = Stage::new();
    let tasks = tasks(&stage);
    stage.write("file", "text");
    fs::create_dir(stage.path("folder")).expect("a folder");
    for task in &tasks {
        let at = |path: &str| format!("{task}:{path}");
        for (from, to, code, why) in [
            (at("/nope"), ".".to_owned(), 1, "could not find the file `/nope`"),
            (at("/srv/www/other/"), ".".to_owned(), 1, "not a folder"),
            (at("/srv/www"), "file".to_owned(), 1, "onto `"),
            (at("/srv/www/other"), "no/such".to_owned(), 1, "`no`"),
            (at("/srv/www/other"), "new/".to_owned(), 1, "no such folder `new/`"),
            ("file".to_owned(), at("/no/such"), 1, "could not find the file `/no`"),
            ("file".to_owned(), at("/nope/"), 1, "no such folder `/nope`"),
            ("folder".to_owned(), at("/srv/www/other"), 1, "onto `/srv/www/other`"),
            ("nope".to_owned(), at("/"), 1, "`nope`"),
            ("-".to_owned(), at("/srv/www/other"), 1, "an archive goes into a folder"),
            (at("/a"), at("/b"), 2, "between two tasks"),
            ("file".to_owned(), "folder".to_owned(), 2, "one side must name a task"),
            ("gone:/a".to_owned(), ".".to_owned(), 1, "no task is called `gone`"),
            (format!("{task}:"), ".".to_owned(), 2, "names no file of a task"),
        ] {
            let said = stage.margay(["cp", &from, &to]);
            let err = said.fails(code);
            assert!(err.contains(why), "{from} {to}: {err}");
        }
        // Nothing of a folder stays that a file is in the way of.
        stage.write("tree/www/other/x", "x");
        let err = stage.margay(["cp", "tree/.", &at("/srv")]).fails(1);
        assert!(err.contains("cannot overwrite"), "{err}");
        let cut = stage.margay_fed(["cp", "-", &at("/data")], "no archive").fails(1);
        assert!(cut.contains("cut short"), "{cut}");
        assert_eq!(listed(&stage, &at("/data")), ["data/"]);
    }
    end(&stage, &tasks);
}

#[test]
fn files_of_tasks_that_do_not_run_go_in_and_out() {
    let stage = Stage::new();
    let tasks = tasks(&stage);
    stage.write("file", "text");
    for task in &tasks {
        let at = |path: &str| format!("{task}:{path}");
        stage.margay(["stop", "--time", "0", task]).ok();
        stage.margay(["cp", &at("/srv/www/index.html"), task]).ok();
        assert_eq!(fs::read_to_string(stage.path(task)).expect("a file"), "<html>");
        stage.margay(["cp", "file", &at("/data/")]).ok();
        assert_eq!(listed(&stage, &at("/data")), ["data/", "data/file"]);
        let said = stage.margay(["cp", "file", &at("/srv/file")]);
        match *task {
            "wasm" => {
                let err = said.fails(1);
                assert!(err.contains("read-only") && err.contains("copy into a volume"), "{err}");
            }
            _ => {
                said.ok();
                stage.margay(["start", task]).ok();
                assert_eq!(stage.margay(["exec", task, "cat", "/srv/file"]).ok(), "text");
                assert_eq!(stage.margay(["exec", task, "cat", "/data/file"]).ok(), "text");
            }
        }
        // Made and never started, with a program that is not there.
        let created = format!("{task}-created");
        stage.margay(["create", "--name", &created, task, "/no/such/program"]);
        if stage.margay(["inspect", &created]).code == 0 {
            stage.margay(["cp", &format!("{created}:/srv/www/other"), "created"]).ok();
            assert_eq!(fs::read_to_string(stage.path("created")).expect("a file"), "other");
            stage.margay(["rm", &created]).ok();
        }
    }
    end(&stage, &tasks);
}

#[test]
fn wasm_files_go_in_and_out_with_the_rights_of_the_guest() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.write("file", "text");
    stage.write("big", vec![1; 8 << 20]);
    let run = [
        "run",
        "-d",
        "--name",
        "tom",
        "-v",
        "a:/ro:ro",
        "--allow",
        "fs:/w#rw;volume=b",
        "--allow",
        "fs:/small#rwd;volume=c;max=1MiB",
        "--limit",
        "writable=2m",
    ];
    let asleep = [probe.as_str(), "sleep", "600000"];
    stage.margay(run.iter().copied().chain(asleep)).ok();
    for (from, to, why) in [
        ("file", "tom:/ro/file", "`/ro/file`: it is read-only"),
        ("big", "tom:/big", "no space left"),
        ("big", "tom:/small/big", "no space left"),
    ] {
        let err = stage.margay(["cp", from, to]).fails(1);
        assert!(err.contains(why), "{to}: {err}");
    }
    // Where nothing may be removed, a file is written in its place.
    stage.margay(["cp", "file", "tom:/w/file"]).ok();
    stage.margay(["cp", "file", "tom:/w/file"]).ok();
    assert_eq!(listed(&stage, "tom:/w"), ["w/", "w/file"]);
    assert_eq!(listed(&stage, "tom:/small"), ["small/"]);
    end(&stage, &["tom"]);
}

#[test]
fn no_link_of_a_hostile_container_leads_a_copy_out_of_it() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    stage.write("secret", "host");
    stage.write("file", "text");
    let secret = stage.path("secret").display().to_string();
    native::build(&stage, "sly", "CMD [\"/bin/sleep\", \"600\"]");
    stage.margay(["run", "-d", "--name", "tom", "sly"]).ok();
    let script = format!(
        "cd /srv; bb() {{ /bin/busybox \"$@\"; }}; bb ln -s {secret} out; bb ln -s / root; \
         bb ln -s /proc/self/fd/3 fd; bb ln -s /proc/1/root magic; bb cp /bin/busybox suid; \
         bb chmod 4755 suid; bb mkfifo pipe; bb mkdir -p {}",
        stage.path("").display()
    );
    stage.margay(["exec", "tom", "/bin/sh", "-c", &script]).ok();
    for running in [true, false] {
        // A link leads to what the container has there, which is nothing.
        let err = stage.margay(["cp", "-L", "tom:/srv/out", "x"]).fails(1);
        assert!(err.contains("could not find"), "{err}");
        for link in ["/srv/fd", "/srv/magic/etc", "/proc/1/root/etc/passwd"] {
            let said = stage.margay(["cp", "-L", &format!("tom:{link}"), "x"]);
            assert_eq!(said.code, 1, "{link}: {}", said.err);
        }
        // In: the target of the link is made in the container.
        stage.margay(["cp", "file", "tom:/srv/out"]).ok();
        assert_eq!(fs::read_to_string(&secret).expect("a file"), "host");
        // Out: no set-user-id bit unless it is asked for, no pipe, and links as links.
        let target = if running { "running" } else { "ended" };
        let said = stage.margay(["cp", "tom:/srv", target]);
        assert!(said.err.contains("Left out 1"), "{}", said.err);
        assert!(said.err.contains("set-group-id from 1 files, `"), "{}", said.err);
        let kept = format!("{target}-suid");
        stage.margay(["cp", "-a", "tom:/srv/suid", &kept]).ok();
        let kept = fs::metadata(stage.path(&kept)).expect("a file");
        assert_eq!((kept.mode() & 0o7777, kept.uid()), (0o4755, 0));
        let suid = fs::metadata(stage.path(target).join("suid")).expect("a file");
        assert_eq!((suid.mode() & 0o7777, suid.uid()), (0o755, 0));
        assert!(stage.path(target).join("root").is_symlink());
        if running {
            stage.margay(["exec", "tom", "/bin/busybox", "rm", &secret]).ok();
            stage.margay(["stop", "--time", "0", "tom"]).ok();
        }
    }
    end(&stage, &["tom"]);
}

#[test]
fn owners_are_roots_or_those_of_the_source() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    stage.write("file", "text");
    std::os::unix::fs::chown(stage.path("file"), Some(33), Some(34)).expect("chown");
    fs::set_permissions(stage.path("file"), PermissionsExt::from_mode(0o640)).expect("chmod");
    native::build(&stage, "owners", "CMD [\"/bin/sleep\", \"600\"]");
    stage.margay(["run", "-d", "--name", "tom", "owners"]).ok();
    for (flags, name, want) in [(&[][..], "a", "0 0 640\n"), (&["-a"], "b", "33 34 640\n")] {
        let to = format!("tom:/srv/{name}");
        stage.margay(["cp"].iter().chain(flags).copied().chain(["file", &to])).ok();
        let path = format!("/srv/{name}");
        let stat = ["exec", "tom", "/bin/busybox", "stat", "-c", "%u %g %a", &path];
        assert_eq!(stage.margay(stat).ok(), want, "{flags:?}");
        let back = stage.path(name).display().to_string();
        stage.margay(["cp"].iter().chain(flags).copied().chain([to.as_str(), &back])).ok();
        let owner = fs::metadata(&back).expect("a file");
        let want = if flags.is_empty() { (0, 0) } else { (33, 34) };
        assert_eq!((owner.uid(), owner.gid()), want, "{flags:?}");
    }
    end(&stage, &["tom"]);
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing() {
    let stage = Stage::new();
    let tasks = tasks(&stage);
    for task in &tasks {
        let at = |path: &str| format!("{task}:{path}");
        // In: its archive never ends.
        let mut child = stage
            .command(["cp", "-", &at("/data")])
            .stdin(Stdio::piped())
            .spawn()
            .expect("cp starts");
        let mut stdin = child.stdin.take().expect("piped");
        let whole = stage.command(["cp", &at("/srv/www"), "-"]).output().expect("cp").stdout;
        std::io::Write::write_all(&mut stdin, &whole[..whole.len() - 1024]).expect("fed");
        let staged =
            || listed(&stage, &at("/data")).iter().any(|n| n.contains(".margay-cp")).then_some(());
        eventually("the folder is on its way", staged);
        child.kill().expect("killed");
        child.wait().expect("it ends");
        let clean = || (listed(&stage, &at("/data")) == ["data/"]).then_some(());
        eventually("nothing is left of it", clean);
    }
    end(&stage, &tasks);
}
