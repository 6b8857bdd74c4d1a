use std::sync::Arc;

use bytes::Bytes;
use image::{Entry, EntryKind, FileIndexBuilder};

use super::{
    Volume,
    filesystem::{DescriptorFlags, DescriptorType, ErrorCode, NewTimes, OpenFlags, Opening},
    mounts::{Files, Handle},
};

/// `/etc/cat` and `/etc/dog` with four bytes each, `/etc/deep/file`, links to the cat, upwards and
/// to themselves.
fn files(writable: u64) -> Arc<Files> {
    files_with(writable, Vec::new())
}

fn files_with(writable: u64, volumes: Vec<(String, Volume)>) -> Arc<Files> {
    let mut builder = FileIndexBuilder::new();
    let entry = |path: &str, kind, size, offset| Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 7,
        size,
        offset,
        xattrs: Vec::new(),
    };
    let link = |target: &str| EntryKind::Symlink { target: target.into() };
    for entry in [
        entry("etc", EntryKind::Directory, 0, 0),
        entry("etc/cat", EntryKind::File, 4, 0),
        entry("etc/dog", EntryKind::File, 4, 4),
        entry("etc/deep/file", EntryKind::File, 4, 0),
        entry("etc/link", link("cat"), 0, 0),
        entry("etc/absolute", link("/etc/dog"), 0, 0),
        entry("etc/up", link("../etc/cat"), 0, 0),
        entry("etc/self", link("self"), 0, 0),
        entry("etc/folder", link("deep"), 0, 0),
    ] {
        builder.add(&entry).unwrap();
    }
    builder.end_layer().unwrap();
    let layers = vec![Bytes::from_static(b"meowwoof")];
    let secrets = vec![("key".to_owned(), b"secret".to_vec())];
    Arc::new(Files::new(builder.finish().unwrap(), layers, volumes, secrets, writable).unwrap())
}

fn reading() -> Opening {
    Opening { follow: true, open: OpenFlags::empty(), flags: DescriptorFlags::READ }
}

fn writing(open: OpenFlags) -> Opening {
    Opening { follow: true, open, flags: DescriptorFlags::READ | DescriptorFlags::WRITE }
}

