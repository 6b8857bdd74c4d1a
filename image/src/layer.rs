use std::io::{self, Read, Write};

use spec::Digest;

use crate::{
    budget::Budget,
    error::Error,
    extended::{Extended, RecordKind},
    header::{BLOCK_BYTES, Header},
    limits::PATH_BYTES_MAX,
    path::{InvalidName, link_leaves, normal_name, shown},
    stream::Stream,
};

/// One entry of a layer, its name already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative and normal: see [`normal_name`]. Empty for the root folder. For whiteouts: what is
    /// taken away.
    pub path: String,
    /// File, folder, link or whiteout.
    pub kind: EntryKind,
    /// The lower twelve bits, set-user-id and the like included; Wasm never sees more than `0o777`.
    pub mode: u32,
    /// The user id of its owner.
    pub uid: u64,
    /// Its group id.
    pub gid: u64,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// How many bytes its content has; 0 for everything but files.
    pub size: u64,
    /// Where its content begins in the uncompressed tar.
    pub offset: u64,
    /// Extended attributes. Dropped for Wasm; for native images a policy decides.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file, with content.
    File,
    /// A folder.
    Directory,
    /// A symbolic link, by its text. Absolute ones begin at the root of the image.
    Symlink {
        /// As written.
        target: String,
    },
    /// Another name for a file further up in the same layer.
    Hardlink {
        /// That file's name, normal.
        target: String,
    },
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

/// Walks a layer (plain, gzip or zstd: its first bytes tell) entry by entry, refusing everything
/// that could be read in two ways or could leave the image. Never unpacks: what is done with an
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
    ended: bool,
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
        Ok(Self { stream, budget, entries: 0, data_left: 0, padding_left: 0, ended: false })
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
                    let xattrs = extended.apply(&mut header)?;
                    return self.entry(header, xattrs).map(Some);
                }
            }
        }
    }

    /// The content of the current entry that was not read yet; ends with it.
    pub fn content(&mut self) -> impl Read + '_ {
        Content(self)
    }

    /// All content of the current entry, at most `bytes_max`.
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
        let Some(block) = self.next_block()? else {
            let why = match self.stream.position() {
                0 => "it is empty",
                _ => "its tar was cut short",
            };
            return Err(Error::media("the layer", why));
        };
        if block.iter().any(|b| *b != 0) {
            self.count_entry()?;
            return Header::parse(&block).map(Some);
        }
        match self.next_block()? {
            Some(second) if second.iter().all(|b| *b == 0) => {
                self.ended = true;
                Ok(None)
            }
            _ => Err(Error::media("the layer", "its tar has half of an end mark")),
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
        self.expect_content(header)?;
        self.read_content(kind.bytes_max())
    }

    fn expect_content(&mut self, header: &Header) -> Result<(), Error> {
        if header.size > self.stream.left() {
            let (name, size, max) = (shown(&header.name), header.size, self.budget.bytes_max);
            return Err(Error::Budget {
                why: format!("`{name}` has {size} bytes, and the whole layer may have {max}"),
            });
        }
        self.data_left = header.size;
        self.padding_left = header.size.next_multiple_of(BLOCK_BYTES as u64) - header.size;
        Ok(())
    }

    fn entry(&mut self, header: Header, xattrs: Vec<(String, Vec<u8>)>) -> Result<Entry, Error> {
        let invalid = |why| Error::LayerPath { name: shown(&header.name), why };
        let is_folder = header.kind == b'5';
        if header.name.ends_with(b"/") && !is_folder {
            return Err(Error::media(
                "the layer",
                format!("`{}` is no folder and ends with `/`", shown(&header.name)),
            ));
        }
        let name = normal_name(&header.name).map_err(invalid)?;
        if name.is_empty() && !is_folder {
            return Err(invalid(InvalidName::Empty));
        }
        let (path, kind) = match header.kind {
            b'0' | b'7' | 0 => {
                whiteout(name).map_err(invalid)?.unwrap_or((name.to_owned(), EntryKind::File))
            }
            b'5' => (name.to_owned(), EntryKind::Directory),
            b'2' => (
                name.to_owned(),
                EntryKind::Symlink { target: symlink_target(name, &header.link).map_err(invalid)? },
            ),
            b'1' => (
                name.to_owned(),
                EntryKind::Hardlink { target: hardlink_target(&header.link).map_err(invalid)? },
            ),
            other => {
                return Err(Error::LayerKind { name: shown(&header.name), kind: kind_name(other) });
            }
        };
        if kind != EntryKind::File && header.size != 0 {
            let (name, size) = (shown(&header.name), header.size);
            return Err(Error::media(
                "the layer",
                format!("`{name}` is no file and has {size} bytes of content"),
            ));
        }
        self.expect_content(&header)?;
        Ok(Entry {
            path,
            kind,
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime: header.mtime,
            size: header.size,
            offset: self.stream.position(),
            xattrs,
        })
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
        self.0.read_some(buf).map_err(io::Error::other)
    }
}

/// What a file named `.wh.…` takes away, if it is one.
fn whiteout(name: &str) -> Result<Option<(String, EntryKind)>, InvalidName> {
    let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
    let Some(hidden) = last.strip_prefix(".wh.") else { return Ok(None) };
    match hidden {
        ".wh..opq" => Ok(Some((folder.to_owned(), EntryKind::Opaque))),
        "" | "." | ".." => Err(InvalidName::Whiteout),
        _ if folder.is_empty() => Ok(Some((hidden.to_owned(), EntryKind::Whiteout))),
        _ => Ok(Some((format!("{folder}/{hidden}"), EntryKind::Whiteout))),
    }
}

fn symlink_target(path: &str, raw: &[u8]) -> Result<String, InvalidName> {
    let target = str::from_utf8(raw).map_err(|_| InvalidName::NotUtf8)?;
    match target {
        "" => Err(InvalidName::Empty),
        _ if target.contains('\0') => Err(InvalidName::Nul),
        _ if target.len() > PATH_BYTES_MAX => Err(InvalidName::TooLong),
        _ if link_leaves(path, target) => Err(InvalidName::LinkLeaves),
        _ => Ok(target.to_owned()),
    }
}

fn hardlink_target(raw: &[u8]) -> Result<String, InvalidName> {
    match normal_name(raw) {
        Ok("") => Err(InvalidName::LinkAbsent),
        Ok(target) => Ok(target.to_owned()),
        Err(InvalidName::Absolute | InvalidName::Parent) => Err(InvalidName::LinkLeaves),
        Err(why) => Err(why),
    }
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        b'3' => "a character device",
        b'4' => "a block device",
        b'6' => "a named pipe",
        b'S' => "a sparse file",
        _ => "of a kind that tar does not define",
    }
}

#[cfg(test)]
mod tests;
