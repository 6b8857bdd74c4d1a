use std::io::Write as _;

use super::*;
use crate::FileIndexBuilder;

mod builders; // layers in the shapes that image builders write

/// One header with its content behind it, as any tar writer could make it.
struct Block {
    name: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    content: Vec<u8>,
    size_field: Vec<u8>,
    magic: &'static [u8],
    /// Other fields, and where they stand.
    fields: Vec<(usize, Vec<u8>)>,
}

fn block(name: &str, kind: u8) -> Block {
    Block {
        name: name.into(),
        kind,
        link: Vec::new(),
        content: Vec::new(),
        size_field: Vec::new(),
        magic: b"ustar\x0000",
        fields: Vec::new(),
    }
}

fn file(name: &str, content: &str) -> Block {
    Block { content: content.into(), ..block(name, b'0') }
}

fn link(name: &str, kind: u8, target: &str) -> Block {
    Block { link: target.into(), ..block(name, kind) }
}

/// `records` as one PAX header.
fn pax(kind: u8, records: &[(&str, &str)]) -> Block {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
        content.extend(format!("{length}{rest}").bytes());
    }
    Block { content, ..block("pax", kind) }
}

impl Block {
    fn sized(mut self, field: &[u8]) -> Self {
        self.size_field = field.to_vec();
        self
    }

