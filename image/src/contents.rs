use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, Write},
};

use serde::{Deserialize, Serialize};
use spec::{Algorithm, Digest, Hasher};

use crate::{
    budget::Budget,
    error::Error,
    index::{FileIndex, FileNode},
    kind::Kind,
    merge::FileIndexBuilder,
    plan::Plan,
    program::{Located, locate},
    wasm::{Wasi, World, inspect_wasm},
};

/// The layers of an image, read where they are: an index of all files, and the bytes of some.
pub struct Layers<'a, F> {
    plan: &'a Plan,
    open: F,
    budget: Budget,
}

/// What the Wasm program of an image is, derived from its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramFacts {
    /// Its path in the image; none when it is a layer by itself.
    #[serde(default)]
    pub path: Option<String>,
    /// `component` or `module`.
    pub kind: ProgramKind,
    /// The generation of WASI that it imports.
    pub wasi: Wasi,
    /// What it can be run as.
    pub world: World,
    /// Interfaces, or for a module `MODULE.NAME`.
    pub imports: Vec<String>,
    /// The names of what it exports.
    pub exports: Vec<String>,
}

/// The two kinds of Wasm programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgramKind {
    /// Of the component model.
    Component,
    /// A core module.
    Module,
}

impl<'a, R: Read, F: Fn(&Digest) -> io::Result<R>> Layers<'a, F> {
    /// `open` gives the bytes of a blob, which are verified here; all layers together stay within
    /// `budget`.
    pub fn new(plan: &'a Plan, open: F, budget: Budget) -> Self {
        Self { plan, open, budget }
    }

    /// The root filesystem that the layers make together. Reads every layer.
    ///
    /// # Errors
    /// Whatever is wrong with a layer, and [`Error::Budget`].
    pub fn index(&self) -> Result<FileIndex, Error> {
        let (mut builder, mut left) = (FileIndexBuilder::new(), self.budget);
        for (number, layer) in self.plan.layers.iter().enumerate() {
            let blob = self.blob(&layer.descriptor.digest)?;
            let (summary, _) = layer.read(blob, io::sink(), &mut builder, number, left)?;
            left.bytes_max = left.bytes_max.saturating_sub(summary.bytes);
            left.entries_max = left.entries_max.saturating_sub(summary.entries);
        }
        builder.finish()
    }

    /// The first bytes of a file.
    ///
    /// # Errors
    /// Whatever is wrong with its layer.
    pub fn bytes(&self, file: FileNode, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let window = Window { skip: file.offset, left: file.len.min(bytes_max), kept: Vec::new() };
        Ok(self.through(file.layer, window)?.kept)
    }

    /// The digests of the content of files, by layer and offset. Reads each of their layers once.
    ///
    /// # Errors
    /// Whatever is wrong with a layer.
    pub fn digests(
        &self,
        files: impl IntoIterator<Item = FileNode>,
    ) -> Result<HashMap<(u32, u64), Digest>, Error> {
        let mut of_layers: BTreeMap<u32, BTreeMap<u64, u64>> = BTreeMap::new();
        for file in files {
            of_layers.entry(file.layer).or_default().insert(file.offset, file.len);
        }
        let mut digests = HashMap::new();
        for (layer, files) in of_layers {
            let hashing = Hashing { position: 0, left: files, hashers: BTreeMap::new() };
            let hashers = self.through(layer, hashing)?.hashers;
            let named = hashers.into_iter().map(|(at, hasher)| ((layer, at), hasher.finish()));
            digests.extend(named);
        }
        Ok(digests)
    }

