use memchr::memmem;

use crate::{
    limits::{GO_BUILD_INFO_BYTES_MAX, PACKAGES_MAX},
    scan::package::{Kind, Package},
};

/// What the Go linker puts in front of the list of modules.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The strings follow the header, as of Go 1.18.
const FLAG_INLINE: u8 = 2;
const HEADER_BYTES: usize = 32;

/// The modules of a program of Go, with the standard library as the module `stdlib`.
pub fn build_info(bytes: &[u8]) -> Vec<Package> {
    let mut rest = bytes;
    // The text of the magic is also in programs that look for it.
    for _ in 0..16 {
        let Some(at) = memmem::find(rest, MAGIC) else { return Vec::new() };
        rest = &rest[at..];
        let inline = rest.get(MAGIC.len() + 1).is_some_and(|flags| flags & FLAG_INLINE != 0);
        let strings = rest.get(HEADER_BYTES..).filter(|_| inline);
        if let Some((version, after)) = strings.and_then(text)
            && let Some(number) = version.strip_prefix("go")
        {
            let modules = text(after).map_or("", |(modules, _)| modules);
            let number = number.split([' ', '-']).next().unwrap_or_default();
            let stdlib = Package::new(Kind::Golang, "stdlib", number);
            return stdlib.into_iter().chain(modules_of(modules)).collect();
        }
        rest = &rest[MAGIC.len()..];
    }
    Vec::new()
}

/// A string behind its length, which is a number of seven bits a byte.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (mut length, mut at) = (0u64, 0);
    loop {
        let byte = *bytes.get(at)?;
        length |= u64::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at == 5 {
            return None;
        }
    }
    let length =
        usize::try_from(length).ok().filter(|length| *length <= GO_BUILD_INFO_BYTES_MAX)?;
    let content = bytes.get(at..at + length)?;
    // The list of modules has sixteen bytes around it that mark it in memory.
    let inner = match content.len() >= 33 && content[content.len() - 17] == b'\n' {
        true => &content[16..content.len() - 16],
        false => content,
    };
    Some((str::from_utf8(inner).ok()?, &bytes[at + length..]))
}

fn modules_of(text: &str) -> Vec<Package> {
    let mut found: Vec<Package> = Vec::new();
    for line in text.lines().take(2 * PACKAGES_MAX) {
        let mut cells = line.split('\t');
        let kind = cells.next();
        let (name, version) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        let module = module(name, version);
        match kind {
            Some("dep" | "mod") => found.extend(module),
            // It replaces the one before.
            Some("=>") => {
                found.pop();
                found.extend(module);
            }
            _ => {}
        }
    }
    found
}

/// `v1.2.3` as `1.2.3`; `(devel)` is no version.
fn module(name: &str, version: &str) -> Option<Package> {
    Package::new(Kind::Golang, name, version.strip_prefix('v')?)
}

/// The modules that a `go.mod` requires.
pub fn go_mod(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let (mut found, mut inside) = (Vec::new(), false);
    for line in text.lines().take(2 * PACKAGES_MAX) {
        let line = line.split("//").next().unwrap_or_default().trim();
        let required = match line.strip_prefix("require") {
            Some(rest) if rest.trim() == "(" => {
                inside = true;
                continue;
            }
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim(),
            _ if line == ")" => {
                inside = false;
                continue;
            }
            _ if inside => line,
            _ => continue,
        };
        let (name, version) = required.split_once([' ', '\t']).unwrap_or_default();
        found.extend(module(name, version.trim()));
    }
    found
}

#[cfg(test)]
pub(in crate::scan) mod tests {
    use super::*;

    /// What the linker of Go 1.18 and later writes.
    pub fn built_with(version: &str, modules: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, FLAG_INLINE], &[0; 16]].concat();
        for text in [version.to_owned(), format!("{}{modules}{}", "<".repeat(16), ">".repeat(16))] {
            let mut length = text.len();
            while length >= 0x80 {
                bytes.push((length as u8 & 0x7f) | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn modules_are_read_from_a_program_and_from_go_mod() {
        let shown = |packages: Vec<Package>| {
            let all = packages.into_iter().map(|found| format!("{}@{}", found.name, found.version));
            all.collect::<Vec<_>>().join(" ")
        };
        let modules = "path\tapp\nmod\tapp\t(devel)\t\ndep\tgolang.org/x/net\tv0.7.0\th1:x=\n\
            dep\ta\tv1.0.0\n=>\tb\tv1.2.0\th1:y=\nbuild\t-compiler=gc\n";
        let mut bytes = [b"some code ", MAGIC, b" as text "].concat();
        bytes.extend(built_with("go1.21.3", modules));
        let want = "stdlib@1.21.3 golang.org/x/net@0.7.0 b@1.2.0";
        assert_eq!(shown(build_info(&bytes)), want);
        assert!(build_info(&bytes[..bytes.len() - 40]).len() <= 1, "cut short");
        let text = b"module app\n\nrequire golang.org/x/net v0.7.0 // indirect\nrequire (\n\
            \ta v1.0.0\n\tb v2.0.0+incompatible\n)\nreplace a => ../a\n";
        assert_eq!(shown(go_mod(text)), "golang.org/x/net@0.7.0 a@1.0.0 b@2.0.0+incompatible");
    }
}
