//! Which users of the machine containers have.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use engine::{VolumeMount, VolumeSource};
use shim::{Adopted, Assignment, Task};

use crate::fixture::{TestShim, config, grant};

const FIRST_ID: u32 = 2_013_265_920;
const ID_COUNT: u32 = 65_536;

/// The first user of the container of `task` on the host, and how many it has.
fn users(task: &Task) -> (u32, u32) {
    let pid = task.status().unwrap().pid;
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let numbers: Vec<u32> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(map, fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap());
    assert_eq!((numbers.len(), numbers[0]), (3, 0), "{map}");
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), numbers[1], "its process");
    (numbers[1], numbers[2])
}

fn in_folder(fixture: &TestShim, name: &str, script: &str, volume: &Path) -> Assignment {
    let mut assignment = fixture.shell(script);
    assignment.folder = fixture.root.path().join(name);
    assignment.log = Some(assignment.folder.join("log"));
    fs::create_dir_all(&assignment.folder).unwrap();
    assignment.grants = vec![grant("fs:/data#rwd;volume=v")].into();
    assignment.volumes = vec![VolumeMount {
        path: "/data".to_owned(),
        rights: "rwd".parse().unwrap(),
        source: VolumeSource::Folder(volume.to_owned()),
        bytes_max: None,
    }];
    assignment
}

pub fn apart(fixture: &TestShim) {
    let volume = fixture.root.path().join("volume");
    fs::create_dir(&volume).unwrap();
    rustix::fs::chmod(&volume, rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
    let wait = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let script = format!(
        "umask 077; mkdir /data/$NAME; echo $NAME > /data/$NAME/secret; \
         echo w > /data/$NAME/www; chown 33 /data/$NAME/www; echo x > /srv/x; chown 33 /srv/x; \
         touch /data/$NAME/ready; {wait}"
    );
    let start = |name: &str| {
        let mut assignment = in_folder(fixture, name, &script, &volume);
        assignment.env.insert("NAME".to_owned(), name.to_owned());
        let task = fixture.spawn(assignment).unwrap();
        fixture.wait_for("its files", || volume.join(name).join("ready").exists());
        task
    };
    let (a, b) = (start("a"), start("b"));
    let (of_a, of_b) = (users(&a), users(&b));
    for (first, count) in [of_a, of_b] {
        assert_eq!(count, ID_COUNT);
        assert!(first >= FIRST_ID + ID_COUNT && first % ID_COUNT == 0, "{first}");
    }
    assert_ne!(of_a, of_b, "two containers have no user in common");
    let Adopted::Running(adopted) = Task::adopt(a.folder()).unwrap() else { panic!("it ended") };
    assert_eq!(users(&adopted), of_a, "a supervisor that comes back finds the same");

    // On disk both have the same users, so that another container takes over what one has made.
    for (path, want) in [
        ("volume/a/secret", FIRST_ID),
        ("volume/b/secret", FIRST_ID),
        ("volume/b/www", FIRST_ID + 33),
        ("a/layer/upper/srv/x", FIRST_ID + 33),
    ] {
        let found = fs::metadata(fixture.root.path().join(path)).unwrap();
        assert_eq!(found.uid(), want, "{path}");
    }
    let script = "cat /data/a/secret /data/b/secret; stat -c %u /data/b/www";
    let third = fixture.spawn(in_folder(fixture, "c", script, &volume)).unwrap();
    third.wait().unwrap();
    let log = fs::read_to_string(third.folder().join("log")).unwrap();
    for line in ["a", "b", "33"] {
        assert!(log.lines().any(|said| said.ends_with(&format!(" {line}"))), "`{line}`: {log}");
    }

    let claims = || {
        let links = fs::read_dir("/run/margay/ids").unwrap().flatten();
        let targets = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| target.starts_with(fixture.root.path())).count()
    };
    assert_eq!(claims(), 2);
    // What a killed shim held is given back when its remains are cleared away.
    let shim = a.status().unwrap().shim_pid;
    let shim = rustix::process::Pid::from_raw(shim.cast_signed()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    a.wait().unwrap();
    assert_eq!(claims(), 1);
    b.stop(Duration::ZERO).unwrap();
    b.wait().unwrap();
    assert_eq!(claims(), 0, "each range is given back");
}

/// The kernel's own files cannot be shown with other users.
pub fn together(fixture: &TestShim) {
    let start = |name: &str, owner: &str| {
        let mut assignment = fixture.shell("trap 'exit 0' TERM; while :; do sleep 0.1; done");
        assignment.folder = fixture.root.path().join(name);
        assignment.log = None;
        fs::create_dir_all(&assignment.folder).unwrap();
        assignment.program.owner = owner.to_owned();
        assignment.program.config = config(|image| image.user = Some("www".to_owned()));
        assignment.grants = vec![grant("fs:/data#r;volume=v")].into();
        assignment.volumes = vec![VolumeMount {
            path: "/data".to_owned(),
            rights: "r".parse().unwrap(),
            source: VolumeSource::Host("/proc/irq".into()),
            bytes_max: None,
        }];
        fixture.spawn(assignment)
    };
    let (one, two) = (start("one", "acme").unwrap(), start("two", "acme").unwrap());
    let pid = one.status().unwrap().pid;
    let user = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(user, FIRST_ID + 33, "it has the users of the disk");
    let error = start("three", "bob").unwrap_err();
    assert_eq!(error.code(), "E_ID_MAP", "{error}");
    assert!(error.to_string().contains("a container of `acme` runs"), "{error}");
    assert!(error.hint().unwrap().contains("5.19"), "{error}");
    for task in [one, two] {
        task.stop(Duration::ZERO).unwrap();
        task.wait().unwrap();
    }
    let task = start("three", "bob").unwrap();
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
}