    /// What the program of the image is; `None` for native images, for those without a program, and
    /// for programs of more than `bytes_max` bytes.
    ///
    /// # Errors
    /// Whatever is wrong with a layer or the program.
    pub fn program(
        &self,
        index: &FileIndex,
        bytes_max: u64,
    ) -> Result<Option<ProgramFacts>, Error> {
        let head = |file, bytes| self.bytes(file, bytes).map_err(io::Error::other);
        let located = match locate(self.plan, index, head) {
            // It is a base for others.
            Err(Error::NoProgram { .. }) => return Ok(None),
            located => located?,
        };
        let Located { kind: Kind::Wasm, path, file, .. } = located else { return Ok(None) };
        if file.len > bytes_max {
            return Ok(None);
        }
        let bytes = self.bytes(file, file.len)?;
        let name = path.as_ref().map_or("the program".to_owned(), |path| format!("`{path}`"));
        let facts = inspect_wasm(&name, &bytes)?;
        Ok(Some(ProgramFacts {
            path,
            kind: match facts.component {
                true => ProgramKind::Component,
                false => ProgramKind::Module,
            },
            wasi: facts.wasi,
            world: facts.world,
            imports: facts.imports,
            exports: facts.exports,
        }))
    }

    /// Writes an uncompressed layer to `copy`.
    fn through<W: Write>(&self, layer: u32, copy: W) -> Result<W, Error> {
        let layer = self.plan.layers.get(layer as usize);
        let layer = layer.ok_or_else(|| Error::Index { why: "it names no layer".to_owned() })?;
        let blob = self.blob(&layer.descriptor.digest)?;
        // A builder of its own, which is dropped: layer numbers and names do not matter here.
        let read = layer.read(blob, copy, &mut FileIndexBuilder::new(), 0, self.budget);
        Ok(read?.1)
    }

    fn blob(&self, digest: &Digest) -> Result<R, Error> {
        let what = || format!("layer `{digest}`");
        (self.open)(digest).map_err(|source| Error::Read { what: what(), source })
    }
}

/// Keeps a part of what is written to it.
struct Window {
    skip: u64,
    left: u64,
    kept: Vec<u8>,
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - skipped);
        self.kept.extend_from_slice(&bytes[skipped..skipped + wanted]);
        self.skip -= skipped as u64;
        self.left -= wanted as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes parts of what is written to it, which do not overlap.
struct Hashing {
    position: u64,
    /// The parts that have not ended: from where, and how many bytes.
    left: BTreeMap<u64, u64>,
    hashers: BTreeMap<u64, Hasher>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.position + bytes.len() as u64;
        while let Some((&at, &len)) = self.left.first_key_value() {
            if at > end || (at == end && len > 0) {
                break;
            }
            let hasher = self.hashers.entry(at).or_insert_with(|| Hasher::new(Algorithm::Sha256));
            let from = (at.max(self.position) - self.position) as usize;
            let to = ((at + len).min(end) - self.position) as usize;
            hasher.update(bytes.get(from..to).unwrap_or_default());
            if at + len > end {
                break;
            }
            self.left.remove(&at);
        }
        self.position = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_its_part_however_it_arrives() {
        for piece in 1..8 {
            let mut window = Window { skip: 3, left: 4, kept: Vec::new() };
            for bytes in b"abcdefghijkl".chunks(piece) {
                window.write_all(bytes).unwrap();
            }
            assert_eq!(window.kept, b"defg", "in pieces of {piece}");
        }
    }

    #[test]
    fn parts_are_hashed_however_they_arrive() {
        let text = b"abcdefghijkl";
        let parts = [(0, 2), (2, 0), (2, 3), (7, 5)];
        for piece in 1..14 {
            let left = parts.into_iter().filter(|(_, len)| *len > 0).collect();
            let mut hashing = Hashing { position: 0, left, hashers: BTreeMap::new() };
            for bytes in text.chunks(piece) {
                hashing.write_all(bytes).unwrap();
            }
            let mut found = hashing.hashers;
            for (at, len) in parts.into_iter().filter(|(_, len)| *len > 0) {
                let want = Digest::of(&text[at as usize..(at + len) as usize]);
                let got = found.remove(&at).map(Hasher::finish);
                assert_eq!(got, Some(want), "{at} in pieces of {piece}");
            }
            assert!(found.is_empty(), "in pieces of {piece}");
        }
    }
}
