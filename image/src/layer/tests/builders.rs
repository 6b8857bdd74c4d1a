//! Layers in the shapes that image builders and tars of root file systems have.

use super::*;
use crate::{FileIndexBuilder, Kind, Node};

fn record(kind: u8, name: &[u8]) -> Block {
    Block { content: [name, b"\0"].concat(), ..block("././@LongLink", kind) }
}

/// The merged layers as one line, or what is wrong with them.
fn merged(layers: &[Vec<u8>]) -> String {
    let mut builder = FileIndexBuilder::new();
    for layer in layers {
        let mut reader = LayerReader::new(layer.as_slice(), Budget::default()).unwrap();
        let read = builder.read_layer(&mut reader).and_then(|()| reader.finish());
        if let Err(error) = read {
            return format!("{}: {error}", error.code());
        }
    }
    let index = match builder.finish() {
        Ok(index) => index,
        Err(error) => return error.to_string(),
    };
    let shown = |(path, id)| match index.node(id) {
        Node::Directory { .. } => format!("{path}/"),
        Node::File(file) => format!("{path}:{}", file.len),
        Node::Symlink { target } => format!("{path}->{target}"),
    };
    index.iter().skip(1).map(shown).collect::<Vec<_>>().join(" ")
}

#[test]
fn layers_of_known_builders_are_read() {
    for (builder, layers, want) in [
        (
            "ko: absolute names, and a link from kodata",
            vec![vec![
                block("/ko-app/", b'5'),
                file("/ko-app/app", "x"),
                block("/var/run/ko", b'5'),
                link("/var/run/ko/page", b'2', "/ko-app/app"),
            ]],
            "ko-app/ var/ ko-app/app:1 var/run/ var/run/ko/ var/run/ko/page->/ko-app/app",
        ),
        (
            "kaniko: every folder again, with and without a slash, behind its content",
            vec![vec![
                file("/app/bin/run", "x"),
                block("/", b'5'),
                block("/app", b'5'),
                block("/app/", b'5'),
                block("/app/bin/", b'5'),
                file("/app/bin/run", "xy"),
            ]],
            "app/ app/bin/ app/bin/run:2",
        ),
        (
            "Nix: `./` in front, hard links into the store",
            vec![vec![
                block("./", b'5'),
                block("./nix", b'5'),
                file("./nix/store/.links/abc", "x"),
                link("./nix/store/p/bin/a", b'1', "./nix/store/.links/abc"),
                link("./nix/store/q/bin/a", b'1', "/nix/store/.links/abc"),
            ]],
            "nix/ nix/store/ nix/store/.links/ nix/store/p/ nix/store/q/ nix/store/.links/abc:1 \
             nix/store/p/bin/ nix/store/q/bin/ nix/store/p/bin/a:1 nix/store/q/bin/a:1",
        ),
        (
            "buildpacks: a layer of layers, linked upwards from the app",
            vec![
                vec![block("/layers/java", b'5'), file("/layers/java/run", "x")],
                vec![link("/workspace/run", b'2', "../layers/java/run")],
            ],
            "layers/ workspace/ layers/java/ workspace/run->../layers/java/run layers/java/run:1",
        ),
        (
            "Jib: no folders, the same layer twice, and an empty one",
            vec![vec![file("app/libs/a.jar", "x")], vec![], vec![file("app/libs/a.jar", "x")]],
            "app/ app/libs/ app/libs/a.jar:1",
        ),
        (
            "apko: links before what they lead through",
            vec![vec![link("bin", b'2', "usr/bin"), block("usr/bin/", b'5'), file("bin/sh", "x")]],
            "bin->usr/bin usr/ usr/bin/ usr/bin/sh:1",
        ),
        (
            "mmdebstrap: device nodes, pipes, hard links in front of their file",
            vec![vec![
                block("./dev/console", b'3'),
                block("./dev/sda", b'4'),
                block("./run/initctl", b'6'),
                link("./usr/bin/pdb", b'1', "./usr/bin/pdb3"),
                file("./usr/bin/pdb3", "x"),
                link("./lib", b'2', "usr/lib"),
            ]],
            "dev/ lib->usr/lib run/ usr/ usr/bin/ usr/bin/pdb:1 usr/bin/pdb3:1",
        ),
        (
            "AUFS: whiteouts as hard links, and its own folder",
            vec![
                vec![file("a", "x"), file("b", "x")],
                vec![
                    block(".wh..wh.plnk/", b'5'),
                    block(".wh.a", b'0'),
                    link(".wh.b", b'1', ".wh.a"),
                ],
            ],
            ".wh..wh.plnk/",
        ),
        (
            "hard links across layers, also to what the layer removes",
            vec![
                vec![file("a", "x"), file("d/b", "xy")],
                vec![block(".wh.a", b'0'), link("c", b'1', "a"), link("e", b'1', "/d/b")],
            ],
            "c:1 d/ e:2 d/b:2",
        ),
        (
            "`..` that stays inside",
            vec![vec![file("a/../b", "x"), link("c", b'1', "d/../b")]],
            "b:1 c:1",
        ),
        (
            "a folder in the place of a link, a file in that of a folder",
            vec![vec![link("a", b'2', "b"), block("a/", b'5'), file("c/d", "x"), file("c", "xy")]],
            "a/ c:2",
        ),
    ] {
        let layers: Vec<_> = layers.iter().map(|blocks| tar(blocks)).collect();
        assert_eq!(merged(&layers), want, "{builder}");
    }
}

