//! OCI layouts made by hand, for images that no builder of ours would make.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use spec::{Descriptor, Digest, MediaType};

/// One entry of a hand-made tar.
struct Entry<'a> {
    name: &'a str,
    kind: u8,
    link: &'a str,
    content: &'a [u8],
    /// Size as the header says it; more than `content` has for a liar.
    size: u64,
}

fn header(entry: &Entry<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &entry.name.as_bytes()[..entry.name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", entry.size).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &entry.link.as_bytes()[..entry.link.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(header(entry));
        bytes.extend(entry.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// A tar of plain files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<_> = files
        .iter()
        .map(|(name, content)| Entry {
            name,
            kind: b'0',
            link: "",
            content,
            size: content.len() as u64,
        })
        .collect();
    tar(&entries)
}

/// Layers that try to leave, each with a title and a name.
pub fn hostile_layers() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let file =
        |name: &'static str| tar(&[Entry { name, kind: b'0', link: "", content: b"x", size: 1 }]);
    let link = |kind: u8, link: &'static str| {
        tar(&[Entry { name: "link", kind, link, content: b"", size: 0 }])
    };
    vec![
        ("a name that climbs", "climbs", file("../../../../tmp/margay-was-here")),
        ("a name that climbs in the middle", "climbs-inside", file("a/../../b")),
        ("a hard link to nothing inside", "hardlink", link(b'1', "../../etc/passwd")),
        (
            "a file that is larger than the layer",
            "liar",
            tar(&[Entry { name: "big", kind: b'0', link: "", content: b"x", size: 1 << 32 }]),
        ),
        ("a bomb: 1 GiB of zeros in a megabyte", "bomb", bomb()),
        ("half a block", "cut", file("x")[..700].to_vec()),
        ("no archive", "text", b"this is no archive".repeat(100)),
    ]
}

/// A layer with `program` as `/app.wasm`, in the shapes that image builders write.
pub fn odd_layer(program: &[u8]) -> Vec<u8> {
    let entry = |name, kind, link| Entry { name, kind, link, content: b"", size: 0 };
    let size = program.len() as u64;
    tar(&[
        entry("/", b'5', ""),
        entry("bin", b'2', "usr/bin"),
        Entry { name: "/bin/app", kind: b'0', link: "", content: program, size },
        entry("usr/../usr/bin", b'5', ""),
        entry("app.wasm", b'1', "/bin/app"),
        entry("up", b'2', "../../etc/passwd"),
        entry("dev/null", b'3', ""),
        entry("dev/sda", b'4', ""),
        entry("run/pipe", b'6', ""),
    ])
}

fn bomb() -> Vec<u8> {
    let size = 1u64 << 30;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let head = header(&Entry { name: "zeros", kind: b'0', link: "", content: b"", size });
    gzip.write_all(&head).expect("memory");
    io::copy(&mut io::repeat(0).take(size + 1024), &mut gzip).expect("memory");
    gzip.finish().expect("memory")
}

/// Writes an OCI layout with one image of `layers` for the platform wasi/wasm.
pub fn write(folder: &Path, layers: &[Vec<u8>]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let put = |media_type: &'static str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        fs::write(blobs.join(descriptor.digest.hex()), bytes).expect("a blob");
        descriptor
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = serde_json::json!({
        "architecture": "wasm", "os": "wasi",
        "config": { "Entrypoint": ["/app.wasm"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(MediaType::OCI_CONFIG, config.to_string().as_bytes());
    let layers: Vec<Descriptor> =
        layers.iter().map(|layer| put(MediaType::OCI_LAYER_TAR, layer)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config, "layers": layers,
    });
    let manifest = put(MediaType::OCI_MANIFEST, manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(folder.join("index.json"), index.to_string()).expect("an index");
    fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("a layout");
}
