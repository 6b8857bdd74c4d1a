use std::collections::HashMap;

use flate2::{Compression, write::GzEncoder};
use image::{ArchiveWriter, Attributes};
use spec::{Descriptor, MediaType};

use super::{
    super::parse::tests::{built_with, header_of, sqlite_of, with_section},
    *,
};

/// A layer with these files. One with a name that ends in `*` can be executed.
fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ArchiveWriter::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mode = if path.ends_with('*') { 0o755 } else { 0o644 };
        let path = path.trim_end_matches('*').as_bytes();
        let attributes = Attributes { mode, ..Attributes::default() };
        archive.file(path, content.len() as u64, &mut &**content, attributes).unwrap();
    }
    archive.finish().unwrap().finish().unwrap()
}

/// The inventory of an image with these layers.
fn inventory_of(layers: &[Vec<u8>]) -> Inventory {
    let mut blobs: HashMap<Digest, Vec<u8>> = HashMap::new();
    let mut add = |media_type: &'static str, bytes: &[u8]| {
        blobs.insert(Digest::of(bytes), bytes.to_vec());
        serde_json::to_value(Descriptor::of(media_type, bytes)).unwrap()
    };
    let diff_ids: Vec<_> = layers.iter().map(|_| Digest::of(b"")).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": add(MediaType::OCI_CONFIG, &config),
        "layers": layers
            .iter()
            .map(|one| add(MediaType::OCI_LAYER_GZIP, one))
            .collect::<Vec<_>>(),
    });
    let plan = image::plan(manifest.to_string().as_bytes(), |_| Ok(config.clone())).unwrap();
    let open =
        |digest: &Digest| blobs.get(digest).map(|b| &**b).ok_or(io::ErrorKind::NotFound.into());
    inventory(&plan, open, Budget::default())
}

fn shown(inventory: &Inventory) -> Vec<String> {
    let one = |p: &Package| format!("{} {} {} {}", p.kind.name(), p.name, p.version, p.path);
    inventory.packages.iter().map(one).collect()
}

const DPKG: &[u8] = b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n";

