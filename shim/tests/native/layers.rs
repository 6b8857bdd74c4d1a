use std::{
    io::Write,
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use blobs::collect::{self, Item, Removal};
use engine::Exit;
use shim::{Layer, LayerBlob, Layers};
use spec::{Descriptor, Digest};

use crate::fixture::{Tar, TestShim, busybox_layer, exe};

pub fn whiteouts(fixture: &TestShim) {
    let upper = Tar::new()
        .file("etc/.wh.group", 0o644, b"")
        .file("srv/.wh..wh..opq", 0o644, b"")
        .file("srv/new", 0o600, b"")
        .link("1", "srv/hard", "srv/new")
        .entry_of(33, "0", "srv/theirs", 0o6755, "", b"")
        .done();
    let upper = fixture.unpack(upper).unwrap();
    let mut assignment = fixture
        .shell("ls /etc /srv; ls -ln /srv/theirs | head -c 20; ls -ln /srv/hard | head -c 20");
    assignment.program.layers.push(upper);
    let said = fixture.run(assignment).2;
    assert!(said.starts_with("/etc:\nhosts\npasswd\n\n/srv:\nhard\nnew\ntheirs\n"), "{said}");
    assert!(said.contains("-rwsr-sr-x    1 33") && said.contains("-rw-------    2 0"), "{said}");
}

pub fn own_hosts(fixture: &TestShim) {
    let outside = fixture.root.path().join("outside");
    std::fs::write(&outside, "kept").unwrap();
    for theirs in [
        Tar::new().file("etc/hosts", 0o600, b"").done(),
        Tar::new().link("2", "etc/hosts", outside.to_str().unwrap()).done(),
    ] {
        let layer = fixture.unpack(theirs).unwrap();
        let mut assignment = fixture.shell("cat /etc/hosts");
        assignment.program.layers.push(layer);
        assert_eq!(fixture.run(assignment).2, "127.0.0.1\tlocalhost cats\n::1\tlocalhost\n");
        std::fs::remove_file(fixture.folder().join("log")).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "kept");
}

pub fn hostile_layers(fixture: &TestShim) {
    let outside = fixture.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let before = std::fs::read_dir(fixture.root.path().join("layers")).unwrap().count();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("climbing name", Tar::new().file("../../outside/x", 0o644, b"x").done(), "E_LAYER_PATH"),
        (
            "hard link outside",
            Tar::new().link("1", "h", "../../../etc/passwd").done(),
            "E_LAYER_PATH",
        ),
        (
            "hard link through a link",
            Tar::new().link("2", "d", "/etc").link("1", "h", "d/passwd").done(),
            "E_LAYER_PATH",
        ),
        ("hard link to nothing", Tar::new().link("1", "h", "nothing").done(), "E_LAYER_PATH"),
        ("cut short", busybox_layer()[..700].to_vec(), "E_MEDIA"),
    ];
    for (name, tar, want) in cases {
        let error = fixture.unpack(tar).expect_err(name);
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
        fixture.layers.unpacked(&exe(), vec![LayerBlob { file, descriptor, diff_id }])
    };
    for (digest, diff_id) in
        [(Digest::of(b"x"), Digest::of(&tar)), (Digest::of(&tar), Digest::of(b"x"))]
    {
        let error = lie(digest, diff_id).unwrap_err();
        assert_eq!(error.code(), "E_DIGEST", "{error}");
    }
    assert_eq!(
        std::fs::read_dir(fixture.root.path().join("layers")).unwrap().count(),
        before,
        "nothing is kept of them"
    );
}