fn read(files: &Files, path: &str) -> Result<String, ErrorCode> {
    let handle = files.open(&files.root(), path, reading())?;
    handle.read_at(0, 100).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn write(files: &Files, path: &str, text: &str) -> Result<(), ErrorCode> {
    let handle =
        files.open(&files.root(), path, writing(OpenFlags::CREATE | OpenFlags::TRUNCATE))?;
    handle.write_at(None, text.as_bytes()).map(drop)
}

fn names(files: &Files, path: &str) -> Vec<String> {
    let folder = files.open(&files.root(), path, reading()).unwrap();
    listed(files, &folder)
}

fn listed(files: &Files, folder: &Handle) -> Vec<String> {
    let mut listing = files.list(folder).unwrap();
    std::iter::from_fn(|| files.next_entry(&mut listing).unwrap()).map(|(name, _)| name).collect()
}

#[test]
fn paths_are_walked_as_wasi_asks() {
    let files = files(1 << 20);
    for (path, want) in [
        ("etc/cat", Ok("meow")),
        ("./etc//deep/../cat", Ok("meow")),
        ("etc/link", Ok("meow")),
        ("etc/up", Ok("meow")),
        ("etc/absolute", Ok("woof")),
        ("etc/folder/file", Ok("meow")),
        ("run/secrets/key", Ok("secret")),
        ("etc/none", Err(ErrorCode::NoEntry)),
        ("none/cat", Err(ErrorCode::NoEntry)),
        ("etc/cat/x", Err(ErrorCode::NotDirectory)),
        ("etc/cat/", Err(ErrorCode::NotDirectory)),
        ("etc/link/", Err(ErrorCode::NotDirectory)),
        ("etc/self", Err(ErrorCode::Loop)),
        ("etc/self/x", Err(ErrorCode::Loop)),
        ("/etc/cat", Err(ErrorCode::NotPermitted)),
        ("..", Err(ErrorCode::NotPermitted)),
        ("etc/../../etc/cat", Err(ErrorCode::NotPermitted)),
        ("", Err(ErrorCode::NoEntry)),
        ("etc/c\0at", Err(ErrorCode::IllegalByteSequence)),
        ("etc", Err(ErrorCode::IsDirectory)),
    ] {
        assert_eq!(read(&files, path).as_deref().map_err(|e| *e), want, "{path:?}");
    }
    assert_eq!(read(&files, &"a/".repeat(3000)), Err(ErrorCode::NameTooLong));
    assert_eq!(read(&files, &"a".repeat(256)), Err(ErrorCode::NameTooLong));
}

#[test]
fn a_folder_is_as_far_up_as_its_descriptor_leads() {
    let files = files(1 << 20);
    let deep = files.open(&files.root(), "etc/deep", reading()).unwrap();
    let etc = files.open(&files.root(), "etc", reading()).unwrap();
    let code = |base: &Handle, path: &str| files.open(base, path, reading()).map(drop);
    assert_eq!(code(&deep, "file"), Ok(()));
    for (base, path) in
        [(&deep, "../cat"), (&etc, "up"), (&etc, "absolute"), (&etc, "deep/../../etc/cat")]
    {
        assert_eq!(code(base, path), Err(ErrorCode::NotPermitted), "{path}");
    }
    assert_eq!(code(&etc, "link"), Ok(()));
    assert_eq!(code(&etc, "deep/../cat"), Ok(()));
}

#[test]
fn what_is_written_hides_the_image_and_nothing_else() {
    let files = files(1 << 20);
    let before = files.open(&files.root(), "etc/cat", reading()).unwrap();
    write(&files, "etc/cat", "purr").unwrap();
    assert_eq!(read(&files, "etc/cat").unwrap(), "purr");
    assert_eq!(read(&files, "etc/link").unwrap(), "purr");
    assert_eq!(&before.read_at(0, 9).unwrap()[..], b"meow", "an open descriptor keeps what it had");
    let appending = files.open(&files.root(), "etc/dog", writing(OpenFlags::empty())).unwrap();
    appending.write_at(None, b"!").unwrap();
    assert_eq!(read(&files, "etc/dog").unwrap(), "woof!");
    assert_eq!(read(&files, "etc/deep/file").unwrap(), "meow");
}

#[test]
fn changes_behave_as_files_do() {
    let files = files(1 << 20);
    let root = files.root();
    assert_eq!(files.make_folder(&root, "etc"), Err(ErrorCode::Exist));
    assert_eq!(files.make_folder(&root, "new"), Ok(()));
    assert_eq!(files.make_folder(&root, "none/new"), Err(ErrorCode::NoEntry));
    assert_eq!(files.remove_folder(&root, "etc"), Err(ErrorCode::NotEmpty));
    assert_eq!(files.remove_folder(&root, "etc/cat"), Err(ErrorCode::NotDirectory));
    assert_eq!(files.unlink(&root, "etc"), Err(ErrorCode::IsDirectory));
    assert_eq!(files.unlink(&root, "etc/cat"), Ok(()));
    assert_eq!(read(&files, "etc/cat"), Err(ErrorCode::NoEntry));
    assert_eq!(files.unlink(&root, "etc/cat"), Err(ErrorCode::NoEntry));
    assert_eq!(files.rename((&root, "etc/dog"), (&root, "new/dog")), Ok(()));
    assert_eq!(read(&files, "new/dog").unwrap(), "woof");
    assert_eq!(names(&files, "new"), ["dog"]);
    assert_eq!(
        files.rename((&root, "etc/deep"), (&root, "new/deep")),
        Ok(()),
        "a folder of the image moves"
    );
    assert_eq!(read(&files, "new/deep/file").unwrap(), "meow");
    assert_eq!(read(&files, "etc/deep/file"), Err(ErrorCode::NoEntry));
    assert_eq!(files.rename((&root, "new"), (&root, "new/deep/inside")), Err(ErrorCode::Invalid));
    assert_eq!(files.link((&root, "new/dog", true), (&root, "new/twin")), Ok(()));
    write(&files, "new/twin", "both").unwrap();
    assert_eq!(read(&files, "new/dog").unwrap(), "both");
    assert_eq!(files.make_link(&root, "dog", "new/arrow"), Ok(()));
    assert_eq!(files.make_link(&root, "/etc/dog", "new/out"), Err(ErrorCode::NotPermitted));
    assert_eq!(files.read_link(&root, "new/arrow").unwrap(), "dog");
    assert_eq!(read(&files, "new/arrow").unwrap(), "both");
    assert_eq!(
        files.stat_at(&root, "new/arrow", false).unwrap().kind,
        DescriptorType::SymbolicLink
    );
    for (what, got) in [
        ("unlink", files.unlink(&root, "run/secrets/key")),
        ("rename", files.rename((&root, "run/secrets/key"), (&root, "k"))),
        ("write", write(&files, "run/secrets/key", "x")),
    ] {
        assert_eq!(got, Err(ErrorCode::ReadOnly), "{what} a secret");
    }
}

#[test]
fn a_removed_folder_is_gone_for_descriptors_that_hold_it() {
    let files = files(1 << 20);
    let root = files.root();
    for path in ["made", "etc/deep"] {
        if path == "made" {
            files.make_folder(&root, path).unwrap();
        } else {
            files.unlink(&root, "etc/deep/file").unwrap();
        }
        let held = files.open(&root, path, reading()).unwrap();
        files.remove_folder(&root, path).unwrap();
        files.make_folder(&root, "other").unwrap();
        write(&files, "other/file", "x").unwrap();
        assert!(listed(&files, &held).is_empty(), "{path}");
        assert_eq!(files.make_folder(&held, "x"), Err(ErrorCode::NoEntry), "{path}");
        assert_eq!(
            files.open(&held, "file", reading()).map(drop),
            Err(ErrorCode::NoEntry),
            "{path}"
        );
        files.unlink(&root, "other/file").unwrap();
        files.remove_folder(&root, "other").unwrap();
    }
}

#[test]
fn the_quota_counts_names_too_and_comes_back() {
    let files = files(10_000);
    let root = files.root();
    for _ in 0..1000 {
        files.make_folder(&root, "again").unwrap();
        files.remove_folder(&root, "again").unwrap();
        write(&files, "file", "0123456789").unwrap();
        files.unlink(&root, "file").unwrap();
    }
    let made =
        (0..1000).take_while(|n| files.make_folder(&root, &format!("folder{n}")).is_ok()).count();
    assert_eq!(made, 7, "a folder costs a little more than a KiB");
    let made = (0..1000).take_while(|n| write(&files, &format!("f{n}"), "").is_ok()).count();
    assert!((1..6).contains(&made), "{made} empty files");
    assert_eq!(write(&files, "file", "x"), Err(ErrorCode::InsufficientSpace));
}

#[test]
fn without_a_writable_layer_everything_is_read_only() {
    let files = files(0);
    let root = files.root();
    for (what, got) in [
        ("create", write(&files, "new", "x")),
        ("truncate", write(&files, "etc/cat", "x")),
        ("open to write", files.open(&root, "etc/cat", writing(OpenFlags::empty())).map(drop)),
        (
            "empty by reading",
            files
                .open(&root, "etc/cat", Opening { open: OpenFlags::TRUNCATE, ..reading() })
                .map(drop),
        ),
        ("link", files.link((&root, "etc/cat", true), (&root, "twin"))),
        ("rename", files.rename((&root, "etc/cat"), (&root, "dog"))),
        ("symlink", files.make_link(&root, "x", "y")),
        ("unlink", files.unlink(&root, "etc/cat")),
        ("mkdir", files.make_folder(&root, "x")),
        ("rmdir", files.remove_folder(&root, "etc/deep")),
        ("times", files.set_times_at(&root, "etc", true, NewTimes::modified(1))),
    ] {
        assert_eq!(got, Err(ErrorCode::ReadOnly), "{what}");
    }
    assert_eq!(read(&files, "etc/cat").unwrap(), "meow");
}

#[test]
fn a_link_is_charged_for_its_target_and_refuses_a_long_one() {
    let files = files(20_000);
    let root = files.root();
    assert_eq!(files.make_link(&root, &"a".repeat(4097), "long"), Err(ErrorCode::NameTooLong));
    let target = "a".repeat(4096);
    let made = (0..100)
        .take_while(|n| files.make_link(&root, &target, &format!("link{n}")).is_ok())
        .count();
    assert_eq!(made, 4);
    for n in 0..made {
        files.unlink(&root, &format!("link{n}")).unwrap();
    }
    let again = (0..100)
        .take_while(|n| files.make_link(&root, &target, &format!("link{n}")).is_ok())
        .count();
    assert_eq!(again, made, "what was taken comes back");
}

#[test]
fn a_path_through_long_links_ends_soon() {
    let files = files(1 << 20);
    let root = files.root();
    files.make_folder(&root, "a").unwrap();
    let up_and_down = format!("{}a", "a/../".repeat(800));
    files.make_link(&root, &up_and_down, "long").unwrap();
    assert!(files.stat_at(&root, "long", true).is_ok(), "one long link is fine");
    files.make_link(&root, &"long/../".repeat(500), "longer").unwrap();
    assert_eq!(files.stat_at(&root, "longer", true).map(drop), Err(ErrorCode::Loop));
}

#[test]
fn a_listing_follows_the_folder_and_holds_no_copy() {
    let files = files(1 << 20);
    let root = files.root();
    files.unlink(&root, "etc/cat").unwrap();
    for name in ["aardvark", "doe", "zebra"] {
        write(&files, &format!("etc/{name}"), "x").unwrap();
    }
    write(&files, "etc/dog", "x").unwrap();
    let want =
        ["aardvark", "absolute", "deep", "doe", "dog", "folder", "link", "self", "up", "zebra"];
    assert_eq!(names(&files, "etc"), want);
    let etc = files.open(&root, "etc", reading()).unwrap();
    let mut listing = files.list(&etc).unwrap();
    let mut next = || files.next_entry(&mut listing).unwrap().map(|(name, _)| name);
    assert_eq!(next().as_deref(), Some("aardvark"));
    files.unlink(&root, "etc/absolute").unwrap();
    files.unlink(&root, "etc/aardvark").unwrap();
    assert_eq!(next().as_deref(), Some("deep"));
}

#[test]
fn a_rename_beyond_the_quota_changes_nothing() {
    // The quota has place for the new name and not for the whiteout of the old one: whichever way
    // it is cut, nothing may move.
    for quota in 1..4000 {
        let files = files(quota);
        let root = files.root();
        let before = names(&files, "etc");
        match files.rename((&root, "etc/dog"), (&root, "etc/wolf")) {
            Ok(()) => {
                assert_eq!(read(&files, "etc/dog"), Err(ErrorCode::NoEntry), "with {quota} bytes");
                assert_eq!(read(&files, "etc/wolf").unwrap(), "woof", "with {quota} bytes");
            }
            Err(error) => {
                assert_eq!(error, ErrorCode::InsufficientSpace);
                assert_eq!(names(&files, "etc"), before, "with {quota} bytes");
            }
        }
    }
}

#[test]
fn a_folder_that_was_replaced_leaves_nothing_behind() {
    let files = files(10_000);
    let root = files.root();
    for round in 0..1000 {
        files.make_folder(&root, "one").unwrap();
        files.make_folder(&root, "two").unwrap();
        assert_eq!(files.rename((&root, "one"), (&root, "two")), Ok(()), "round {round}");
        files.remove_folder(&root, "two").unwrap();
    }
    assert!(files.union.read().folders() < 10, "{} slots", files.union.read().folders());
}

#[test]
fn a_volume_at_the_root_is_an_error() {
    let mut builder = FileIndexBuilder::new();
    builder.end_layer().unwrap();
    let folder = std::fs::File::open("/").unwrap().into();
    let volume = Volume::new(folder, spec::Rights::READ, None).unwrap();
    let volumes = vec![("/".to_owned(), volume)];
    let made = Files::new(builder.finish().unwrap(), vec![Bytes::new()], volumes, Vec::new(), 0);
    assert_eq!(
        made.err().as_deref(),
        Some("a volume cannot be mounted at `/`: give it a folder of its own")
    );
}

/// The union, a volume, and a volume with a limit.
#[test]
fn every_filesystem_behaves_alike() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let rights = spec::Rights::READ_WRITE_DELETE;
    let volume = |at: usize, max_bytes| {
        let root = std::fs::File::open(dirs[at].path()).unwrap().into();
        Volume::new(root, rights, max_bytes).unwrap()
    };
    let volumes = vec![
        ("/volume".to_owned(), volume(0, None)),
        ("/limited".to_owned(), volume(1, Some(1 << 20))),
    ];
    let files = files_with(1 << 20, volumes);
    files.make_folder(&files.root(), "union").unwrap();
    for name in ["union", "volume", "limited"] {
        changes_have_the_same_results(&files, name);
        descriptors_allow_what_they_were_opened_for(&files, name);
    }
    let root = files.root();
    let moved = files.rename((&root, "union/file"), (&root, "volume/moved"));
    assert_eq!(moved, Err(ErrorCode::CrossDevice));
    assert_eq!(files.remove_folder(&root, "volume"), Err(ErrorCode::Busy));
    assert_eq!(files.unlink(&root, "limited"), Err(ErrorCode::IsDirectory));
    assert_eq!(files.make_folder(&root, "volume"), Err(ErrorCode::Exist));
    let kind = |path| files.stat_at(&root, path, true).map(|stat| stat.kind);
    assert_eq!(kind("volume/../etc/cat"), Err(ErrorCode::NotPermitted));
}