    fn field(mut self, at: usize, bytes: &[u8]) -> Self {
        self.fields.push((at, bytes.to_vec()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, b"0004755");
        put(108, b"0001750");
        put(116, b"0000144");
        match self.size_field.as_slice() {
            [] => put(124, format!("{:011o}", self.content.len()).as_bytes()),
            field => put(124, field),
        }
        put(136, b"00000000007");
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, self.magic);
        for (at, bytes) in &self.fields {
            put(*at, bytes);
        }
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn tar(blocks: &[Block]) -> Vec<u8> {
    let mut bytes: Vec<u8> = blocks.iter().flat_map(Block::bytes).collect();
    bytes.extend([0; 1024]);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(bytes: &[u8], budget: Budget) -> Result<Vec<Entry>, Error> {
    let mut reader = LayerReader::new(bytes, budget)?;
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        all.push(entry);
    }
    reader.finish()?;
    Ok(all)
}

/// Every entry in a word each, or what is wrong.
fn message_of(bytes: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let shown = |entry: &Entry| {
        let path = text(&entry.path);
        match &entry.kind {
            EntryKind::File => format!("{path}:{}", entry.size),
            EntryKind::SparseFile => format!("{path}~{}", entry.size),
            EntryKind::Directory => format!("{path}/"),
            EntryKind::Symlink { target } => format!("{path}->{}", text(target)),
            EntryKind::Hardlink { target } => format!("{path}={}", text(target)),
            EntryKind::Pipe => format!("{path}|"),
            EntryKind::Device => format!("{path}*"),
            EntryKind::Whiteout => format!("-{path}"),
            EntryKind::Opaque => format!("!{path}"),
        }
    };
    match read(bytes, Budget::default()) {
        Ok(entries) => entries.iter().map(shown).collect::<Vec<_>>().join(" "),
        Err(error) => format!("{}: {error}", error.code()),
    }
}

#[test]
fn every_common_tar_dialect_is_read() {
    let long = format!("d/{}", "n".repeat(200));
    for (blocks, want) in [
        (vec![], ""),
        (vec![file("a", "cats"), block("d/", b'5'), block("./", b'5')], "a:4 d/ /"),
        (
            vec![link("d/l", b'2', "../a"), file("a", ""), link("h", b'1', "./a")],
            "d/l->../a a:0 h=a",
        ),
        (vec![link("l", b'2', "/etc/x")], "l->/etc/x"),
        (
            vec![block(".wh.a", b'0'), block("d/.wh.b", b'0'), block("d/.wh..wh..opq", b'0')],
            "-a -d/b !d",
        ),
        (vec![block(".wh..wh..opq", b'0')], "!"),
        (
            vec![Block { kind: 0, ..file("old", "x") }, Block { kind: b'7', ..file("dense", "x") }],
            "old:1 dense:1",
        ),
        (
            vec![
                pax(b'x', &[("path", "long/ö"), ("mtime", "1.5"), ("size", "1")]),
                file("short", "x"),
            ],
            "long/ö:1",
        ),
        (vec![pax(b'x', &[("linkpath", "there")]), link("l", b'2', "here")], "l->there"),
        (vec![pax(b'g', &[("comment", "abc")]), file("a", "x")], "a:1"),
        (
            vec![
                Block { content: format!("{long}\0").into(), ..block("././@LongLink", b'L') },
                file("short", "x"),
            ],
            &format!("{long}:1"),
        ),
        (
            vec![
                Block { content: b"x/y\0".to_vec(), ..block("././@LongLink", b'K') },
                link("l", b'1', "short"),
            ],
            "l=x/y",
        ),
        (
            vec![
                Block { magic: b"ustar  \0", ..file("gnu", "x") },
                Block { magic: b"", ..file("v7", "x") },
            ],
            "gnu:1 v7:1",
        ),
    ] {
        assert_eq!(message_of(&tar(&blocks)), want);
        assert_eq!(message_of(&gzip(&tar(&blocks))), want, "in gzip");
    }
}

#[test]
fn ambiguous_and_escaping_entries_are_refused() {
    let long = || Block { content: b"name\0".to_vec(), ..block("././@LongLink", b'L') };
    for (blocks, want) in [
        (
            vec![file("../../etc/x", "")],
            "E_LAYER_PATH: the layer has an entry `../../etc/x`: its name has a `..`, which could \
             leave the image",
        ),
        (vec![file("", "")], "E_LAYER_PATH: the layer has an entry ``: its name is empty"),
        (
            vec![link("hard", b'1', "../shadow")],
            "E_LAYER_PATH: the layer has an entry `hard`: it is a hard link that leaves the \
             image",
        ),
        (
            vec![link("empty", b'2', "")],
            "E_LAYER_PATH: the layer has an entry `empty`: its name is empty",
        ),
        (
            vec![block(".wh...", b'0')],
            "E_LAYER_PATH: the layer has an entry `.wh...`: it is a whiteout that names nothing",
        ),
        (
            vec![block("d/.wh.", b'0')],
            "E_LAYER_PATH: the layer has an entry `d/.wh.`: it is a whiteout that names nothing",
        ),
        (
            vec![block("odd", b'Z')],
            "E_LAYER_KIND: the layer has an entry `odd`, which is of a kind that tar does not \
             define",
        ),
        (
            vec![pax(b'x', &[("size", "2")]), file("a", "x")],
            "E_MEDIA: the layer is not what it claims to be: `a` has the size 1 in its header and \
             2 in front of it",
        ),
        (
            vec![pax(b'x', &[("path", "a"), ("path", "b")]), file("c", "")],
            "E_MEDIA: the layer is not what it claims to be: two records give the same entry a \
             name",
        ),
        (
            vec![long(), long(), file("c", "")],
            "E_MEDIA: the layer is not what it claims to be: two records give the same entry a \
             long name",
        ),
        (
            vec![long(), pax(b'x', &[("path", "b")]), file("c", "")],
            "E_MEDIA: the layer is not what it claims to be: an entry has two names, in GNU's \
             dialect and in POSIX's",
        ),
        (
            vec![pax(b'g', &[("path", "b")]), file("c", "")],
            "E_MEDIA: the layer is not what it claims to be: a global extended header sets a name, \
             a size or an attribute",
        ),
        (
            vec![Block { content: b"8 path=a\n".to_vec(), ..block("pax", b'x') }, file("c", "")],
            "E_MEDIA: the layer is not what it claims to be: an extended header is malformed",
        ),
        (
            vec![
                Block { content: b"a\0b\0".to_vec(), ..block("././@LongLink", b'L') },
                file("c", ""),
            ],
            "E_MEDIA: the layer is not what it claims to be: a long name is empty or has a NUL \
             byte inside",
        ),
        (
            vec![pax(b'x', &[("path", "b")])],
            "E_MEDIA: the layer is not what it claims to be: an extended header has no entry \
             behind it",
        ),
        (
            vec![file("big", "").sized(b"00000100000\0"), file("a", "")],
            "E_MEDIA: the layer is not what it claims to be: its tar was cut short",
        ),
        (
            vec![file("big", "").sized(b"\x80\0\0\0\0\0\x01\0\0\0\0\0")],
            "E_LAYER_BUDGET: the layer is beyond its budget: `big` has 1099511627776 bytes, and \
             the whole layer may have \
             8589934592",
        ),
        (
            vec![file("neg", "").sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")],
            "E_MEDIA: the layer is not what it claims to be: the tar header of `neg` has a \
             negative number as its size",
        ),
    ] {
        assert_eq!(message_of(&tar(&blocks)), want);
    }
}

#[test]
fn bytes_that_are_not_a_tar_are_refused_with_a_reason() {
    let good = tar(&[file("a", "cats")]);
    let mut garbage = good.clone();
    garbage.extend(b"more");
    let mut lone = good[..good.len() - 512].to_vec();
    for (bytes, want) in [
        (&b"PK\x03\x04 this is a zip"[..], "its tar was cut short"),
        (&[b'0'; 512], "a wrong checksum"),
        (&garbage, "there is something behind the end of its tar"),
        (&gzip(&good)[..30], "its compression is broken"),
        (&[gzip(&good).as_slice(), b"trailing"].concat(), "its compression is broken"),
        (
            &[gzip(&good).as_slice(), &gzip(b"more")].concat(),
            "there is something behind the end of its tar",
        ),
        (b"\x1f\x8b\x08\0nonsense", "its compression is broken"),
        (b"\x28\xb5\x2f\xfdnonsense", "its compression is broken"),
        (&gzip(&gzip(&good)), "its tar was cut short"),
    ] {
        let got = message_of(bytes);
        assert!(got.starts_with("E_MEDIA") && got.contains(want), "{want}: {got}");
    }
    lone.extend([1; 512]);
    assert!(message_of(&lone).contains("half of an end mark"));
}

#[test]
fn members_frames_and_streams_are_one_stream() {
    let bytes = tar(&[file("a", &"cats ".repeat(1000)), block("d/", b'5')]);
    let members = [gzip(&bytes[..700]), gzip(&bytes[700..])].concat();
    let zstd = zstd::encode_all(bytes.as_slice(), 3).unwrap();
    let frames =
        [zstd::encode_all(&bytes[..700], 3).unwrap(), zstd::encode_all(&bytes[700..], 3).unwrap()]
            .concat();
    let streams = [xz(&bytes[..700]), xz(&bytes[700..])].concat();
    let blocks = [bzip2(&bytes[..700]), bzip2(&bytes[700..])].concat();
    for blob in [&bytes, &members, &zstd, &frames, &xz(&bytes), &streams, &bzip2(&bytes), &blocks] {
        let mut copy = Vec::new();
        let mut reader =
            LayerReader::copying_to(blob.as_slice(), &mut copy, Budget::default()).unwrap();
        let first = reader.next_entry().unwrap().unwrap();
        assert_eq!(
            (first.path.as_slice(), first.size, first.offset, first.mode),
            (&b"a"[..], 5000, 512, 0o4755)
        );
        assert_eq!((first.uid, first.gid, first.mtime), (1000, 100, 7));
        assert_eq!(reader.read_content(5000).unwrap(), "cats ".repeat(1000).as_bytes());
        let summary = reader.finish().unwrap();
        assert_eq!(
            (summary.diff_id, summary.bytes, summary.entries),
            (Digest::of(&bytes), bytes.len() as u64, 2)
        );
        assert_eq!(copy, bytes);
    }
}

#[test]
fn a_decompression_bomb_stops_at_its_budget() {
    let zeros = tar(&[file("zeros", &"\0".repeat(8 << 20))]);
    for bomb in [gzip(&zeros), xz(&zeros), bzip2(&zeros)] {
        let got = message_of(&bomb);
        assert!(got.contains("more than 200 times its size"), "{got}");
    }
    let small = Budget { bytes_max: 4096, ..Budget::default() };
    let error = read(&tar(&[file("a", &"x".repeat(9000))]), small).unwrap_err().to_string();
    assert_eq!(
        error,
        "the layer is beyond its budget: `a` has 9000 bytes, and the whole layer may have 4096"
    );
    let error = read(&tar(&(0..20).map(|_| file("a", "")).collect::<Vec<_>>()), small)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "the layer is beyond its budget: it unpacks to more than 4096 bytes");
    let few = Budget { entries_max: 3, ..Budget::default() };
    let error = read(&tar(&[file("a", ""), file("b", ""), pax(b'x', &[]), file("c", "")]), few)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "the layer is beyond its budget: it has more than 3 entries");
    // A window of 128 MiB is memory to hold.
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&tar(&[file("a", "cats")])).unwrap();
    let wide = message_of(&encoder.finish().unwrap());
    assert!(wide.starts_with("E_MEDIA"), "{wide}");
    // As is a dictionary of more than `xz -9` has.
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = 128 << 20;
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(&tar(&[file("a", "cats")])).unwrap();
    let wide = message_of(&encoder.finish().unwrap());
    assert!(wide.starts_with("E_LAYER_BUDGET"), "{wide}");
}