/// What image builders write, and what becomes of it in the folder of the layer.
pub fn odd_layers(fixture: &TestShim) {
    let outside = fixture.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let to_outside = outside.to_str().unwrap();
    let inside = format!("{}/x", &to_outside[1..]);
    for (name, tar, path) in [
        (
            "absolute name",
            Tar::new().file(&format!("{to_outside}/x"), 0o644, b"x").done(),
            &*inside,
        ),
        (
            "through a link",
            Tar::new().link("2", "d", to_outside).file("d/x", 0o644, b"x").done(),
            &inside,
        ),
        (
            "through a relative link",
            Tar::new().folder("a").link("2", "a/d", "../b").file("a/d/x", 0o644, b"x").done(),
            "b/x",
        ),
        ("a folder through a link", Tar::new().link("2", "d", "/").folder("d/e/f").done(), "e/f"),
        ("upwards", Tar::new().link("2", "d", "../../..").file("d/x", 0o644, b"x").done(), "x"),
        (
            "a file for a folder",
            Tar::new().file("d/e/f", 0o644, b"x").file("d", 0o644, b"x").done(),
            "d",
        ),
        (
            "a link in front of its file",
            Tar::new().link("1", "h", "f").file("f", 0o644, b"x").done(),
            "h",
        ),
        ("a hard link to a link", Tar::new().link("2", "l", "x").link("1", "h", "l").done(), "h"),
        ("a pipe", Tar::new().entry("6", "run/pipe", 0o600, "", b"").done(), "run/pipe"),
        (
            "a whiteout, and a file below it",
            Tar::new().file(".wh.d", 0o644, b"").file("d/x", 0o644, b"x").done(),
            "d/x",
        ),
        ("no end mark", Tar::new().file("x", 0o644, b"x").done()[..1024].to_vec(), "x"),
    ] {
        let layer = fixture.unpack(tar).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(layer.folder().join(path).symlink_metadata().is_ok(), "{name}: no `{path}`");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name} wrote outside");
    }
    let layer = fixture.unpack(
        Tar::new()
            .entry_of(70_000, "0", "theirs", 0o644, "", b"")
            .entry("3", "dev/mem", 0o666, "", b"")
            .done(),
    );
    let layer = layer.unwrap();
    let owner =
        std::os::unix::fs::MetadataExt::uid(&layer.folder().join("theirs").metadata().unwrap());
    assert_eq!(owner - 0x7800_0000, 65_534);
    let device = layer.folder().join("dev/mem").metadata().unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::rdev(&device), 0, "a whiteout, and no device");
}

fn blob_of(tar: &[u8]) -> LayerBlob {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(tar).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", tar);
    LayerBlob { file, descriptor, diff_id: Digest::of(tar) }
}

pub fn stacked_layers(fixture: &TestShim) {
    let lower = Tar::new()
        .entry_of(33, "0", "srv/a", 0o644, "", b"lower a")
        .file("srv/gone", 0o644, b"")
        .link("2", "www", "/srv")
        .done();
    let empty = Tar::new().done();
    let upper = Tar::new()
        .file("srv/.wh.gone", 0o644, b"")
        .link("1", "b", "srv/a")
        .link("1", "c", "/www/a")
        .link("1", "d", "b")
        .done();
    let tars = [&busybox_layer(), &empty, &lower, &empty, &upper, &empty];
    let unpacked = |tars: &[&Vec<u8>]| {
        let blobs = tars.iter().map(|tar| blob_of(tar)).collect();
        fixture.layers.unpacked(&exe(), blobs)
    };
    for _ in 0..2 {
        let mut assignment = fixture.shell("cat /b /c /d; ls -ln /b | head -c 20");
        assignment.program.layers = unpacked(&tars).unwrap();
        assert_eq!(assignment.program.layers.len(), 4, "the empty layer stands there once");
        let said = fixture.run(assignment).2;
        assert!(said.starts_with("lower alower alower a-rw-r--r--    1 33"), "{said}");
        std::fs::remove_file(fixture.folder().join("log")).unwrap();
    }
    // On other layers it is another layer, also when it was unpacked before.
    let error = unpacked(&[&Tar::new().file("other", 0o644, b"").done(), &upper]).unwrap_err();
    assert_eq!(error.code(), "E_LAYER_PATH", "{error}");
    let hidden = Tar::new().file("srv/.wh.a", 0o644, b"").done();
    let error = unpacked(&[&lower, &hidden, &upper]).unwrap_err();
    assert_eq!(error.code(), "E_LAYER_PATH", "{error}");
}

pub fn compressed(fixture: &TestShim) {
    let tar = busybox_layer();
    let mut gzip =
        Command::new("gzip").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut into, plain) = (gzip.stdin.take().unwrap(), tar.clone());
    let writer = std::thread::spawn(move || into.write_all(&plain));
    let gzipped = gzip.wait_with_output().unwrap().stdout;
    writer.join().unwrap().unwrap();
    // A frame of stored blocks, behind a window of 8 MiB.
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68];
    for (index, block) in tar.chunks(128 << 10).enumerate() {
        let last = usize::from((index + 1) * (128 << 10) >= tar.len());
        zstd.extend_from_slice(&(block.len() << 3 | last).to_le_bytes()[..3]);
        zstd.extend_from_slice(block);
    }
    for bytes in [gzipped, zstd] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &bytes);
        let blob = LayerBlob { file, descriptor, diff_id: Digest::of(&tar) };
        let layer = fixture.layers.unpacked(&exe(), vec![blob]).unwrap().remove(0);
        assert!(layer.folder().join("bin/busybox").is_file());
        drop(layer);
        sweep_layers(&[fixture.root.path().join("layers")], 0);
    }
}

