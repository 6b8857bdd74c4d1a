use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use engine::{Exit, VolumeMount, VolumeSource};
use shim::Assignment;

use crate::fixture::{Tar, TestShim, config, grant};

/// The first id of containers on the host.
const FIRST_ID: u32 = 2_013_265_920;

fn said(fixture: &TestShim, assignment: Assignment) -> String {
    let (exit, _, said) = fixture.run(assignment);
    fs::remove_file(fixture.folder().join("log")).ok();
    assert_eq!(exit, Exit::Code(0), "{said}");
    said
}

pub fn keeps(fixture: &TestShim) {
    let script = "echo mine > /srv/index.html; rm /etc/group; chmod 4755 /bin/busybox; mkfifo /srv/pipe; \
                  mkdir -p /var/lib && echo kept > /var/lib/state; echo t > /tmp/t; id -u";
    assert_eq!(said(fixture, fixture.shell(script)), "0\n");
    let base = fixture.base();
    let page = fs::read_to_string(base.folder().join("srv/index.html")).unwrap();
    assert_eq!(page, "<h1>cats</h1>", "the layer is as it was");
    assert!(base.folder().join("etc/group").exists());
    assert_eq!(fs::metadata(base.folder().join("bin/busybox")).unwrap().mode() & 0o7777, 0o755);

    // Root in the container is no root outside, and no other user of the host gets at its programs.
    let layer = fixture.folder().join("layer");
    let busybox = fs::metadata(layer.join("upper/bin/busybox")).unwrap();
    assert_eq!((busybox.uid(), busybox.mode() & 0o7777), (FIRST_ID, 0o4755));
    let folder = fs::metadata(&layer).unwrap();
    assert_eq!((folder.uid(), folder.mode() & 0o7777), (0, 0o700));

    let next = "cat /srv/index.html /var/lib/state /tmp/t; ls /etc";
    assert_eq!(said(fixture, fixture.shell(next)), "mine\nkept\nt\nhosts\npasswd\n");
}

pub fn quota(fixture: &TestShim) {
    let mut assignment =
        fixture.shell("dd if=/dev/zero of=/srv/big bs=1M count=64 2>/dev/null; sleep 600");
    assignment.limits.writable_bytes_max = 8 << 20;
    let (exit, ..) = fixture.run(assignment);
    assert_eq!((exit.code(), exit.reason()), (137, Some("disk")));
    let message = exit.message().unwrap();
    assert!(message.starts_with("E_DISK: its writable layer has more than 8MiB; "), "{message}");
}

pub fn volume_quota(fixture: &TestShim) {
    let scripts = [
        "dd if=/dev/zero of=/data/big bs=1M count=64 2>/dev/null; sleep 600",
        "exec 3> /data/big; rm /data/big; dd if=/dev/zero bs=1M count=64 >&3 2>/dev/null; sleep 99",
    ];
    for script in scripts {
        let volume = tempfile::tempdir().unwrap();
        let mut assignment = fixture.shell(script);
        let source = VolumeSource::Folder(volume.path().to_owned());
        mounted(&mut assignment, "/data", "rwd", source);
        assignment.volumes[0].bytes_max = Some(8 << 20);
        let (exit, ..) = fixture.run(assignment);
        assert_eq!((exit.code(), exit.reason()), (137, Some("disk")), "{script}");
        let message = exit.message().unwrap();
        let want = "E_DISK: its volume at `/data` has more than 8MiB; ";
        assert!(message.starts_with(want) && message.contains("`max=`"), "{message}");
    }
}

pub fn removed_and_open(fixture: &TestShim) {
    let script =
        "exec 3> /srv/big; rm /srv/big; dd if=/dev/zero bs=1M count=64 >&3 2>/dev/null; sleep 600";
    let mut assignment = fixture.shell(script);
    assignment.limits.writable_bytes_max = 8 << 20;
    assert_eq!(fixture.run(assignment).0.reason(), Some("disk"));
}

pub fn users(fixture: &TestShim) {
    let script = "mkdir /srv/data && chown www:web /srv/data && chmod 750 /srv/data; stat -c %u:%g:%a /srv/data; \
                  su www -c 'id -u; id -G; touch /srv/data/x && stat -c %u /srv/data/x; touch /etc/no || echo denied; \
                  grep CapEff /proc/self/status'; \
                  mkdir /jail && cp /bin/busybox /jail && chroot /jail /busybox ls /";
    let lines = said(fixture, fixture.shell(script));
    for line in ["33:80:750", "33", "33 80", "denied", "CapEff:\t0000000000000000", "busybox"] {
        assert!(lines.lines().any(|said| said == line), "`{line}` is not in:\n{lines}");
    }
    // A user that is not root begins without capabilities, and may listen on every port.
    let mut assignment =
        fixture.shell("grep CapEff /proc/self/status; httpd -p 80 -h /srv && echo listens");
    assignment.program.config = config(|image| image.user = Some("www".to_owned()));
    let lines = said(fixture, assignment);
    assert!(lines.contains("CapEff:\t0000000000000000\n") && lines.contains("listens"), "{lines}");
}