fn changes_have_the_same_results(files: &Files, name: &str) {
    let root = files.root();
    let at = |path: &str| format!("{name}/{path}");
    let make = |path: &str| files.make_folder(&root, &at(path));
    let rename = |from: &str, to: &str| files.rename((&root, &at(from)), (&root, &at(to)));
    for (what, got, want) in [
        ("a folder", make("folder"), Ok(())),
        ("a folder that is there", make("folder"), Err(ErrorCode::Exist)),
        ("a folder in none", make("none/folder"), Err(ErrorCode::NoEntry)),
        ("a file", write(files, &at("file"), "meow"), Ok(())),
        ("a file in a folder", write(files, &at("folder/file"), "woof"), Ok(())),
        ("a file below a file", write(files, &at("file/file"), ""), Err(ErrorCode::NotDirectory)),
        ("a file in place of a folder", write(files, &at("folder"), ""), {
            Err(ErrorCode::IsDirectory)
        }),
        ("a file with a slash", write(files, &at("new/"), ""), Err(ErrorCode::IsDirectory)),
        ("a link", files.make_link(&root, "file", &at("link")), Ok(())),
        ("a link that is there", files.make_link(&root, "x", &at("link")), Err(ErrorCode::Exist)),
        ("unlink a folder", files.unlink(&root, &at("folder")), Err(ErrorCode::IsDirectory)),
        ("unlink nothing", files.unlink(&root, &at("none")), Err(ErrorCode::NoEntry)),
        ("remove a file", files.remove_folder(&root, &at("file")), Err(ErrorCode::NotDirectory)),
        ("remove a full folder", files.remove_folder(&root, &at("folder")), {
            Err(ErrorCode::NotEmpty)
        }),
        ("a folder into itself", rename("folder", "folder/inside"), Err(ErrorCode::Invalid)),
        ("a file over a folder", rename("file", "folder"), Err(ErrorCode::IsDirectory)),
        ("a folder over a file", rename("folder", "file"), Err(ErrorCode::NotDirectory)),
        ("a file over a file", rename("folder/file", "file"), Ok(())),
        ("remove an empty folder", files.remove_folder(&root, &at("folder")), Ok(())),
        ("unlink a link", files.unlink(&root, &at("link")), Ok(())),
        ("another link", files.make_link(&root, "file", &at("arrow")), Ok(())),
    ] {
        assert_eq!(got, want, "{what} in {name}");
    }
    assert_eq!(read(files, &at("file")).unwrap(), "woof", "{name}");
    assert_eq!(read(files, &at("arrow")).unwrap(), "woof", "{name}");
    assert_eq!(files.read_link(&root, &at("arrow")).unwrap(), "file", "{name}");
    let mut listed = names(files, name);
    listed.sort();
    assert_eq!(listed, ["arrow", "file"], "{name}");
}