#[test]
fn small_layers_of_zeros_are_honest() {
    assert_eq!(message_of(&gzip(&tar(&[file("zeros", &"\0".repeat(1 << 19))]))), "zeros:524288");
}

fn sample() -> Vec<u8> {
    tar(&[
        block("d/", b'5'),
        file("d/a", &"cats".repeat(300)),
        pax(b'x', &[("path", "d/long"), ("SCHILY.xattr.user.x", "y")]),
        file("short", "x"),
        link("l", b'2', "d/a"),
        link("h", b'1', "d/a"),
        Block { content: b"gnu/name\0".to_vec(), ..block("././@LongLink", b'L') },
        file("g", "y"),
        block("d/.wh.old", b'0'),
        block("p", b'6'),
        block("c", b'3'),
        link("/d/../later", b'1', "behind"),
        pax(b'x', &[("GNU.sparse.size", "16"), ("GNU.sparse.map", "0,2,10,2")]),
        file("holes", "abcd"),
        file("behind", "z"),
    ])
}

#[test]
fn a_layer_cut_at_any_block_is_refused() {
    let whole = sample();
    assert!(read(&whole, Budget::default()).is_ok());
    for end in (0..whole.len()).step_by(512).chain([1, 100, 511, 513, 1300]) {
        // Between two entries a tar may end, and then its digest is another.
        match LayerReader::new(&whole[..end], Budget::default()).unwrap().finish() {
            Ok(summary) => assert_ne!(summary.diff_id, Digest::of(&whole), "{end} bytes"),
            Err(error) => assert_eq!(error.code(), "E_MEDIA", "{end} bytes"),
        }
    }
    for (name, packed) in [("gzip", gzip(&whole)), ("xz", xz(&whole)), ("bzip2", bzip2(&whole))] {
        for end in 8..packed.len() {
            let code = read(&packed[..end], Budget::default()).unwrap_err().code();
            assert_eq!(code, "E_MEDIA", "{end} bytes of {name}");
        }
        for at in 8..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 1;
            let read = LayerReader::new(changed.as_slice(), Budget::default()).unwrap().finish();
            // A bit that means nothing (a time in the header of gzip) may change.
            assert!(read.is_err() || read.unwrap().diff_id == Digest::of(&whole), "{name} at {at}");
        }
        let behind = [packed.as_slice(), b"trailing"].concat();
        assert_eq!(read(&behind, Budget::default()).unwrap_err().code(), "E_MEDIA", "{name}");
    }
}

