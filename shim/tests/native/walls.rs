use std::{os::unix::fs::MetadataExt, path::Path};

use engine::{Exit, VolumeMount};
use shim::{Assignment, RootAccess};

use crate::fixture::{Tar, TestShim, config, exe, grant};

/// The first id of files of containers on disk.
const FIRST_ID: u32 = 2_013_265_920;

pub fn walls(fixture: &TestShim) {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let runtime = std::fs::read(&fixture.runtime.path).unwrap();
    let script = "
        grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
        echo fds: $(ls /proc/self/fd | wc -l)
        echo x > /proc/sys/kernel/core_pattern; echo core_pattern $?
        echo h > /proc/sysrq-trigger; echo sysrq $?
        echo x > /sys/kernel/uevent_helper; echo sys $?
        mknod /tmp/dev b 8 0; echo mknod $?
        mknod /tmp/hidden c 0 0; echo whiteout $?
        unshare -Ur true; echo unshare $?
        mount -t tmpfs none /srv; echo mount $?
        cat /proc/kcore | head -c 1 | wc -c
        touch /x; echo root $?
        touch /etc/x; echo etc $?
        touch /tmp/x; echo tmp $?
        echo x > /proc/1/exe; echo exe $?
        ls /dev
        cat /proc/net/dev | wc -l
        kill -0 2; echo other $?
        cat /proc/self/uid_map
        hostname dog; echo hostname $?
        chown 70000 /tmp/x; echo chown $?
        chown 33 /tmp/x; echo own $?
    ";
    let (exit, _, said) = fixture.run(fixture.shell(script));
    assert_eq!(exit, Exit::Code(0), "{said}");
    for line in [
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
        // SYS_CHROOT, SETFCAP: over its own users and files.
        "CapEff:\t00000000800405fb",
        "CapBnd:\t00000000800405fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "fds: 4", // 0 to 2, and the one that lists them
        "core_pattern 1",
        "sysrq 1",
        "sys 1",
        "mknod 1",
        "unshare 1",
        "mount 1",
        "0",
        "root 0",
        "etc 0",
        "tmp 0",
        "whiteout 1",
        "exe 1",
        "3", // two lines of head, and loopback
        "hostname 1",
        "chown 1",
        "own 0",
    ] {
        assert!(said.lines().any(|said| said == line), "`{line}` is not in:\n{said}");
    }
    let map = said.lines().find(|line| line.ends_with(" 65536")).unwrap_or_default();
    let first = map.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap();
    assert!(
        first > FIRST_ID && (first - FIRST_ID).is_multiple_of(65_536),
        "a range of its own: {said}"
    );
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    assert!(std::fs::read(&fixture.runtime.path).unwrap() == runtime, "the runtime was changed");
}

