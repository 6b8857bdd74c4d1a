use std::{
    io::Write,
    time::{Duration, Instant},
};

use shim::LayerBlob;
use spec::{Descriptor, Digest};

use crate::house::{House, Tar, busybox_layer, exe};

pub fn whiteouts(house: &House) {
    let upper = Tar::new()
        .file("etc/.wh.group", 0o644, b"")
        .file("srv/.wh..wh..opq", 0o644, b"")
        .file("srv/new", 0o600, b"")
        .link("1", "srv/hard", "srv/new")
        .entry_of(33, "0", "srv/theirs", 0o6755, "", b"")
        .done();
    let upper = house.unpack(upper).unwrap();
    let mut assignment = house.shell("ls /etc /srv; ls -ln /srv/theirs | head -c 20; ls -ln /srv/hard | head -c 20");
    assignment.layers.push(upper);
    let said = house.run(assignment).2;
    assert!(said.starts_with("/etc:\nhosts\npasswd\n\n/srv:\nhard\nnew\ntheirs\n"), "{said}");
    assert!(said.contains("-rwxr-xr-x    1 33") && said.contains("-rw-------    2 0"), "{said}");
}

pub fn hostile_layers(house: &House) {
    let outside = house.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let before = std::fs::read_dir(house.root.path().join("layers")).unwrap().count();
    let to_outside = outside.to_str().unwrap();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("climbing name", Tar::new().file("../../outside/x", 0o644, b"x").done(), "E_LAYER_PATH"),
        ("absolute name", Tar::new().file(&format!("{to_outside}/x"), 0o644, b"x").done(), "E_LAYER_PATH"),
        ("write through a link", Tar::new().link("2", "d", to_outside).file("d/x", 0o644, b"x").done(), "E_LAYER_PATH"),
        (
            "write through a relative link",
            Tar::new().folder("a").link("2", "a/d", "../b").file("a/d/x", 0o644, b"x").done(),
            "E_LAYER_PATH",
        ),
        ("folder made through a link", Tar::new().link("2", "d", "/").folder("d/e/f").done(), "E_LAYER_PATH"),
        ("hard link outside", Tar::new().link("1", "h", "../../../etc/passwd").done(), "E_LAYER_PATH"),
        (
            "hard link through a link",
            Tar::new().link("2", "d", "/etc").link("1", "h", "d/passwd").done(),
            "E_LAYER_PATH",
        ),
        ("hard link to nothing", Tar::new().link("1", "h", "nothing").done(), "E_LAYER_PATH"),
        ("hard link to a link", Tar::new().link("2", "l", "/etc/passwd").link("1", "h", "l").done(), "E_LAYER_PATH"),
        (
            "opaque through a link",
            Tar::new().link("2", "d", "/").file("d/.wh..wh..opq", 0o644, b"").done(),
            "E_LAYER_PATH",
        ),
        (
            "whiteout through a link",
            Tar::new().link("2", "d", "/").file("d/.wh.etc", 0o644, b"").done(),
            "E_LAYER_PATH",
        ),
        ("block device", Tar::new().entry("4", "sda", 0o666, "", b"").done(), "E_LAYER_KIND"),
        ("character device", Tar::new().entry("3", "mem", 0o666, "", b"").done(), "E_LAYER_KIND"),
        ("pipe", Tar::new().entry("6", "pipe", 0o666, "", b"").done(), "E_LAYER_KIND"),
        ("owner out of range", Tar::new().entry_of(65_536, "0", "x", 0o644, "", b"").done(), "E_LAYER_OWNER"),
        ("cut short", busybox_layer()[..700].to_vec(), "E_MEDIA"),
        ("empty", Vec::new(), "E_MEDIA"),
    ];
    for (name, tar, want) in cases {
        let error = house.unpack(tar).expect_err(name);
        assert_eq!(error.code(), want, "{name}: {error}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name} wrote outside");
    }
    let tar = busybox_layer();
    let lie = |digest: Digest, diff_id: Digest| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&tar).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tar);
        descriptor.digest = digest;
        house.layers.unpacked(&exe(), vec![LayerBlob { file, descriptor, diff_id }])
    };
    for (digest, diff_id) in [(Digest::of(b"x"), Digest::of(&tar)), (Digest::of(&tar), Digest::of(b"x"))] {
        let error = lie(digest, diff_id).unwrap_err();
        assert_eq!(error.code(), "E_DIGEST", "{error}");
    }
    assert_eq!(std::fs::read_dir(house.root.path().join("layers")).unwrap().count(), before, "nothing is kept of them");
    house.base();
    assert_eq!(house.layers.prune(&[]).unwrap(), 1);
}

pub fn bad_runtimes(house: &House) {
    use std::os::unix::fs::PermissionsExt;
    for (script, want) in [
        ("#!/bin/sh\nexit 137\n", "failed without a word"),
        ("#!/bin/sh\nexit 0\n", "did not say its process"),
        ("not a program at all", "cannot be started"),
    ] {
        let path = house.root.path().join("runc");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut assignment = house.shell("true");
        assignment.runtime.path = path;
        let error = house.spawn(assignment).unwrap_err();
        assert_eq!(error.code(), "E_RUNTIME", "{error}");
        assert!(error.to_string().contains(want), "{script}: {error}");
        house.assert_nothing_left();
    }
}

pub fn speed(house: &House) {
    let layer = house.base();
    let mut times = Vec::new();
    for _ in 0..10 {
        let mut assignment = house.assignment(&["true"]);
        assignment.layers = vec![layer.clone()];
        let began = Instant::now();
        house.run(assignment);
        times.push(began.elapsed());
    }
    times.sort();
    println!("  run of /bin/true to its end and cleared away: median {:?}, fastest {:?}", times[5], times[0]);
    let task = house.spawn(house.shell("sleep 100")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", task.status().unwrap().shim_pid)).unwrap();
    let of = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    println!("  the shim meanwhile: {}, {}, {}", of("VmRSS"), of("RssAnon"), of("CapEff"));
    assert_eq!(of("CapEff").split_whitespace().nth(1), Some("0000000000000022"), "it kept more than it needs");
    assert_eq!(of("Threads").split_whitespace().nth(1), Some("1"));
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
    assert!(times[5] < Duration::from_secs(2), "{times:?}");
}
