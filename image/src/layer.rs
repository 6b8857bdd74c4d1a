use std::io::{self, Read, Write};

use spec::Digest;

use crate::{
    budget::Budget,
    error::Error,
    extended::{Extended, PaxSparse, RecordKind},
    header::{BLOCK_BYTES, Header, more_sparse_parts},
    limits::{CONTAINER_ID_MAX, PATH_BYTES_MAX, SPARSE_PARTS_MAX},
    notes::{Note, Notes},
    path::{InvalidName, entry_name, link_leaves, shown},
    sparse::{MapText, Piece, SparseMap},
    stream::Stream,
};

/// One entry of a layer, its name already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative and normal: parts joined by one `/`, nothing at the ends. Its bytes need not be
    /// UTF-8. Empty for the root folder. For whiteouts: what is taken away.
    pub path: Vec<u8>,
    /// File, folder, link or whiteout.
    pub kind: EntryKind,
    /// The lower twelve bits, set-user-id and the like included; Wasm never sees more than `0o777`.
    pub mode: u32,
    /// The user id of its owner.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// How many bytes its content has; 0 for everything but files.
    pub size: u64,
    /// Where its content begins in the uncompressed tar. A sparse file is in pieces there.
    pub offset: u64,
    /// Extended attributes. Dropped for Wasm; for native images a policy decides.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file, with content.
    File,
    /// A file with holes, which its content shows as zeros.
    SparseFile,
    /// A folder.
    Directory,
    /// A symbolic link, by its text. Absolute ones begin at the root of the image.
    Symlink {
        /// As written.
        target: Vec<u8>,
    },
    /// Another name for a file of the same layer or of one below.
    Hardlink {
        /// That file's name, normal.
        target: Vec<u8>,
    },
    /// A named pipe.
    Pipe,
    /// A device node. No container gets one from its image; it hides what lower layers have.
    Device,
    /// Takes away what lower layers have at its path.
    Whiteout,
    /// Takes away everything that lower layers have in the folder at its path.
    Opaque,
}

/// What a layer turned out to be, once it was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSummary {
    /// The digest of the uncompressed tar, to be compared with the config's `diff_ids`.
    pub diff_id: Digest,
    /// The length of the uncompressed tar.
    pub bytes: u64,
    /// The number of its entries.
    pub entries: u64,
}

impl Entry {
    /// Its path, when that is UTF-8.
    pub fn utf8_path(&self) -> Option<&str> {
        str::from_utf8(&self.path).ok()
    }

    /// Its path for a message.
    pub fn shown_path(&self) -> String {
        shown(&self.path)
    }
}

/// Walks a layer (plain, gzip, zstd, xz or bzip2: its first bytes tell) entry by entry. Names are
/// read as Docker reads them and made normal, with a note; what could be read in two ways or leave
/// the image is refused. Never unpacks: what is done with an
/// entry is up to the caller.
///
/// Every uncompressed byte is also written to `W`, which by default throws it away.
pub struct LayerReader<R: Read, W: Write = io::Sink> {
    stream: Stream<R, W>,
    budget: Budget,
    entries: u64,
    /// Content of the current entry that was not read yet.
    data_left: u64,
    padding_left: u64,
    /// Where the current entry has data, when it is a sparse file.
    sparse: Option<SparseMap>,
    /// What sparse files have beyond their stored bytes.
    hole_bytes: u64,
    notes: Notes,
    ended: bool,
    end_mark: bool,
}

impl<R: Read> LayerReader<R> {
    /// Looks at the first bytes of `blob` only.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn new(blob: R, budget: Budget) -> Result<Self, Error> {
        Self::copying_to(blob, io::sink(), budget)
    }
}