/// In the container: what a program could try that changes the machine, or that opens the kernel
/// wide.
pub fn try_syscalls() -> ! {
    let attempts: &[(&str, libc::c_long, [libc::c_long; 3])] = &[
        ("bpf", libc::SYS_bpf, [0, 0, 0]),
        ("clone(NEWUSER)", libc::SYS_clone, [libc::CLONE_NEWUSER as _, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("mount_setattr", libc::SYS_mount_setattr, [0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
        ("personality(READ_IMPLIES_EXEC)", libc::SYS_personality, [0x0040_0000, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0]),
        ("ptrace(ATTACH)", libc::SYS_ptrace, [16, 1, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0]),
        ("socket(ALG)", libc::SYS_socket, [38, 5, 0]),
        ("socket(NETLINK, NETFILTER)", libc::SYS_socket, [16, 3, 12]),
        ("socket(PACKET)", libc::SYS_socket, [17, 3, 0]),
        ("socket(VSOCK)", libc::SYS_socket, [40, 1, 0]),
        ("unshare(NEWNET)", libc::SYS_unshare, [libc::CLONE_NEWNET as _, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0]),
        // These two are refused for want of a capability, not by the list of calls.
        ("socket(INET, RAW)", libc::SYS_socket, [2, 3, 1]),
        ("setuid(70000)", libc::SYS_setuid, [70_000, 0, 0]),
    ];
    for (name, number, [a, b, c]) in attempts {
        // SAFETY: each call either fails at once or does nothing with null pointers and empty
        // lengths.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, 0, 0, 0) };
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        println!("{name} {}", if result >= 0 { "ALLOWED".to_owned() } else { error.to_string() });
    }
    std::process::exit(0)
}

pub fn syscalls(fixture: &TestShim) {
    // This very program and the libraries that it has loaded, as a layer.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut libraries: Vec<_> =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    libraries.retain(|path| path.contains(".so"));
    libraries.sort_unstable();
    libraries.dedup();
    let mut tar = Tar::new();
    tar.file("probe", 0o755, &std::fs::read(exe()).unwrap());
    for library in libraries {
        tar.file(&library[1..], 0o755, &std::fs::read(library).unwrap());
    }
    let interpreter = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    for path in interpreter.into_iter().filter(|path| Path::new("/").join(path).exists()) {
        tar.file(path, 0o755, &std::fs::read(Path::new("/").join(path)).unwrap());
    }
    let layer = fixture.unpack(tar.done()).unwrap();
    let mut assignment = fixture.assignment(&["/probe", "try-syscalls"]);
    assignment.program.layers.push(layer);
    let (exit, _, said) = fixture.run(assignment);
    assert_eq!((exit, said.lines().count()), (Exit::Code(0), 25), "{said}");
    for line in said.lines() {
        let (name, outcome) = line.rsplit_once(' ').unwrap();
        let want: &[&str] = match name {
            "clone3" => &["38"],
            "setuid(70000)" => &["1", "22"],
            _ => &["1"],
        };
        assert!(want.contains(&outcome), "{name}: {outcome}\n{said}");
    }
}

pub fn replaced_folders(fixture: &TestShim) {
    for folder in ["proc", "sys", "dev", "tmp", "dev/null"] {
        for target in ["/srv", "../../srv", "/proc/self/cwd"] {
            let mut tar = Tar::new();
            tar.link("2", folder, target);
            let Ok(layer) = fixture.unpack(tar.done()) else { continue };
            let mut assignment =
                fixture.shell("echo x > /proc/sys/kernel/core_pattern; ls /; mount");
            assignment.program.layers.push(layer);
            // Refused, or started with the kernel's folders where they belong.
            if let Ok(task) = fixture.spawn(assignment) {
                task.wait().unwrap();
                let said = fixture.log();
                assert!(
                    said.contains("proc on /proc type proc") || said.is_empty(),
                    "{folder} -> {target}: {said}"
                );
            }
            std::fs::remove_file(fixture.folder().join("log")).ok();
        }
    }
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), "x\n");
    assert!(
        std::fs::metadata("/dev/null").unwrap().mode() & 0o170_000 == 0o020_000,
        "the host's /dev/null is a device"
    );
}

fn read_only(mut assignment: Assignment) -> Assignment {
    assignment.program.root = RootAccess::ReadOnly;
    assignment
}

pub fn writes(fixture: &TestShim) {
    let script = "touch /x && touch /srv/new && echo both; dd if=/dev/zero of=/srv/big bs=1M count=100 2>/dev/null || echo full";
    let mut assignment = read_only(fixture.shell(script));
    assignment.grants = vec![grant("fs:/#rw")].into();
    assignment.limits.writable_bytes_max = 8 << 20;
    assert_eq!(fixture.run(assignment).2, "both\nfull\n");
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let mut assignment = read_only(fixture.shell(
        "touch /srv/new && echo srv; touch /x || echo root; touch /new/folder/x && echo made",
    ));
    assignment.grants = vec![grant("fs:/srv#rw"), grant("fs:/new/folder#rw")].into();
    let said = fixture.run(assignment).2;
    assert!(
        ["srv\n", "touch: /x: Read-only file system\n", "root\n", "made\n"]
            .iter()
            .all(|line| said.contains(line)),
        "{said}"
    );
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let said = fixture.run(read_only(fixture.shell("ls /srv"))).2;
    assert_eq!(said, "index.html\n", "what one container wrote is gone with it");
}

pub fn volumes(fixture: &TestShim) {
    let folder = fixture.root.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    rustix::fs::chmod(&folder, rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
    std::fs::write(folder.join("old"), "kept\n").unwrap();
    let mount = |rights: &str| VolumeMount {
        path: "/data".to_owned(),
        rights: rights.parse().unwrap(),
        source: engine::VolumeSource::Folder(folder.clone()),
        bytes_max: None,
    };
    let script =
        "cat /data/old; echo new > /data/new && echo wrote; cd /data/.. && pwd; ls /data/../..";
    let mut assignment = fixture.shell(script);
    assignment.grants = vec![grant("fs:/data#rwd;volume=book")].into();
    assignment.volumes = vec![mount("rwd")];
    let said = fixture.run(assignment).2;
    assert!(
        said.starts_with("kept\nwrote\n/\n") && said.contains("data\n") && !said.contains("volume"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "new\n");
    assert_eq!(std::fs::metadata(folder.join("new")).unwrap().uid(), FIRST_ID);
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let mut assignment = fixture.shell("cat /data/new; echo x > /data/no || echo denied");
    assignment.grants = vec![grant("fs:/data#r;volume=book")].into();
    assignment.volumes = vec![mount("r")];
    let said = fixture.run(assignment).2;
    assert!(
        said.contains("new\n") && said.contains("denied\n") && said.contains("Read-only"),
        "{said}"
    );
    let mut assignment = fixture.shell("true");
    assignment.volumes = vec![mount("r")];
    assert!(
        fixture.spawn(assignment).unwrap_err().to_string().contains("needs the grant `fs:/data#r`")
    );
}

pub fn hostile_config(fixture: &TestShim) {
    let links = Tar::new().link("2", "fd", "/proc/self/fd/7").link("2", "up", "../../../..").done();
    let links = match fixture.unpack(links) {
        Ok(path) => path,
        // The reader refuses links that climb out by their text alone.
        Err(error) => {
            assert_eq!(error.code(), "E_LAYER_PATH", "{error}");
            fixture.unpack(Tar::new().link("2", "fd", "/proc/self/fd/7").done()).unwrap()
        }
    };
    for (user, folder, want) in [
        (None, Some("/proc/self/fd/7"), "belongs to the kernel"),
        (None, Some("/fd"), "leads through a link"),
        (None, Some("relative"), "not an absolute path"),
        (None, Some("/srv/../../.."), "not an absolute path"),
        (Some("4294967296"), None, "not the number"),
        (Some("65536"), None, "below 65536"),
        (Some("ghost"), None, "has no `ghost`"),
    ] {
        let mut assignment = fixture.shell("true");
        assignment.program.layers.push(links.clone());
        assignment.program.config = config(|image| {
            image.user = user.map(str::to_owned);
            image.working_dir = folder.map(str::to_owned);
        });
        let error = fixture.spawn(assignment).unwrap_err();
        assert_eq!(error.code(), "E_CONFIG", "{error}");
        assert!(error.to_string().contains(want), "{user:?} {folder:?}: {error}");
    }
    let mut assignment = fixture.shell("pwd; id -u; id -G; echo $HOME $A");
    assignment.env.insert("A".to_owned(), "b".to_owned());
    assignment.program.config = config(|image| {
        image.user = Some("www".to_owned());
        image.working_dir = Some("/srv/deep/er".to_owned());
    });
    assert_eq!(fixture.run(assignment).2, "/srv/deep/er\n33\n33 80\n/srv b\n");
}