/// Whatever is in a layer, reading and merging it ends, without a panic, in entries that are normal
/// or in an error.
#[test]
fn no_bytes_make_the_reader_panic() {
    let whole = sample();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let interesting = [
        0u8, 0xff, 0x80, b'/', b'.', b'0', b'7', b'9', b'x', b'g', b'L', b'K', b'S', b'1', b'2',
        b' ',
    ];
    let mut read_to_end = 0;
    for _ in 0..5_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = interesting[random(interesting.len())];
        }
        // With the checksums made right again, so that more than the checksum is tried.
        for header in bytes.chunks_exact_mut(512) {
            if &header[257..262] == b"ustar" {
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
                header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        let Ok(entries) = read(&bytes, Budget::default()) else { continue };
        read_to_end += 1;
        let mut builder = FileIndexBuilder::new();
        for entry in &entries {
            let normal = entry.path.is_empty()
                || entry_name(&entry.path).is_ok_and(|name| name.name == entry.path);
            assert!(normal, "{}", entry.shown_path());
            let _ = builder.add(entry);
        }
        if builder.end_layer().is_ok() {
            builder.finish().unwrap();
        }
    }
    assert!(read_to_end > 250, "only {read_to_end} were read to their end");
}

/// The `tar` crate as the other opinion.
#[test]
fn tars_of_another_writer_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut want = Vec::new();
    for length in [1, 50, 99, 100, 101, 150, 200, 255] {
        for path in [
            "n".repeat(length),
            format!("d/{}", "m".repeat(length.min(250))),
            format!("{}/f", "ö".repeat(length / 3 + 1)),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(path.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, &path, path.as_bytes()).unwrap();
            want.push(path);
        }
    }
    let bytes = builder.into_inner().unwrap();
    let mut reader = LayerReader::new(bytes.as_slice(), Budget::default()).unwrap();
    let mut got = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!(reader.read_content(1000).unwrap(), entry.path);
        got.push(String::from_utf8(entry.path).unwrap());
    }
    assert_eq!(got, want);
}
