use std::io::Write as _;

use serde_json::json;

use std::fs;

use blobs::collect::Swept;

use super::*;

fn layout() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path().join("images")).unwrap();
    (dir, layout)
}

/// An image that is one program with this content.
fn image(layout: &Layout, content: &str) -> Descriptor {
    let config = Descriptor::of(MediaType::WASM_CONFIG, b"{}");
    let bytes = [b"\0asm\x01\0\0\0", content.as_bytes()].concat();
    let layer = Descriptor::of(MediaType::WASM, &bytes);
    let manifest =
        serde_json::to_vec(&json!({ "schemaVersion": 2, "config": config, "layers": [layer] }))
            .unwrap();
    for blob in [b"{}".as_slice(), &bytes, &manifest] {
        layout.write_blob(blob).unwrap();
    }
    Descriptor::of(MediaType::OCI_MANIFEST, &manifest)
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

#[test]
fn a_name_leads_to_the_image_that_got_it_last() {
    let (_dir, layout) = layout();
    let (first, second) = (image(&layout, "1"), image(&layout, "2"));
    assert_eq!(layout.resolve(&name("cats")).unwrap(), None);
    layout.tag(&name("cats"), &first).unwrap();
    layout.tag(&name("cats:v1"), &first).unwrap();
    layout.tag(&name("cats"), &second).unwrap();
    layout.tag(&name("localhost:5000/me/cats:v1"), &second).unwrap();
    let resolved = |text: &str| layout.resolve(&name(text)).unwrap().map(|found| found.digest);
    for (text, want) in [
        ("cats", Some(second.digest)),
        ("cats:latest", Some(second.digest)),
        ("cats:v1", Some(first.digest)),
        ("localhost:5000/me/cats:v1", Some(second.digest)),
        ("cats:v2", None),
        ("me/cats:v1", None),
        (&format!("cats@{}", first.digest), Some(first.digest)),
        (&format!("cats:v9@{}", second.digest), Some(second.digest)),
        (&format!("dogs@{}", first.digest), None),
    ] {
        assert_eq!(resolved(text), want, "{text}");
    }
    let names: Vec<_> =
        layout.list().unwrap().iter().map(|image| image.reference.to_string()).collect();
    assert_eq!(names, ["cats:latest", "cats:v1", "localhost:5000/me/cats:v1"]);
}

#[test]
fn an_image_without_a_name_is_pruned_and_one_with_a_name_is_not() {
    let (_dir, layout) = layout();
    let (first, second) = (image(&layout, "1"), image(&layout, "2"));
    layout.tag(&name("cats"), &first).unwrap();
    layout.tag(&name("dogs"), &second).unwrap();
    assert_eq!(layout.untag(&name("cats")).unwrap().digest, first.digest);
    let error = layout.untag(&name("cats")).unwrap_err();
    assert_eq!(error.to_string(), "there is no local image `cats:latest`");
    assert_eq!(layout.prune().unwrap().items, 2); // the config is shared with dogs
    assert!(!layout.has_blob(&first.digest, first.size));
    assert_eq!(
        layout
            .closure(&second)
            .unwrap()
            .iter()
            .filter(|b| layout.has_blob(&b.digest, b.size))
            .count(),
        3
    );
    assert_eq!(layout.prune().unwrap(), Swept::default());
}

/// As deep as a pull follows them: one image that cannot be pruned would keep everything
/// here for ever.
#[test]
fn an_index_in_an_index_is_an_image_like_others() {
    let (_dir, layout) = layout();
    let program = image(&layout, "1");
    let index_of = |entries: &[&Descriptor]| {
        let bytes =
            serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": entries })).unwrap();
        layout.write_blob(&bytes).unwrap();
        Descriptor::of(MediaType::OCI_INDEX, &bytes)
    };
    let inner = index_of(&[&program]);
    let middle = index_of(&[&inner]);
    let outer = index_of(&[&middle, &middle]);
    layout.tag(&name("cats"), &outer).unwrap();
    let blobs = layout.closure(&outer).unwrap();
    let documents: Vec<_> =
        blobs.iter().filter(|blob| blob.digest != program.digest).map(|blob| blob.digest).collect();
    assert_eq!(documents[2..], [inner.digest, middle.digest, outer.digest]);
    assert_eq!(layout.manifests(&outer).unwrap().len(), 1);
    assert_eq!(layout.choose(&middle, &[]).unwrap().digest, program.digest);
    assert_eq!(layout.prune().unwrap(), Swept::default());
    assert!(layout.closure(&index_of(&[&outer])).is_err());
}

#[test]
fn only_what_is_there_gets_a_name() {
    let (_dir, layout) = layout();
    let absent = Descriptor::of(MediaType::OCI_MANIFEST, b"never written");
    let error = layout.tag(&name("cats"), &absent).unwrap_err();
    assert_eq!(error.to_string(), format!("the blob `{}` is missing", absent.digest));
}

#[test]
fn a_blob_is_there_whole_or_not_at_all() {
    let (_dir, layout) = layout();
    let mut writer = layout.blob_writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"ca").unwrap();
    let digest = Digest::of(b"cats");
    assert!(!layout.has_blob(&digest, 4));
    drop(writer); // as when a build is interrupted
    assert_eq!(fs::read_dir(layout.dir().join("tmp")).unwrap().count(), 0);
    let mut writer = layout.blob_writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"dogs").unwrap();
    let error = Error::from(writer.commit_as(&digest).unwrap_err());
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains(&Digest::of(b"dogs").to_string())
    );
    assert!(!layout.has_blob(&digest, 4) && !layout.has_blob(&Digest::of(b"dogs"), 4));
    layout.write_blob(b"cats").unwrap();
    assert_eq!(layout.read_blob(&Descriptor::of("a/b", b"cats"), 10).unwrap(), b"cats");
}

