/// What some bytes are, as far as their beginning tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sniffed {
    /// A core Wasm module, version 1.
    Module,
    /// A Wasm component.
    Component,
    /// Wasm of a version or layer that is not published.
    UnknownWasm,
    /// A Linux program.
    Elf,
    /// Machine code of a Wasm engine: an ELF file that says so in its header or sections.
    Cwasm,
    /// A script with a `#!` line.
    Script,
    /// A tar archive with a ustar header.
    Tar,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
    /// Anything else.
    Unknown,
}

impl Sniffed {
    /// Whether it is compressed in a way that a layer or an archive may be.
    pub fn is_compressed(self) -> bool {
        matches!(self, Self::Gzip | Self::Zstd | Self::Xz | Self::Bzip2)
    }

    /// Whether it is Wasm of a known version.
    pub fn is_wasm(self) -> bool {
        matches!(self, Self::Module | Self::Component)
    }

    /// Its name in messages, with an article.
    pub fn name(self) -> &'static str {
        match self {
            Self::Module => "a Wasm module",
            Self::Component => "a Wasm component",
            Self::UnknownWasm => "Wasm of an unknown version",
            Self::Elf => "a native program",
            Self::Cwasm => "precompiled machine code of a Wasm engine",
            Self::Script => "a script",
            Self::Tar => "a tar archive",
            Self::Gzip => "a gzip file",
            Self::Zstd => "a zstd file",
            Self::Xz => "an xz file",
            Self::Bzip2 => "a bzip2 file",
            Self::Unknown => "an unknown kind of file",
        }
    }
}

/// wasmtime writes its machine code as ELF with this value as the ABI of its header.
const ELF_OSABI_WASMTIME: u8 = 200;

/// Says what `bytes` are. The first 512 are enough.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Sniffed::Module,
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Sniffed::Component,
        [0, b'a', b's', b'm', ..] => Sniffed::UnknownWasm,
        [0x7f, b'E', b'L', b'F', _, _, _, ELF_OSABI_WASMTIME, ..] => Sniffed::Cwasm,
        [0x7f, b'E', b'L', b'F', ..] => Sniffed::Elf,
        [b'#', b'!', ..] => Sniffed::Script,
        [0x1f, 0x8b, ..] => Sniffed::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Sniffed::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Sniffed::Xz,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Sniffed::Bzip2,
        _ if bytes.get(257..262) == Some(b"ustar") => Sniffed::Tar,
        _ => Sniffed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_decide_what_they_are() {
        for (bytes, want) in [
            (&b"\0asm\x01\0\0\0"[..], Sniffed::Module),
            (b"\0asm\x0d\0\x01\0", Sniffed::Component),
            (b"\0asm\x02\0\0\0", Sniffed::UnknownWasm),
            (b"\0asm", Sniffed::UnknownWasm),
            (b"\x7fELF\x02\x01\x01\0", Sniffed::Elf),
            (b"\x7fELF\x02\x01\x01\xc8", Sniffed::Cwasm),
            (b"#!/bin/sh\n", Sniffed::Script),
            (b"\x1f\x8b\x08", Sniffed::Gzip),
            (b"\x28\xb5\x2f\xfd", Sniffed::Zstd),
            (b"\xfd7zXZ\0", Sniffed::Xz),
            (b"BZh9", Sniffed::Bzip2),
            (b"BZh, a text", Sniffed::Unknown),
            (b"", Sniffed::Unknown),
            (b"<html>", Sniffed::Unknown),
        ] {
            assert_eq!(sniff(bytes), want, "{bytes:?}");
        }
    }
}
