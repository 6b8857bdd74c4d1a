use std::{
    fs,
    io::{self, Read, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt, symlink},
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use engine::exec::{Copied, Link, Owners};
use image::{Attributes, write_header};

use super::*;

const PLAIN: Extraction = Extraction { owners: Owners::Own, modes: Modes::Plain };
const MODE: Attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 1 };

fn open(folder: &Path) -> OwnedFd {
    File::open(folder).unwrap().into()
}

fn into(archive: impl Read, folder: &Path) -> Result<Copied, String> {
    let open = open(folder);
    extract(archive, open.as_fd(), PLAIN, || Ok(())).map_err(|error| error.to_string())
}

/// An archive of headers as they are, whatever a well-meant writer thinks of them.
fn archive(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, content) in entries {
        let is_file = *kind == b'0';
        let (size, target) = if is_file { (content.len() as u64, "") } else { (0, *content) };
        write_header(&mut out, name.as_bytes(), *kind, size, target.as_bytes(), MODE).unwrap();
        if is_file {
            out.extend(content.as_bytes());
            out.resize(out.len().next_multiple_of(512), 0);
        }
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("a/b/file"), "text").unwrap();
    fs::hard_link(from.join("a/b/file"), from.join("a/z")).unwrap();
    fs::set_permissions(from.join("a/b/file"), PermissionsExt::from_mode(0o4750)).unwrap();
    fs::set_permissions(from.join("a/b"), PermissionsExt::from_mode(0o550)).unwrap();
    symlink("../outside", from.join("a/link")).unwrap();
    let sparse = File::create(from.join("a/sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    (&sparse).write_all(b"begin").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, from.join("a/pipe"), Mode::RWXU).unwrap();

    let mut packed = Vec::new();
    let copied = pack(Source::Host(&from.join("a")), Link::Itself, b"new", &mut packed).unwrap();
    assert_eq!((copied.left_out, copied.left_out_first.as_deref()), (1, Some("new/pipe")));
    into(&packed[..], &to).unwrap();
    assert_eq!(names(&to), ["new"]);
    assert_eq!(names(&to.join("new")), ["b", "link", "sparse", "z"]);
    let of = |path: &str| fs::symlink_metadata(to.join("new").join(path)).unwrap();
    assert_eq!(of("b/file").mode() & 0o7777, 0o750, "without its set-user-id bit");
    assert_eq!((of("b").mode() & 0o7777, of("b/file").ino()), (0o550, of("z").ino()));
    assert_eq!(fs::read_link(to.join("new/link")).unwrap(), Path::new("../outside"));
    assert_eq!(of("sparse").len(), 50 << 20);
    assert!(of("sparse").blocks() < 1000, "its hole stays one: {} blocks", of("sparse").blocks());
    // Once more over itself, and its content elsewhere.
    into(&packed[..], &to).unwrap();
    let mut packed = Vec::new();
    pack(Source::Host(&from), Link::Itself, b"", &mut packed).unwrap();
    into(&packed[..], &to).unwrap();
    assert_eq!(names(&to), ["a", "new"]);
}

#[test]
fn no_archive_writes_outside_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (to, outside) = (folder.path().join("to"), folder.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "host").unwrap();
    let up = outside.to_str().unwrap();
    let long = "x/".repeat(2500);
    for (entries, why) in [
        (&[("../outside/x", b'0', "x")][..], "could leave"),
        (&[("a/../../outside/x", b'0', "x")], "could leave"),
        (&[("l", b'2', up), ("l/x", b'0', "x")], "`l"),
        (&[("l", b'2', "../outside"), ("l/x", b'0', "x")], "`l"),
        (&[("d", b'5', ""), ("d/l", b'2', up), ("d/l/x", b'0', "x")], "d/l"),
        (&[("h", b'1', "../outside/secret")], "`h`"),
        (&[("h", b'1', "here")], "`here`, which is not in the archive"),
        (&[("l", b'2', "../outside/secret"), ("h", b'1', "l")], "`l`, which is not in the archive"),
        (&[("folder", b'0', "x")], "cannot overwrite folder `folder`"),
        (&[("here", b'5', "")], "cannot overwrite `here`"),
        (&[("here/x", b'0', "x")], "`here"),
        (&[("a/.wh.b", b'0', "")], "`.wh.`"),
        (&[(long.as_str(), b'5', "")], "long"),
        (&[("x", b'9', "")], "a kind that tar does not define"),
    ] {
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(to.join("folder")).unwrap();
        fs::write(to.join("here"), "mine").unwrap();
        let error = into(&archive(entries)[..], &to).unwrap_err();
        assert!(error.contains(why), "{entries:?}: {error}");
        assert_eq!(names(&outside), ["secret"], "{entries:?}");
        assert_eq!(fs::read_to_string(to.join("here")).unwrap(), "mine", "{entries:?}");
        let left = names(&to);
        assert!(!left.iter().any(|name| name.starts_with(".margay")), "{entries:?}: {left:?}");
    }
    // What is odd and harmless: absolute names, and a file where a link was.
    symlink("../outside/secret", to.join("was-link")).unwrap();
    let odd = [("/abs", b'0', "x"), ("was-link", b'0', "x"), ("dev", b'3', ""), ("p", b'6', "")];
    let copied = into(&archive(&odd)[..], &to).unwrap();
    assert_eq!(copied.left_out, 2);
    assert!(to.join("abs").is_file() && !to.join("was-link").is_symlink());
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "host");
}

