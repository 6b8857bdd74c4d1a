use std::fs;

use super::*;
use crate::{export, layer::tarball::write_entry, layout::Layout};

fn import(layout: &Layout, path: &Path) -> Result<Vec<Imported>, Error> {
    super::import(layout, path, &|_| {})
}

struct Bench {
    dir: tempfile::TempDir,
    layout: Layout,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path().join("images")).unwrap();
        Self { dir, layout }
    }

    /// A layered image called `cats`.
    fn cats(&self) -> Descriptor {
        let context = self.dir.path().join("cats");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("index.html"), "cats").unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY index.html /srv/\n").unwrap();
        build(&Build::of(&context, &self.layout)).unwrap().descriptor
    }

    fn archive(&self, name: &str, files: &[(&str, &[u8])]) -> std::path::PathBuf {
        let mut tar = Vec::new();
        for (path, bytes) in files {
            write_entry(&mut tar, path, bytes).unwrap();
        }
        tar.extend([0; 1024]);
        let path = self.dir.path().join(name);
        fs::write(&path, tar).unwrap();
        path
    }
}

fn names(imported: &[Imported]) -> Vec<String> {
    imported.iter().flat_map(|image| &image.references).map(Reference::to_string).collect()
}

#[test]
fn an_exported_image_is_imported_unchanged() {
    let bench = Bench::new();
    let descriptor = bench.cats();
    let path = bench.dir.path().join("any name.tar");
    let out = File::create(&path).unwrap();
    let image = ("box.local/me/cats:v1".parse().unwrap(), descriptor.clone());
    export(&bench.layout, &[image], out).unwrap();
    let other = Bench::new();
    for source in [&path, &bench.layout.dir().to_owned()] {
        let imported = import(&other.layout, source).unwrap();
        assert_eq!(imported[0].descriptor.digest, descriptor.digest, "{}", source.display());
    }
    let all: Vec<_> =
        other.layout.list().unwrap().iter().map(|image| image.reference.to_string()).collect();
    assert_eq!(all, ["box.local/me/cats:v1", "cats:latest"]);
}

#[test]
fn a_docker_save_archive_is_imported() {
    let bench = Bench::new();
    let descriptor = bench.cats();
    let (_, manifest) = bench.layout.manifests(&descriptor).unwrap().remove(0);
    let read = |blob: &Descriptor| bench.layout.read_blob(blob, 1 << 20).unwrap();
    let (config, layer) = (read(manifest.config.as_ref().unwrap()), read(&manifest.layers[0]));
    let saved = br#"[{"Config":"c.json","RepoTags":["docker.io/library/tom:1","tom:2"],"Layers":["1/layer.tar"]}]"#;
    let files: &[(&str, &[u8])] = &[
        ("1/layer.tar", &layer),
        ("1/VERSION", b"1.0"),
        ("c.json", &config),
        ("manifest.json", saved),
    ];
    let imported = import(&bench.layout, &bench.archive("saved.tar", files)).unwrap();
    assert_eq!(names(&imported), ["tom:1", "tom:2"]);
    let plan = bench.layout.plan(&imported[0].descriptor).unwrap();
    assert_eq!(plan.layers[0].descriptor.digest, manifest.layers[0].digest);

    let error =
        import(&bench.layout, &bench.archive("less.tar", &files[1..])).unwrap_err().to_string();
    assert!(error.ends_with("less.tar` is not an image: it has no `1/layer.tar`"), "{error}");
}

#[test]
fn files_that_are_not_images_are_refused_with_a_reason() {
    let bench = Bench::new();
    let digest = Digest::of(b"cats").hex();
    let lie = format!("blobs/sha256/{digest}");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/b","digest":"sha256:{digest}","size":4}}]}}"#
    );
    let layout: (&str, &[u8]) = ("oci-layout", b"{}");
    for (name, files, want) in [
        ("empty.tar", &[][..], "is not an image"),
        (
            "other.tar",
            &[("a", &b"b"[..])],
            "the tar has neither an `index.json` nor a `manifest.json`",
        ),
        (
            "none.tar",
            &[layout, ("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)],
            "it is an empty layout",
        ),
        ("missing.tar", &[layout, ("index.json", index.as_bytes())], "is missing"),
        (
            "lie.tar",
            &[layout, ("index.json", index.as_bytes()), (&lie, b"dogs")],
            "cannot be imported",
        ),
        ("up.tar", &[("../x", b"")], "cannot be imported"),
    ] {
        let error = import(&bench.layout, &bench.archive(name, files)).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    assert_eq!(bench.layout.list().unwrap(), []);
}

#[test]
fn what_a_base_has_in_onbuild_is_carried_out() {
    let bench = Bench::new();
    let config = br#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["COPY . /app"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let saved = br#"[{"Config":"c.json","RepoTags":["node:onbuild"],"Layers":[]}]"#;
    import(
        &bench.layout,
        &bench.archive("node.tar", &[("c.json", config), ("manifest.json", saved)]),
    )
    .unwrap();
    let context = bench.dir.path().join("app");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "\nFROM node:onbuild\n").unwrap();
    let built = build(&Build::of(&context, &bench.layout)).unwrap();
    let layers: Vec<_> = built.layers.iter().map(|layer| layer.created_by.as_str()).collect();
    assert_eq!(layers, ["COPY . /app"]);
}

#[test]
fn an_archive_whose_second_image_is_broken_names_none() {
    let bench = Bench::new();
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = |layers: &str| {
        let digest = Digest::of(config);
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":{layers}}}"#,
            config.len()
        )
    };
    let (good, bad) = (manifest("[]"), manifest("null"));
    let entry = |name: &str, bytes: &str| {
        let (digest, size) = (Digest::of(bytes.as_bytes()), bytes.len());
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},"annotations":{{"{REF_NAME}":"{name}"}}}}"#
        )
    };
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
        entry("good:1", &good),
        entry("bad:1", &bad)
    );
    let (config_at, good_at, bad_at) = (blob(config), blob(good.as_bytes()), blob(bad.as_bytes()));
    let files: &[(&str, &[u8])] = &[
        (&config_at, config),
        (&good_at, good.as_bytes()),
        (&bad_at, bad.as_bytes()),
        ("oci-layout", b"{}"),
        ("index.json", index.as_bytes()),
    ];
    let error = import(&bench.layout, &bench.archive("oci.tar", files)).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.starts_with("the manifest is malformed: invalid type: null, expected a sequence"),
        "{cause}"
    );
    assert_eq!(bench.layout.list().unwrap(), []);

    let saved = br#"[{"Config":"c.json","RepoTags":["empty:1"],"Layers":null},{"Config":"no.json","Layers":[]}]"#;
    let files: &[(&str, &[u8])] = &[("c.json", config), ("manifest.json", saved)];
    import(&bench.layout, &bench.archive("docker.tar", files)).unwrap_err();
    assert_eq!(bench.layout.list().unwrap(), []);
    let saved = br#"[{"Config":"c.json","RepoTags":["empty:1"],"Layers":null}]"#;
    let files: &[(&str, &[u8])] = &[("c.json", config), ("manifest.json", saved)];
    assert_eq!(
        names(&import(&bench.layout, &bench.archive("one.tar", files)).unwrap()),
        ["empty:1"]
    );
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, bytes) in files {
        write_entry(&mut tar, path, bytes).unwrap();
    }
    tar.extend([0; 1024]);
    tar
}