fn descriptors_allow_what_they_were_opened_for(files: &Files, name: &str) {
    let (root, path) = (files.root(), format!("{name}/file"));
    let open = |opening| files.open(&root, &path, opening);
    let exclusive = writing(OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
    let as_folder = Opening { open: OpenFlags::DIRECTORY, ..reading() };
    let link = files.open(&root, &format!("{name}/arrow"), Opening { follow: false, ..reading() });
    for (what, got, want) in [
        ("exclusively", open(exclusive).map(drop), ErrorCode::Exist),
        ("as a folder", open(as_folder).map(drop), ErrorCode::NotDirectory),
        ("a link itself", link.map(drop), ErrorCode::Loop),
    ] {
        assert_eq!(got, Err(want), "{what} in {name}");
    }
    let reader = open(reading()).unwrap();
    assert_eq!(reader.write_at(None, b"x"), Err(ErrorCode::BadDescriptor), "{name}");
    assert_eq!(reader.set_len(0), Err(ErrorCode::BadDescriptor), "{name}");
    let writer = open(Opening { flags: DescriptorFlags::WRITE, ..reading() }).unwrap();
    assert_eq!(writer.read_at(0, 1), Err(ErrorCode::BadDescriptor), "{name}");
    assert_eq!(writer.write_at(None, b"!"), Ok(5), "{name}");
    assert_eq!(writer.write_at(Some(0), b"W"), Ok(1), "{name}");
    assert_eq!(&reader.read_at(0, 9).unwrap()[..], b"Woof!", "{name}");
    assert_eq!(files.stat(&reader).unwrap().size, 5, "{name}");
    let emptied = open(Opening { open: OpenFlags::TRUNCATE, ..reading() }).unwrap();
    assert_eq!(files.stat(&emptied).unwrap().size, 0, "{name}");
    assert_eq!(emptied.write_at(None, b"x"), Err(ErrorCode::BadDescriptor), "{name}");
    let before = files.stat(&reader).unwrap().times;
    let modified = NewTimes { accessed: None, modified: Some((7, 8)) };
    assert_eq!(files.set_times(&writer, modified), Ok(()), "{name}");
    let times = files.stat(&reader).unwrap().times;
    assert_eq!((times.accessed, times.modified), (before.accessed, (7, 8)), "{name}");
    let accessed = NewTimes { accessed: Some((9, 10)), modified: None };
    assert_eq!(files.set_times(&writer, accessed), Ok(()), "{name}");
    let times = files.stat(&reader).unwrap().times;
    assert_eq!((times.accessed, times.modified), ((9, 10), (7, 8)), "{name}");
}