#[test]
fn a_folder_that_becomes_a_link_meanwhile_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (to, outside) = (folder.path().join("to"), folder.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(to.join("d")).unwrap();
    let files: Vec<String> = (0..200).map(|n| format!("d/{n}/x")).collect();
    let entries: Vec<_> = files.iter().map(|name| (name.as_str(), b'0', "x")).collect();
    let bytes = archive(&entries);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = fs::rename(to.join("d"), to.join("away"));
                let _ = symlink(&outside, to.join("d"));
                let _ = fs::remove_file(to.join("d"));
                let _ = fs::rename(to.join("away"), to.join("d"));
            }
        });
        // Most of them fail, each in another place.
        for _ in 0..50 {
            let _ = into(&bytes[..], &to);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(names(&outside), [""; 0], "nothing was written there");
}

#[test]
fn what_breaks_off_leaves_nothing_that_looks_whole() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = archive(&[("new", b'5', ""), ("new/a", b'0', "text"), ("new/b", b'0', "text")]);
    for cut in [600, 1100, 1600, bytes.len() - 1024] {
        let error = into(&bytes[..cut], folder.path()).unwrap_err();
        assert!(error.contains("cut short"), "{cut}: {error}");
        assert_eq!(names(folder.path()), [""; 0], "{cut}");
    }
    // Whole, and the other end says that it is not.
    let open = open(folder.path());
    let refused = || Err(io::Error::other("the other end failed"));
    extract(&bytes[..], open.as_fd(), PLAIN, refused).unwrap_err();
    assert_eq!(names(folder.path()), [""; 0]);
    into(&bytes[..], folder.path()).unwrap();
    assert_eq!(names(folder.path()), ["new"]);
}

#[test]
fn endless_archives_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut pipe = Vec::new();
    write_header(&mut pipe, b"p", b'6', 0, b"", MODE).unwrap();
    struct Endless(Vec<u8>, usize);
    impl Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(self.0.len() - self.1);
            buf[..n].copy_from_slice(&self.0[self.1..][..n]);
            self.1 = (self.1 + n) % self.0.len();
            Ok(n)
        }
    }
    let error = into(Endless(pipe.repeat(1000), 0), folder.path()).unwrap_err();
    assert!(error.contains("2000000 entries"), "{error}");
    let mut huge = Vec::new();
    write_header(&mut huge, b"huge", b'0', 1 << 41, b"", MODE).unwrap();
    let error = into(&huge[..], folder.path()).unwrap_err();
    assert!(error.contains("`huge`"), "{error}");
    // A hundred bytes that say that they are a file of 32 TiB.
    let mut records = Vec::new();
    for line in ["GNU.sparse.major=1", "GNU.sparse.name=s", "GNU.sparse.realsize=35184372088832"] {
        records.extend(format!("{} {line}\n", line.len() + 4).into_bytes());
    }
    let mut sparse = Vec::new();
    write_header(&mut sparse, b"x", b'x', records.len() as u64, b"", MODE).unwrap();
    records.resize(512, 0);
    sparse.extend(records);
    write_header(&mut sparse, b"s", b'0', 512, b"", MODE).unwrap();
    let mut map = b"0\n".to_vec();
    map.resize(512, 0);
    sparse.extend(map);
    let error = into(&sparse[..], folder.path()).unwrap_err();
    assert!(error.contains("`s`") || error.contains("sparse"), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn no_link_below_a_root_leads_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(folder.path().join("secret"), "host").unwrap();
    fs::write(root.join("secret"), "container").unwrap();
    symlink("../../../../secret", root.join("etc/up")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    let open = open(&root);
    let packed = |path: &str, link| {
        let mut out = Vec::new();
        pack(Source::Below(open.as_fd(), path), link, b"x", &mut out).map(|_| out)
    };
    let to = tempfile::tempdir().unwrap();
    into(&packed("/etc/up", Link::Target).unwrap()[..], to.path()).unwrap();
    assert_eq!(fs::read_to_string(to.path().join("x")).unwrap(), "container");
    assert!(packed("/magic/etc", Link::Target).is_err());
    assert!(packed("/../secret", Link::Target).is_ok_and(|out| out.len() == 2048));
    into(&packed("/etc/up", Link::Itself).unwrap()[..], to.path()).unwrap();
    assert!(to.path().join("x").is_symlink());
}