/// Containers that share a folder have processes of the same numbers.
#[test]
fn a_half_written_file_of_another_process_is_left_alone() {
    let (_dir, layout) = layout();
    let tmp = layout.dir().join("tmp");
    fs::create_dir_all(&tmp).unwrap();
    let theirs: Vec<_> = (0..64).map(|n| tmp.join(format!("{}-{n}", std::process::id()))).collect();
    theirs.iter().for_each(|path| fs::write(path, "theirs").unwrap());
    layout.tag(&name("cats"), &image(&layout, "1")).unwrap();
    assert!(theirs.iter().all(|path| fs::read(path).unwrap() == b"theirs"));
    assert_eq!(layout.prune().unwrap(), Swept::default());
    // No writer is at work while it has the lock.
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn a_blob_that_changed_on_disk_is_not_given_out() {
    let (_dir, layout) = layout();
    layout.write_blob(b"cats").unwrap();
    fs::write(layout.store().path(&Digest::of(b"cats")), b"dogs").unwrap();
    let error = layout.read_blob(&Descriptor::of("a/b", b"cats"), 10).unwrap_err();
    assert_eq!(error.to_string(), "a stored blob cannot be used");
    assert!(matches!(error, Error::Image { source: image::Error::WrongDigest { .. }, .. }));
}

#[test]
fn a_blob_that_was_damaged_on_disk_is_healed_by_bringing_it_again() {
    let (_dir, layout) = layout();
    let (digest, described) = (Digest::of(b"cats"), Descriptor::of("a/b", b"cats"));
    let damage = || fs::write(layout.store().path(&digest), b"dogs").unwrap();
    layout.write_blob(b"cats").unwrap();
    assert!(blobs::is_intact(layout.store(), &digest));
    damage();
    assert!(layout.has_blob(&digest, 4) && !blobs::is_intact(layout.store(), &digest));
    layout.write_blob(b"cats").unwrap();
    assert_eq!(layout.read_blob(&described, 10).unwrap(), b"cats");
    damage();
    let mut writer = layout.blob_writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"cats").unwrap();
    writer.commit_as(&digest).unwrap();
    assert_eq!(layout.read_blob(&described, 10).unwrap(), b"cats");
}

#[test]
fn names_given_at_the_same_time_are_all_kept() {
    let (_dir, layout) = layout();
    let descriptor = image(&layout, "1");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (layout, descriptor) = (&layout, &descriptor);
            scope.spawn(move || {
                for n in 0..10 {
                    layout.tag(&name(&format!("cats:{thread}-{n}")), descriptor).unwrap();
                }
            });
        }
    });
    assert_eq!(layout.list().unwrap().len(), 40);
}