/// A file of `bytes`, which differ from one `name` to the next.
fn layer_of(name: &str, bytes: usize) -> Vec<u8> {
    Tar::new().file(name, 0o644, &vec![name.as_bytes()[0]; bytes]).done()
}

/// As a node does above its limit.
fn sweep_layers(folders: &[std::path::PathBuf], bytes_max: u64) -> u64 {
    let layers = folders.iter().flat_map(|folder| shim::unpacked_layers(folder).unwrap());
    let items =
        layers.map(|layer| Item { used: layer.used, key: layer.folder, bytes: layer.bytes });
    let candidates = collect::least_recently_used(items, bytes_max);
    let (swept, result) = collect::sweep(candidates, |folder| {
        shim::remove_unused_layer(folder).map(|gone| match gone {
            true => Removal::Removed,
            false => Removal::InUse,
        })
    });
    result.unwrap();
    swept.bytes
}

pub fn sweep(fixture: &TestShim) {
    let folders = [fixture.root.path().join("layers")];
    let sweep = |bytes_max| sweep_layers(&folders, bytes_max);
    let base = fixture.base();
    let [old, new] = ["old", "new"].map(|name| fixture.unpack(layer_of(name, 1 << 20)).unwrap());
    let used = |layer: &Layer, secs_ago| {
        let mark = std::fs::File::options()
            .write(true)
            .open(layer.folder().with_extension("used"))
            .unwrap();
        mark.set_modified(SystemTime::now() - Duration::from_secs(secs_ago)).unwrap();
    };
    used(&base, 3000);
    used(&old, 2000);
    used(&new, 1000);
    assert_eq!(sweep(0), 0, "they are all held");
    let [base, old, new] = [base, old, new].map(|layer| layer.folder().to_owned());
    assert_eq!(sweep(1 << 30), 0, "there is room");
    // From here on only the container's shim holds its layer, the least recently used.
    let task = fixture
        .spawn(fixture.shell("trap 'exit 5' TERM; while true; do sleep 0.05; done"))
        .unwrap();
    let mark = std::fs::File::options().write(true).open(base.with_extension("used")).unwrap();
    mark.set_modified(SystemTime::now() - Duration::from_secs(3000)).unwrap();
    let all = sweep(0).max(1 << 20);
    assert!(all >= 2 << 20, "{all}");
    assert!(
        base.is_dir() && !old.exists() && !new.exists(),
        "a running container keeps its layer, and no other"
    );
    task.stop(Duration::from_secs(20)).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(5));

    let [old, new] = ["old", "new"]
        .map(|name| fixture.unpack(layer_of(name, 1 << 20)).unwrap().folder().to_owned());
    std::fs::File::open(old.with_extension("used"))
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    std::fs::File::open(base.with_extension("used"))
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    let freed = sweep(3 << 19);
    assert!(!old.exists() && !base.exists() && new.is_dir(), "the one that was used last fits");
    assert!(freed > 1 << 20, "{freed}");
    sweep(0);
    let left: Vec<_> = std::fs::read_dir(new.parent().unwrap()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let gone = Layer::hold(&new).unwrap_err();
    assert_eq!(gone.code(), "E_IO", "{gone}");
    assert_eq!(
        fixture.run(fixture.shell("exit 4")).0,
        Exit::Code(4),
        "what was removed is unpacked again"
    );
}

/// Unpacks what comes in, into the cache in `folder`: to be killed in the middle.
pub fn unpack_stdin(folder: &Path, size: u64) -> ! {
    let file = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", b"");
    descriptor.size = size;
    let blob = LayerBlob { file, descriptor, diff_id: Digest::of(b"interrupted") };
    let _ = Layers::open(folder).unwrap().unpacked(&exe(), vec![blob]);
    std::process::exit(0)
}