#[test]
fn headers_of_every_age_are_read() {
    let negative = |value: i32| {
        let mut field = [0xff; 8];
        field[4..].copy_from_slice(&value.to_be_bytes());
        field
    };
    let wide = |value: u32| {
        let mut field = [0; 8];
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
        field
    };
    for (block, want) in [
        (file("a", "x"), (1000, 100)),
        (file("a", "x").field(108, &wide(70_000)), (70_000, 100)),
        (file("a", "x").field(108, &wide(u32::MAX - 1)), (u32::MAX - 1, 100)),
        (file("a", "x").field(108, &negative(-2)), (u32::MAX - 1, 100)),
        (file("a", "x").field(116, &wide(u32::MAX)), (1000, 65_534)),
        (file("a", "x").field(116, &negative(-1)), (1000, 65_534)),
        (file("a", "x").field(108, b"\0\0\0\0\0\0\0\0"), (0, 100)),
        (file("a", "x").field(136, &[0xff; 12]), (1000, 100)), // a second before 1970
    ] {
        let entries = read(&tar(&[block]), Budget::default()).unwrap();
        assert_eq!((entries[0].uid, entries[0].gid), want);
    }
    for (records, want) in [
        (&[("uid", "4294967294")][..], (u32::MAX - 1, 100)),
        (&[("uid", "-2")], (u32::MAX - 1, 100)),
        (&[("gid", "99999999999")], (1000, 65_534)),
        (&[("uid", "")], (1000, 100)), // taken back
        (&[("mtime", "-1.5"), ("atime", ""), ("uname", "caf\u{e9}")], (1000, 100)),
    ] {
        let entries = read(&tar(&[pax(b'x', records), file("a", "x")]), Budget::default()).unwrap();
        assert_eq!((entries[0].uid, entries[0].gid), want, "{records:?}");
    }
    // star keeps times where POSIX has the end of a prefix.
    let star = file("a", "x").field(345, b"long").field(476, b"00000000007\0").field(508, b"tar\0");
    assert_eq!(message_of(&tar(&[star])), "long/a:1");
    // Some old writers summed up their headers as signed bytes.
    let mut signed = tar(&[Block { name: b"caf\xe9".to_vec(), ..file("", "x") }]);
    signed[148..156].fill(b' ');
    let sum: i32 = signed[..512].iter().map(|b| i32::from(b.cast_signed())).sum();
    signed[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    assert_eq!(message_of(&signed), "caf\u{fffd}:1");
}

#[test]
fn names_of_every_spelling_become_normal() {
    for (blocks, want) in [
        (vec![file("/etc//./passwd", "x")], "etc/passwd:1"),
        (vec![file("a/", "x")], "a:1"),
        (vec![Block { kind: 0, ..file("a/", "") }], "a/"),
        (vec![link("l/", b'2', "a")], "l->a"),
        (vec![link("up", b'2', "../../etc/passwd")], "up->../../etc/passwd"),
        (vec![block("d", b'5').sized(b"00000000777\0"), file("d/a", "x")], "d/ d/a:1"),
        (vec![link("h", b'1', "a").sized(b"00000000777\0"), file("a", "x")], "h=a a:1"),
        (vec![block(".wh.a", b'2').field(157, b"x")], "-a"),
        (vec![block("d/.wh.x/", b'5')], "-d/x"),
        (vec![Block { content: b"x".to_vec(), ..block(".wh.a", b'0') }, file("b", "")], "-a b:0"),
        (vec![record(b'L', b"long"), pax(b'x', &[("path", "long")]), file("s", "x")], "long:1"),
        (vec![block("p", b'6'), block("c", b'3'), block("b", b'4')], "p| c* b*"),
        (vec![pax(b'x', &[("path", ""), ("linkpath", "")]), link("l", b'2', "a")], "l->a"),
        (vec![pax(b'g', &[("comment", "x"), ("mtime", "1")]), file("a", "x")], "a:1"),
    ] {
        assert_eq!(message_of(&tar(&blocks)), want);
    }
    let latin = Block { name: b"caf\xe9".to_vec(), ..file("", "x") };
    let entries = read(&tar(&[latin]), Budget::default()).unwrap();
    assert_eq!(entries[0].path, b"caf\xe9");
}

#[test]
fn a_tar_may_end_without_its_mark() {
    let whole = tar(&[file("a", "cats")]);
    for (bytes, want) in [
        (&whole[..whole.len() - 1024], "a:4"),
        (&whole[..whole.len() - 512], "a:4"),
        (&[whole.as_slice(), &[0; 9000]].concat(), "a:4"),
        (&[], ""),
        (&[0; 512], ""),
        (&gzip(&[]), ""),
    ] {
        assert_eq!(message_of(bytes), want, "{} bytes", bytes.len());
    }
}

/// Content of the first entry, with its holes filled.
fn content(bytes: &[u8]) -> Result<(EntryKind, u64, Vec<u8>), Error> {
    let mut reader = LayerReader::new(bytes, Budget::default())?;
    let entry = reader.next_entry()?.unwrap();
    let mut content = Vec::new();
    reader.content().read_to_end(&mut content).map_err(|error| error.downcast().unwrap())?;
    assert_eq!(reader.next_entry()?.unwrap().path, b"after");
    Ok((entry.kind, entry.size, content))
}

#[test]
fn sparse_files_of_every_format_have_their_holes() {
    let want = [&b"ab"[..], &[0; 8], b"cd", &[0; 4]].concat();
    let octal = |n: u64| format!("{n:011o}\0");
    let parts = [octal(0), octal(2), octal(10), octal(2), octal(16), octal(0)].concat();
    let old = Block { content: b"abcd".to_vec(), magic: b"ustar  \0", ..block("s", b'S') }
        .field(386, parts.as_bytes())
        .field(483, octal(16).as_bytes());
    let mut text = b"2\n0\n2\n10\n2\n".to_vec();
    text.resize(512, 0);
    text.extend(b"abcd");
    let v1 = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s")];
    for mut blocks in [
        vec![old],
        vec![
            pax(b'x', &[("GNU.sparse.size", "16"), ("GNU.sparse.map", "0,2,10,2")]),
            file("s", "abcd"),
        ],
        vec![
            pax(
                b'x',
                &[
                    ("GNU.sparse.size", "16"),
                    ("GNU.sparse.offset", "0"),
                    ("GNU.sparse.numbytes", "2"),
                    ("GNU.sparse.offset", "10"),
                    ("GNU.sparse.numbytes", "2"),
                ],
            ),
            file("s", "abcd"),
        ],
        vec![
            pax(b'x', &[&v1[..], &[("GNU.sparse.realsize", "16")]].concat()),
            Block { content: text.clone(), ..file("./GNUSparseFile.0/s", "") },
        ],
    ] {
        blocks.push(file("after", "x"));
        let bytes = tar(&blocks);
        assert_eq!(content(&bytes).unwrap(), (EntryKind::SparseFile, 16, want.clone()));
    }
    for (records, content) in [
        (&[("GNU.sparse.size", "3"), ("GNU.sparse.map", "0,2,10,2")][..], "abcd"),
        (&[("GNU.sparse.size", "16"), ("GNU.sparse.map", "10,2,0,2")], "abcd"),
        (&[("GNU.sparse.size", "16"), ("GNU.sparse.map", "0,2,10,2")], "abc"),
        (&[("GNU.sparse.size", "16"), ("GNU.sparse.map", "0,2,10")], "abcd"),
        (&[("GNU.sparse.map", "0,2,10,2")], "abcd"),
        (&[("GNU.sparse.size", "99999999999999"), ("GNU.sparse.map", "0,4")], "abcd"),
        (&[("GNU.sparse.size", "1"), ("GNU.sparse.map", "18446744073709551615,4")], "abcd"),
        (&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "16")], "abcd"),
        (&[("GNU.sparse.major", "2"), ("GNU.sparse.realsize", "16")], "abcd"),
    ] {
        let got = message_of(&tar(&[pax(b'x', records), file("s", content)]));
        assert!(got.starts_with("E_"), "{records:?}: {got}");
    }
}

#[test]
fn what_was_read_otherwise_than_written_is_noted() {
    let bytes = tar(&[
        file("/etc/passwd", "x"),
        file("a/../b", "x"),
        link("up", b'2', "../../etc"),
        block("dev/null", b'3'),
        file("root", "").field(108, b"\x80\0\0\0\0\x01\x11\x70"),
        link("lib", b'2', "usr"),
        file("lib/x", ""),
    ]);
    let mut builder = FileIndexBuilder::new();
    let mut reader = LayerReader::new(bytes.as_slice(), Budget::default()).unwrap();
    builder.read_layer(&mut reader).unwrap();
    assert_eq!(
        builder.notes().lines(Kind::Native),
        [
            "1 name is absolute: it begins at the root of the image (`/etc/passwd`)",
            "1 name has a `..` that stays inside: it is read without (`a/../b`)",
            "1 link climbs above the root of the image, where it stops (`up`)",
            "1 name leads through a link of its layer: it is where the link leads (`lib/x`)",
            "1 device node is left out: a container has its own `/dev` (`dev/null`)",
            "1 file belongs to an id that no container has: it belongs to 65534 (`root`)",
        ]
    );
}