impl<R: Read, W: Write> LayerReader<R, W> {
    /// Like [`LayerReader::new`], and writes the uncompressed tar to `copy` on the way.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn copying_to(blob: R, copy: W, budget: Budget) -> Result<Self, Error> {
        let stream = Stream::new(blob, copy, budget)?;
        Ok(Self {
            stream,
            budget,
            entries: 0,
            data_left: 0,
            padding_left: 0,
            sparse: None,
            hole_bytes: 0,
            notes: Notes::default(),
            ended: false,
            end_mark: false,
        })
    }

    /// What was read otherwise than it is written, so far.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Whether the end of the tar was there: without it more may have been meant to follow.
    pub fn has_end_mark(&self) -> bool {
        self.end_mark
    }

    /// The next entry, or `None` behind the last one. Skips content that was not read.
    ///
    /// # Errors
    /// Whatever is wrong with the layer. After an error nothing more is to be had.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extended = Extended::default();
        loop {
            self.skip_content()?;
            let Some(mut header) = self.next_header()? else {
                return if extended.is_pending() {
                    Err(Error::media("the layer", "an extended header has no entry behind it"))
                } else {
                    Ok(None)
                };
            };
            match RecordKind::of(&header) {
                Some(kind) => {
                    let content = self.read_record(&header, kind)?;
                    extended.add(kind, &content)?;
                }
                None => {
                    let applied = extended.apply(&mut header)?;
                    let entry = self.entry(&header, applied.xattrs)?;
                    return self.with_holes(entry, header, applied.sparse).map(Some);
                }
            }
        }
    }

    /// The content of the current entry that was not read yet; ends with it.
    pub fn content(&mut self) -> impl Read + '_ {
        Content(self)
    }

    /// All content of the current entry, at most `bytes_max`. Of a sparse file, what is stored.
    ///
    /// # Errors
    /// [`Error::Budget`] when it has more.
    pub fn read_content(&mut self, bytes_max: u64) -> Result<Vec<u8>, Error> {
        if self.data_left > bytes_max {
            let why = format!(
                "a file of {} bytes is to be held in memory, at most {bytes_max}",
                self.data_left
            );
            return Err(Error::Budget { why });
        }
        let mut bytes = Vec::new();
        while self.data_left > 0 {
            // Grows with what is really there, not with what the header claims.
            let start = bytes.len();
            bytes.resize(start + self.data_left.min(64 << 10) as usize, 0);
            let n = self.read_some(&mut bytes[start..])?;
            bytes.truncate(start + n);
        }
        Ok(bytes)
    }

    /// Reads to the end of the blob, where nothing but zeros may follow the end mark.
    ///
    /// # Errors
    /// Whatever is wrong with the rest of the layer.
    pub fn finish(self) -> Result<LayerSummary, Error> {
        self.finish_with_copy().map(|(summary, _)| summary)
    }

    /// Like [`LayerReader::finish`], and gives back the copy.
    ///
    /// # Errors
    /// Whatever is wrong with the rest of the layer.
    pub fn finish_with_copy(mut self) -> Result<(LayerSummary, W), Error> {
        while self.next_entry()?.is_some() {}
        let mut rest = [0; 8 << 10];
        loop {
            match self.stream.read(&mut rest)? {
                0 => break,
                n if rest[..n].iter().all(|b| *b == 0) => {}
                _ => {
                    return Err(Error::media(
                        "the layer",
                        "there is something behind the end of its tar",
                    ));
                }
            }
        }
        let (bytes, entries) = (self.stream.position(), self.entries);
        let (diff_id, copy) = self.stream.finish();
        Ok((LayerSummary { diff_id, bytes, entries }, copy))
    }

    fn next_header(&mut self) -> Result<Option<Header>, Error> {
        if self.ended {
            return Ok(None);
        }
        // Some writers leave the end mark out. A layer that was cut short here is not the one that
        // its digest names.
        let Some(block) = self.next_block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().any(|b| *b != 0) {
            self.count_entry()?;
            return Header::parse(&block).map(Some);
        }
        match self.next_block()? {
            None => {
                self.ended = true;
                Ok(None)
            }
            Some(second) if second.iter().all(|b| *b == 0) => {
                (self.ended, self.end_mark) = (true, true);
                Ok(None)
            }
            Some(_) => Err(Error::media("the layer", "its tar has half of an end mark")),
        }
    }

    fn next_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Error> {
        let mut block = [0; BLOCK_BYTES];
        match self.stream.read_full(&mut block)? {
            0 => Ok(None),
            BLOCK_BYTES => Ok(Some(block)),
            _ => Err(Error::media("the layer", "its tar was cut short")),
        }
    }

    /// Extended headers count too: they cost as much.
    fn count_entry(&mut self) -> Result<(), Error> {
        self.entries += 1;
        match self.entries > self.budget.entries_max {
            true => Err(Error::Budget {
                why: format!("it has more than {} entries", self.budget.entries_max),
            }),
            false => Ok(()),
        }
    }

    fn read_record(&mut self, header: &Header, kind: RecordKind) -> Result<Vec<u8>, Error> {
        if header.size > kind.bytes_max() {
            return Err(Error::media(
                "the layer",
                format!("an extended header has {} bytes", header.size),
            ));
        }
        self.expect_content(&header.name, header.size)?;
        self.read_content(kind.bytes_max())
    }

    fn expect_content(&mut self, name: &[u8], size: u64) -> Result<(), Error> {
        if size > self.stream.left() {
            let (name, max) = (shown(name), self.budget.bytes_max);
            return Err(Error::Budget {
                why: format!("`{name}` has {size} bytes, and the whole layer may have {max}"),
            });
        }
        self.data_left = size;
        self.padding_left = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        Ok(())
    }

    fn entry(&mut self, header: &Header, xattrs: Vec<(String, Vec<u8>)>) -> Result<Entry, Error> {
        let invalid = |why| Error::LayerPath { name: shown(&header.name), why };
        let name = entry_name(&header.name).map_err(invalid)?;
        if name.absolute && !name.name.is_empty() {
            self.notes.add(Note::Absolute, &header.name);
        }
        if name.parent {
            self.notes.add(Note::Parent, &header.name);
        }
        let kind = kind_of(header, &name.name)?;
        if name.name.is_empty() && kind != EntryKind::Directory {
            return Err(invalid(InvalidName::Empty));
        }
        let (path, kind) = whiteout(&name.name).map_err(invalid)?.unwrap_or((name.name, kind));
        match &kind {
            EntryKind::Symlink { target } if leaves(&path, target) => {
                self.notes.add(Note::ClimbingLink, &header.name);
            }
            EntryKind::Device => self.notes.add(Note::Device, &header.name),
            _ => {}
        }
        if [header.uid, header.gid].iter().any(|id| !(0..=CONTAINER_ID_MAX).contains(id)) {
            self.notes.add(Note::Owner, &header.name);
        }
        // Nothing but a file has content, whatever its header says of a size.
        let has_content = matches!(header.kind, b'0' | b'7' | b'S' | 0)
            && !(header.kind == 0 && header.name.ends_with(b"/"));
        let size = if has_content { header.size } else { 0 };
        self.expect_content(&header.name, size)?;
        Ok(Entry {
            path,
            size: if kind == EntryKind::File { size } else { 0 },
            kind,
            mode: header.mode,
            uid: id_of(header.uid),
            gid: id_of(header.gid),
            mtime: header.mtime,
            offset: self.stream.position(),
            xattrs,
        })
    }

    /// Reads the map of a sparse file, in whichever of its forms there is one.
    fn with_holes(
        &mut self,
        mut entry: Entry,
        header: Header,
        pax: Option<PaxSparse>,
    ) -> Result<Entry, Error> {
        if !matches!(entry.kind, EntryKind::File | EntryKind::SparseFile) {
            return Ok(entry);
        }
        let (parts, size) = match (header.sparse, pax) {
            (None, None) => return Ok(entry),
            (Some(old), _) => (self.old_parts(old.parts, old.extended)?, old.size),
            (None, Some(PaxSparse { parts: Some(parts), size })) => (parts, size),
            (None, Some(PaxSparse { parts: None, size })) => (self.parts_in_content()?, size),
        };
        let map = SparseMap::new(parts, size, self.data_left)?;
        self.hole_bytes = self.hole_bytes.saturating_add(map.size() - self.data_left);
        if self.hole_bytes > self.stream.left() {
            let (name, max) = (shown(&header.name), self.budget.bytes_max);
            return Err(Error::Budget {
                why: format!("`{name}` has {size} bytes, and the whole layer may have {max}"),
            });
        }
        (entry.kind, entry.size) = (EntryKind::SparseFile, size);
        entry.offset = self.stream.position();
        self.sparse = Some(map);
        Ok(entry)
    }

    /// The map in a header and in the blocks between it and the content.
    fn old_parts(
        &mut self,
        mut parts: Vec<(u64, u64)>,
        mut extended: bool,
    ) -> Result<Vec<(u64, u64)>, Error> {
        while extended {
            let cut = || Error::media("the layer", "its tar was cut short");
            let block = self.next_block()?.ok_or_else(cut)?;
            let more = more_sparse_parts(&block);
            let (more, next) =
                more.ok_or_else(|| Error::media("the layer", "a map of holes is none"))?;
            parts.extend(more);
            extended = next && parts.len() <= SPARSE_PARTS_MAX;
        }
        Ok(parts)
    }

    fn parts_in_content(&mut self) -> Result<Vec<(u64, u64)>, Error> {
        let mut text = MapText::default();
        loop {
            let mut block = [0; BLOCK_BYTES];
            let mut filled = 0;
            while filled < BLOCK_BYTES {
                match self.read_some(&mut block[filled..])? {
                    0 => return Err(Error::media("the layer", "the map of a sparse file is cut")),
                    n => filled += n,
                }
            }
            if text.add(&block)? {
                return Ok(text.into_parts());
            }
        }
    }

    /// Content as a program sees it: holes are zeros.
    fn read_filled(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let Some(map) = &mut self.sparse else { return self.read_some(buf) };
        let fits = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(buf.len());
        let n = match map.next() {
            Piece::End => 0,
            Piece::Hole(bytes) => {
                let n = fits(bytes);
                buf[..n].fill(0);
                n
            }
            Piece::Data(bytes) => {
                let n = fits(bytes);
                self.read_some(&mut buf[..n])?
            }
        };
        if let Some(map) = &mut self.sparse {
            map.advance(n as u64);
        }
        Ok(n)
    }

    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let want = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.stream.read(&mut buf[..want])?;
        if n == 0 {
            return Err(Error::media("the layer", "its tar was cut short"));
        }
        self.data_left -= n as u64;
        Ok(n)
    }

    fn skip_content(&mut self) -> Result<(), Error> {
        self.sparse = None;
        let mut discarded = [0; 16 << 10];
        while self.data_left > 0 {
            self.read_some(&mut discarded)?;
        }
        let padding =
            usize::try_from(std::mem::take(&mut self.padding_left)).expect("less than a block");
        match self.stream.read_full(&mut discarded[..padding])? {
            n if n == padding => Ok(()),
            _ => Err(Error::media("the layer", "its tar was cut short")),
        }
    }
}