fn mounted(assignment: &mut Assignment, path: &str, rights: &str, source: VolumeSource) {
    let mut grants = assignment.grants.lines();
    grants.push(grant(&format!("fs:{path}#{rights};volume=v")));
    assignment.grants = grants.into();
    assignment.volumes.push(VolumeMount {
        path: path.to_owned(),
        rights: rights.parse().unwrap(),
        source,
        bytes_max: None,
    });
}

pub fn fills(fixture: &TestShim) {
    let mut tar = Tar::new();
    tar.entry_of(33, "5", "var/db/", 0o750, "", b"").entry_of(
        33,
        "0",
        "var/db/first",
        0o640,
        "",
        b"1\n",
    );
    tar.link("2", "var/db/out", "/etc/passwd");
    let layer = fixture.unpack(tar.done()).unwrap();
    let volume = fixture.root.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, PermissionsExt::from_mode(0o777)).unwrap();
    let run = |script: &str| {
        let mut assignment = fixture.shell(script);
        assignment.program.layers.push(layer.clone());
        mounted(&mut assignment, "/var/db", "rwd", VolumeSource::Folder(volume.clone()));
        said(fixture, assignment)
    };
    let first = run(
        "cat /var/db/first; stat -c %u:%a /var/db; su www -c 'rm /var/db/first; echo 2 > /var/db/second'",
    );
    assert_eq!(first, "1\n33:750\n");
    assert_eq!(fs::read_link(volume.join("out")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(run("ls /var/db; cat /var/db/second"), "out\nsecond\n2\n", "filled once");
}

pub fn host_files(fixture: &TestShim) {
    let host = fixture.root.path().join("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("file.conf"), "conf\n").unwrap();
    fs::write(host.join("run.sh"), "#!/bin/sh\necho runs\n").unwrap();
    fs::set_permissions(host.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&host, PermissionsExt::from_mode(0o755)).unwrap();
    let source = |path: &str| VolumeSource::Host(host.join(path));
    let mut assignment = fixture.shell(
        "cat /etc/app.conf; echo new > /data/new; stat -c %u:%g /data /data/new; chown 33 /data/new; /data/run.sh; \
         (echo x > /etc/app.conf) 2>/dev/null || echo denied; ls /data/sub; ls -d /data/..; cat /data/../etc/group | head -1",
    );
    // The one that is mounted in the other comes first here, and last in the container.
    mounted(&mut assignment, "/data/sub", "r", source("sub"));
    mounted(&mut assignment, "/data", "rwd", source(""));
    mounted(&mut assignment, "/etc/app.conf", "r", source("file.conf"));
    let lines = said(fixture, assignment);
    assert!(lines.starts_with("conf\n0:0\n0:0\nruns\n"), "{lines}");
    assert!(lines.contains("denied\n") && lines.contains("/data/..\nroot:x:0:\n"), "{lines}");
    let new = fs::metadata(host.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (33, 0), "the same users as in the container");
    assert_eq!(fs::read_to_string(host.join("file.conf")).unwrap(), "conf\n");

    // Where the files of the host cannot be shown as others, what is closed is refused before.
    let memory = fixture.root.path().join("memory");
    fs::create_dir(&memory).unwrap();
    let proc = VolumeSource::Host(PathBuf::from("/proc/irq"));
    let mut assignment = fixture.shell("true");
    mounted(&mut assignment, "/data", "rwd", proc);
    let error = fixture.spawn(assignment).unwrap_err();
    assert_eq!(error.code(), "E_HOST_FILES", "{error}");
    assert!(error.hint().unwrap().contains(&format!("chown {FIRST_ID}")), "{error}");
}

pub fn same_layer_twice(fixture: &TestShim) {
    let empty = fixture.unpack(Tar::new().done()).unwrap();
    let change =
        fixture.unpack(Tar::new().file("srv/index.html", 0o644, b"changed\n").done()).unwrap();
    let mut assignment = fixture.shell("cat /srv/index.html");
    let base = assignment.program.layers[0].clone();
    assignment.program.layers =
        vec![empty.clone(), base.clone(), change.clone(), empty, change, base];
    assert_eq!(said(fixture, assignment), "<h1>cats</h1>\n");
}