/// `docker save` of an image with one layer.
fn saved(layer: &[u8], diff_id: Digest) -> Vec<u8> {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let saved = br#"[{"Config":"c.json","RepoTags":["cats:1"],"Layers":["a/layer.tar"]}]"#;
    tar(&[("a/layer.tar", layer), ("c.json", config.as_bytes()), ("manifest.json", saved)])
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn archives_and_layers_in_every_compression_are_imported() {
    let layer = tar(&[("/etc/cat", b"cats")]);
    let plain = saved(&layer, Digest::of(&layer));
    let inner = |layer: Vec<u8>| saved(&layer, Digest::of(&tar(&[("/etc/cat", b"cats")])));
    for (name, bytes) in [
        ("plain.tar", plain.clone()),
        ("image.tar.xz", xz(&plain)),
        ("image.tar.bz2", bzip2(&plain)),
        ("xz-layer.tar", inner(xz(&layer))),
        ("bzip2-layer.tar", inner(bzip2(&layer))),
    ] {
        let bench = Bench::new();
        let path = bench.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let imported = import(&bench.layout, &path).unwrap();
        assert_eq!(names(&imported), ["cats:1"], "{name}");
        let plan = bench.layout.plan(&imported[0].descriptor).unwrap();
        assert_eq!(plan.layers[0].descriptor.digest, Digest::of(&layer), "{name}");
        assert_eq!(
            imported[0].notes,
            ["1 name is absolute: it begins at the root of the image (`/etc/cat`)"]
        );
    }
}

#[test]
fn a_hostile_or_broken_layer_is_refused_each_time_with_the_entry_first() {
    let bench = Bench::new();
    let good = tar(&[("cat", b"cats")]);
    let path = bench.dir.path().join("image.tar");
    fs::write(&path, saved(&good, Digest::of(&good))).unwrap();
    import(&bench.layout, &path).unwrap();
    let other: Reference = "cats:1".parse().unwrap();
    bench.layout.untag(&other).unwrap();
    let hostile = tar(&[("../cat", b"cats")]);
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let behind = [good.as_slice(), b"trailing garbage"].concat();
    let cut = &xz(&good)[..80];
    for (layer, diff_id, want) in [
        (
            &hostile[..],
            Digest::of(&hostile),
            "the layer has an entry `../cat`: its name has a `..`",
        ),
        (&good, Digest::of(b"other"), "the bytes of layer"),
        (&checksum, Digest::of(&checksum), "has a wrong checksum"),
        (&behind, Digest::of(&good), "something behind the end of its tar"),
        (cut, Digest::of(&good), "its compression is broken"),
    ] {
        fs::write(&path, saved(layer, diff_id)).unwrap();
        for _ in 0..2 {
            let error = import(&bench.layout, &path).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
            assert_eq!(bench.layout.list().unwrap(), []);
        }
    }
}

#[test]
fn an_archive_that_was_cut_short_is_not_called_a_layer() {
    let bench = Bench::new();
    let layer = tar(&[("cat", b"cats")]);
    let whole = saved(&layer, Digest::of(&layer));
    let path = bench.dir.path().join("cut.tar");
    for (bytes, want) in [
        (&whole[..whole.len() / 2], "its tar was cut short"),
        (&xz(&whole)[..100], "its compression is broken"),
        (&[], "it is empty"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = import(&bench.layout, &path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cut.tar`") && text.contains(want), "{want}: {text}");
        assert!(!text.contains("layer"), "{text}");
        assert!(error.hint().is_some_and(|hint| !hint.contains("build")), "{text}");
    }
}