pub fn interrupted(fixture: &TestShim) {
    let cache = fixture.root.path().join("layers");
    let mut asker = Command::new(exe())
        .args([Path::new("unpack-stdin"), &cache, Path::new("100000000")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = asker.stdin.take().unwrap();
    let tar = layer_of("big", 4 << 20);
    pipe.write_all(&tar[..2 << 20]).unwrap();
    let parts = || {
        let boots = std::fs::read_dir(&cache).unwrap().flatten();
        let entries = boots.flat_map(|boot| std::fs::read_dir(boot.path()).unwrap().flatten());
        entries
            .filter(|entry| entry.path().extension().is_some_and(|it| it == "part"))
            .collect::<Vec<_>>()
    };
    fixture.wait_for("the first bytes", || {
        parts().iter().any(|part| part.path().join("big").exists())
    });

    let child =
        children_of(asker.id()).pop().expect("it has the layer unpacked by a process of its own");
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    for line in
        ["CapEff:\t000000000000001b", "CapBnd:\t000000000000001b", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.lines().any(|said| said == line), "`{line}` is not in:\n{status}");
    }
    Layers::open(&cache).unwrap();
    assert_eq!(parts().len(), 1, "a process works on it");

    asker.kill().unwrap();
    asker.wait().unwrap();
    fixture.wait_for("the end of the unpacking process", || {
        !Path::new(&format!("/proc/{child}")).exists()
    });
    pipe.write_all(&tar[2 << 20..]).expect_err("the reader has ended");
    let layers = Layers::open(&cache).unwrap();
    assert_eq!(parts().len(), 0, "and what it began is gone");
    assert!(!layers.has_all(&[Digest::of(b"interrupted")]));
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |number: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1) == Some(&parent.to_string())
    };
    numbers.filter(is_child).collect()
}

pub fn bad_runtimes(fixture: &TestShim) {
    use std::os::unix::fs::PermissionsExt;
    for (script, want) in [
        ("#!/bin/sh\nexit 137\n", "failed without an error message"),
        ("#!/bin/sh\nexit 0\n", "without writing its pid file"),
        ("not a program at all", "cannot be started"),
        ("#!/bin/sh\nexit 137\n", "runc 0.1.2"),
    ] {
        let path = fixture.root.path().join("runc");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut assignment = fixture.shell("true");
        assignment.program.runtime.path = path;
        assignment.program.runtime.kind = shim::RuntimeKind::Runc;
        assignment.program.runtime.version = (0, 1, 2);
        let error = fixture.spawn(assignment).unwrap_err();
        assert_eq!(error.code(), "E_RUNTIME", "{error}");
        assert!(error.to_string().contains(want), "{script}: {error}");
        fixture.assert_nothing_left();
    }
}

pub fn complaints(fixture: &TestShim) {
    use std::os::unix::fs::PermissionsExt;
    let path = fixture.root.path().join("runc");
    // Its own log is the argument behind `--log`, the fourth.
    let start = |script: &str| {
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut assignment = fixture.shell("true");
        assignment.program.runtime.path = path.clone();
        assignment.program.runtime.kind = shim::RuntimeKind::Runc;
        assignment.program.runtime.version = (0, 1, 2);
        fixture.spawn(assignment).unwrap_err()
    };
    let said = start(
        "#!/bin/sh\necho '{\"level\":\"error\",\"msg\":\"no such namespace\"}' >> \"$4\"\nexit 1\n",
    );
    assert_eq!(said.code(), "E_START", "{said}");
    assert!(said.to_string().contains("no such namespace"), "{said}");
    assert!(said.hint().unwrap().contains("runc 0.1.2 is older than"), "{said:?}");
    let silent = start("#!/bin/sh\nexit 1\n");
    assert_eq!(
        silent.code(),
        "E_RUNTIME",
        "what it said the last time is not taken for the reason: {silent}"
    );
}

pub fn speed(fixture: &TestShim) {
    let layer = fixture.base();
    let mut times = Vec::new();
    for _ in 0..10 {
        let mut assignment = fixture.assignment(&["true"]);
        assignment.program.layers = vec![layer.clone()];
        let began = Instant::now();
        fixture.run(assignment);
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "  run of /bin/true to its end and cleared away: median {:?}, fastest {:?}",
        times[5], times[0]
    );
    let task = fixture.spawn(fixture.shell("sleep 100")).unwrap();
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", task.status().unwrap().shim_pid))
            .unwrap();
    let of = |key: &str| {
        status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned()
    };
    println!("  the shim meanwhile: {}, {}, {}", of("VmRSS"), of("RssAnon"), of("CapEff"));
    assert_eq!(
        of("CapEff").split_whitespace().nth(1),
        Some("0000000000000022"),
        "it kept more than it needs"
    );
    assert_eq!(of("Threads").split_whitespace().nth(1), Some("1"));
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
    assert!(times[5] < Duration::from_secs(2), "{times:?}");
}