struct Content<'a, R: Read, W: Write>(&'a mut LayerReader<R, W>);

impl<R: Read, W: Write> Read for Content<'_, R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_filled(buf).map_err(io::Error::other)
    }
}

fn kind_of(header: &Header, name: &[u8]) -> Result<EntryKind, Error> {
    let invalid = |why| Error::LayerPath { name: shown(&header.name), why };
    Ok(match header.kind {
        // Before POSIX, only its name told a folder from a file.
        0 if header.name.ends_with(b"/") => EntryKind::Directory,
        b'0' | b'7' | 0 if name.is_empty() => EntryKind::Directory,
        b'0' | b'7' | 0 => EntryKind::File,
        b'S' => EntryKind::SparseFile,
        b'5' => EntryKind::Directory,
        b'2' => EntryKind::Symlink { target: symlink_target(&header.link).map_err(invalid)? },
        b'1' => EntryKind::Hardlink { target: hardlink_target(&header.link).map_err(invalid)? },
        b'3' | b'4' => EntryKind::Device,
        b'6' => EntryKind::Pipe,
        _ => {
            let kind = "of a kind that tar does not define";
            return Err(Error::LayerKind { name: shown(&header.name), kind });
        }
    })
}

/// Ids are 32 bits wide, and some writers take them for signed. Others have no owner that a file
/// could have.
fn id_of(id: i64) -> u32 {
    let wide = u32::try_from(id).ok();
    let signed = || i32::try_from(id).ok().map(i32::cast_unsigned);
    wide.or_else(signed).filter(|id| *id != u32::MAX).unwrap_or(NO_ID)
}

