use super::cargo::audit_data;
use crate::{
    limits::WASM_DEPTH_MAX,
    scan::package::{Kind, Package},
};

const CUSTOM: u8 = 0;
/// Of a component: a module, and a component inside it.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;
/// The layer in the header of a component.
const LAYER_COMPONENT: u8 = 1;

/// What a module or a component was made of and with: `.dep-v0` of cargo-auditable, and the
/// producers, of everything inside it too.
pub fn wasm(bytes: &[u8]) -> Vec<Package> {
    let mut found = Vec::new();
    read(bytes, 0, &mut found);
    found
}

fn read(bytes: &[u8], depth: usize, found: &mut Vec<Package>) {
    if depth > WASM_DEPTH_MAX || !bytes.starts_with(b"\0asm") || bytes.len() < 8 {
        return;
    }
    let is_component = bytes[6] == LAYER_COMPONENT;
    let mut rest = &bytes[8..];
    while let Some((id, content, after)) = section(rest) {
        match id {
            CUSTOM => custom(content, found),
            MODULE | COMPONENT if is_component => read(content, depth + 1, found),
            _ => {}
        }
        rest = after;
    }
}

fn section(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (id, rest) = bytes.split_first()?;
    let (content, after) = counted(rest)?;
    Some((*id, content, after))
}

fn custom(content: &[u8], found: &mut Vec<Package>) {
    match counted(content) {
        Some((b".dep-v0", data)) => found.extend(audit_data(data)),
        Some((b"producers", data)) => {
            producers(data, found);
        }
        _ => {}
    }
}

/// # Spec
/// WebAssembly tool-conventions, "Producers Section".
fn producers(data: &[u8], found: &mut Vec<Package>) -> Option<()> {
    let (fields, mut rest) = number(data)?;
    for _ in 0..fields {
        let (_, after) = counted(rest)?;
        let (values, after) = number(after)?;
        rest = after;
        for _ in 0..values {
            let (name, after) = counted(rest)?;
            let (version, after) = counted(after)?;
            let (name, version) = (str::from_utf8(name).ok()?, str::from_utf8(version).ok()?);
            // `1.95.0 (59807616e 2026-04-14)`
            let version = version.split(' ').next().unwrap_or_default();
            found.extend(Package::new(Kind::Generic, name, version));
            rest = after;
        }
    }
    Some(())
}

/// Bytes behind their number.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(length as usize)
}

/// A number of seven bits a byte.
fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0u32;
    for (place, byte) in bytes.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    fn section_of(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id][..], &image::leb(content.len() as u32), content].concat()
    }

    fn custom_of(name: &str, content: &[u8]) -> Vec<u8> {
        section_of(CUSTOM, &[&[name.len() as u8], name.as_bytes(), content].concat())
    }

    #[test]
    fn what_is_inside_a_component_is_read_too() {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(br#"{"packages":[{"name":"time","version":"0.1.44"}]}"#).unwrap();
        let mut producers = vec![1, 12];
        producers.extend(b"processed-by");
        producers.extend([1, 5]);
        producers.extend(b"rustc");
        producers.push(14);
        producers.extend(b"1.95.0 (59807)");
        let module = [
            b"\0asm\x01\0\0\0".to_vec(),
            custom_of(".dep-v0", &packed.finish().unwrap()),
            custom_of("producers", &producers),
        ]
        .concat();
        let component = [b"\0asm\x0d\0\x01\0".to_vec(), section_of(MODULE, &module)].concat();
        for bytes in [&module, &component] {
            let found = wasm(bytes);
            let shown: Vec<_> =
                found.iter().map(|one| format!("{}@{}", one.name, one.version)).collect();
            assert_eq!(shown, ["time@0.1.44", "rustc@1.95.0"]);
        }
        for length in 0..component.len() {
            wasm(&component[..length]);
        }
        assert!(wasm(b"\0asm\x01\0\0\0\0\xff\xff\xff\xff\xff").is_empty());
    }
}