#[test]
fn every_kind_of_package_is_found_where_it_is_installed() {
    let go = [b"\x7fELF rest", &*built_with("go1.21.3", "dep\tx/net\tv0.7.0\t\n")].concat();
    let rust =
        with_section(".dep-v0", &audit(r#"{"packages":[{"name":"time","version":"0.1.44"}]}"#));
    let image = inventory_of(&[layer(&[
        ("usr/lib/os-release", b"ID=debian\nVERSION_ID=12\n"),
        ("var/lib/dpkg/status", DPKG),
        ("var/lib/dpkg/status.d/base", b"Package: base-files\nVersion: 12.4\n"),
        ("var/lib/dpkg/status.d/base.md5sums", b"Package: no\nVersion: 1\n"),
        ("lib/apk/db/installed", b"P:musl\nV:1.2.4-r2\n"),
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", &sqlite_of(1)),
        ("var/lib/rpm/Packages", b"berkeley"),
        ("app/node_modules/a/package.json", br#"{"name":"a","version":"1.0.0"}"#),
        ("app/node_modules/@s/b/package.json", br#"{"name":"@s/b","version":"1.0.0"}"#),
        ("app/node_modules/a/lib/package.json", br#"{"name":"inner","version":"1.0.0"}"#),
        ("app/Cargo.lock", b"[[package]]\nname=\"r\"\nversion=\"1.0.0\"\nsource=\"x\"\n"),
        ("usr/lib/python3/dist-packages/J.dist-info/METADATA", b"Name: J\nVersion: 3.1\n"),
        ("usr/bin/go-program*", &go),
        ("usr/bin/rust-program*", &rust),
        ("usr/bin/not-executable", &go[..]),
    ])]);
    assert_eq!(
        shown(&image),
        [
            "deb base-files 12.4 /var/lib/dpkg/status.d/base",
            "deb libc6 2.36-9 /var/lib/dpkg/status",
            "apk musl 1.2.4-r2 /lib/apk/db/installed",
            "rpm lib0 1.0-3.el9 /usr/lib/sysimage/rpm/rpmdb.sqlite",
            "cargo r 1.0.0 /app/Cargo.lock",
            "cargo time 0.1.44 /usr/bin/rust-program",
            "npm @s/b 1.0.0 /app/node_modules/@s/b/package.json",
            "npm a 1.0.0 /app/node_modules/a/package.json",
            "pypi j 3.1 /usr/lib/python3/dist-packages/J.dist-info/METADATA",
            "golang stdlib 1.21.3 /usr/bin/go-program",
            "golang x/net 0.7.0 /usr/bin/go-program",
        ]
    );
    assert_eq!(image.distribution.unwrap().id, "debian");
    assert_eq!(image.unread.len(), 1, "{:?}", image.unread);
}

fn audit(json: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(json.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_an_upper_layer_takes_away_or_replaces_is_not_there() {
    let base = layer(&[
        ("var/lib/dpkg/status", DPKG),
        ("app/node_modules/a/package.json", br#"{"name":"a","version":"1.0.0"}"#),
        ("app/Cargo.lock", b"[[package]]\nname=\"r\"\nversion=\"1.0.0\"\nsource=\"x\"\n"),
    ]);
    for (upper, want) in [
        (
            layer(&[
                ("var/lib/dpkg/status", b"Package: b\nVersion: 2\n"),
                ("app/.wh.Cargo.lock", b""),
            ]),
            vec!["b", "a"],
        ),
        (layer(&[("app/.wh.node_modules", b""), ("app/x", b"")]), vec!["libc6", "r"]),
        (layer(&[("app/.wh..wh..opq", b"")]), vec!["libc6"]),
        (
            layer(&[("app/go.mod", b"require x v1.0.0\n"), ("app/.wh..wh..opq", b"")]),
            vec!["libc6", "x"],
        ),
        (layer(&[("app", b"a file now")]), vec!["libc6"]),
    ] {
        let image = inventory_of(&[base.clone(), upper]);
        let names: Vec<_> = image.packages.iter().map(|package| &*package.name).collect();
        assert_eq!(names, want);
        assert!(image.unread.is_empty(), "{:?}", image.unread);
    }
}

#[test]
fn a_layer_that_is_damaged_or_a_bomb_is_named_and_the_others_are_read() {
    let bomb = layer(&[("zeros", &vec![0; 8 << 20])]);
    let good = layer(&[("var/lib/dpkg/status", DPKG)]);
    let cut = good[..good.len() - 20].to_vec();
    for hostile in [bomb, cut, b"no layer".to_vec()] {
        let image = inventory_of(&[hostile, layer(&[("app/go.mod", b"require x v1.0.0\n")])]);
        assert_eq!(image.unread.len(), 1, "{:?}", image.unread);
        assert!(image.unread[0].starts_with("layer "), "{:?}", image.unread);
        assert!(image.packages.iter().any(|package| package.name == "x"));
    }
}

/// Bytes with some of them changed, the same each time.
fn changed(bytes: &[u8], seed: u32) -> Vec<u8> {
    let (mut state, mut out) = (seed.wrapping_mul(2_654_435_761) + 1, bytes.to_vec());
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    for _ in 0..1 + next() % 8 {
        if out.is_empty() {
            break;
        }
        let at = next() % out.len();
        match next() % 4 {
            0 => out.truncate(at),
            1 => out[at] = 0xff,
            2 => out[at] = next() as u8,
            _ => out.insert(at, next() as u8),
        }
    }
    out
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let wasm = b"\0asm\x01\0\0\0\0\x12\x09producers\x01\x01a\x01\x01b\x01c".to_vec();
    let files: [(&str, Vec<u8>); 14] = [
        ("etc/os-release", b"ID=debian\nVERSION_ID=12\n".to_vec()),
        ("var/lib/dpkg/status", DPKG.to_vec()),
        ("lib/apk/db/installed", b"P:musl\nV:1.2.4-r2\no:x\n\n".to_vec()),
        ("var/lib/rpm/rpmdb.sqlite", sqlite_of(40)),
        ("var/lib/rpm/Packages.db", [b"RpmP", &*header_of(&[(1000, "a")], 64)].concat()),
        ("Cargo.lock", b"[[package]]\nname=\"r\"\nversion=\"1.0.0\"\nsource=\"x\"\n".to_vec()),
        ("package-lock.json", br#"{"packages":{"node_modules/a":{"version":"1.2.3"}}}"#.to_vec()),
        ("yarn.lock", b"\"@s/b@^1\", x@2:\n  version \"1.1.4\"\n".to_vec()),
        ("pnpm-lock.yaml", "packages:\n  /@é/b@1.1.4(c@1):\n".as_bytes().to_vec()),
        ("requirements.txt", "fl\u{e9}sk[x]==2.0 # y\n".as_bytes().to_vec()),
        ("go.mod", b"require (\n\tx v1.0.0\n)\n".to_vec()),
        ("x.wasm", wasm),
        ("program", [b"\x7fELF", &*built_with("go1.21.3", "dep\tx\tv1\t\n")].concat()),
        ("program", with_section(".dep-v0", &audit(r#"{"packages":[]}"#))),
    ];
    let rounds = if cfg!(debug_assertions) { 200 } else { 4000 };
    for (path, bytes) in &files {
        for seed in 0..rounds {
            let format = match *path {
                "x.wasm" => Format::Wasm,
                "program" => Format::Program,
                path => Format::of_path(path).unwrap(),
            };
            let read = format.read(&changed(bytes, seed), path);
            assert!(read.packages.len() <= 1000, "{path} {seed}");
        }
    }
}