/// The id that Linux shows for owners that it cannot.
const NO_ID: u32 = 65_534;

/// What an entry named `.wh.…` takes away, if it is one. Its name makes a whiteout: some writers
/// make them as hard links.
fn whiteout(name: &[u8]) -> Result<Option<(Vec<u8>, EntryKind)>, InvalidName> {
    let slash = name.iter().rposition(|b| *b == b'/');
    let (folder, last) = name.split_at(slash.map_or(0, |at| at + 1));
    let Some(hidden) = last.strip_prefix(b".wh.") else { return Ok(None) };
    match hidden {
        b".wh..opq" => {
            Ok(Some((folder.strip_suffix(b"/").unwrap_or(folder).to_vec(), EntryKind::Opaque)))
        }
        b"" | b"." | b".." => Err(InvalidName::Whiteout),
        // Folders in which AUFS kept files with several names.
        _ if hidden.starts_with(b".wh.") => Ok(None),
        _ => Ok(Some(([folder, hidden].concat(), EntryKind::Whiteout))),
    }
}

fn symlink_target(raw: &[u8]) -> Result<Vec<u8>, InvalidName> {
    match raw {
        b"" => Err(InvalidName::Empty),
        _ if raw.contains(&0) => Err(InvalidName::Nul),
        _ if raw.len() >= PATH_BYTES_MAX => Err(InvalidName::TooLong),
        _ => Ok(raw.to_vec()),
    }
}

/// The root of the image is the root that the program sees, and `..` stops there: such a link is
/// odd, and harmless.
fn leaves(path: &[u8], target: &[u8]) -> bool {
    link_leaves(&String::from_utf8_lossy(path), &String::from_utf8_lossy(target))
}

fn hardlink_target(raw: &[u8]) -> Result<Vec<u8>, InvalidName> {
    match entry_name(raw) {
        Ok(target) if target.name.is_empty() => Err(InvalidName::LinkAbsent),
        Ok(target) => Ok(target.name),
        Err(InvalidName::Parent) => Err(InvalidName::LinkLeaves),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests;
