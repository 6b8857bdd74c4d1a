use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{
    files,
    limits::LINE_BYTES_MAX,
    record::{Record, origin, parse},
};

/// A log that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The number of the first record that is still there.
    pub first: u64,
    /// How many records there are.
    pub records: u64,
    /// The hash of the last line: that of a later verification follows from it.
    pub head: String,
    /// Whether the hash that was asked for is that of a line.
    pub has_hash: bool,
}

/// The first line that does not follow from the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub path: PathBuf,
    pub line: usize,
    pub why: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of `{}`: {}", self.line, self.path.display(), self.why)
    }
}

/// The records of the log in `folder`, oldest first, each given to `visit`. A line that is no
/// record is left out: [`verify`] names it.
///
/// # Errors
/// When a file cannot be read.
pub fn entries(folder: &Path, mut visit: impl FnMut(Record)) -> io::Result<()> {
    for number in files::numbers(folder)? {
        each_line(&files::path(folder, number), |line| {
            let json = line.split_once(' ').map_or("", |(_, json)| json);
            if let Ok(record) = serde_json::from_str(json) {
                visit(record);
            }
            true
        })?;
    }
    Ok(())
}

/// Whether every record of the log in `folder` follows from the one before it, and whether `hash`
/// is the hash of one of them.
///
/// # Errors
/// When a file cannot be read.
pub fn verify(folder: &Path, hash: Option<&str>) -> io::Result<Result<Verified, Broken>> {
    let numbers = files::numbers(folder)?;
    let rotated = numbers.first().is_some_and(|first| *first > 1);
    let mut previous = (!rotated).then(origin);
    let (mut verified, mut seq) =
        (Verified { first: 0, records: 0, head: origin(), has_hash: hash.is_none() }, None);
    for (index, number) in numbers.iter().enumerate() {
        let path = files::path(folder, *number);
        let broken = |line, why| Ok(Err(Broken { path: path.clone(), line, why }));
        if numbers.get(index + 1).is_some_and(|next| *next != number + 1) {
            return broken(0, "the file after it is missing");
        }
        let (mut at, mut fault) = (0, None);
        each_line(&path, |line| {
            at += 1;
            let parsed = match &previous {
                Some(before) => parse(before, line),
                None => begin(line),
            };
            match parsed {
                Ok((_, record)) if seq.is_some_and(|seq: u64| record.seq != seq + 1) => {
                    fault = Some("its number does not follow");
                }
                Ok((next, record)) => {
                    verified.has_hash |= Some(next.as_str()) == hash;
                    if verified.records == 0 {
                        verified.first = record.seq;
                    }
                    verified.records += 1;
                    (previous, seq) = (Some(next), Some(record.seq));
                }
                Err(why) => fault = Some(why),
            }
            fault.is_none()
        })?;
        if let Some(why) = fault {
            return broken(at, why);
        }
    }
    verified.head = previous.unwrap_or_else(origin);
    Ok(Ok(verified))
}

/// The first line of a log whose earlier files were deleted: what it followed from is not known.
fn begin(line: &str) -> Result<(String, Record), &'static str> {
    let (hash, json) = line.split_once(' ').ok_or("the line has no hash")?;
    let record = serde_json::from_str(json).map_err(|_| "it is no record")?;
    Ok((hash.to_owned(), record))
}

/// Calls `visit` for each line until it returns false. A file that a server is writing may have the
/// reserve of the next lines behind its last one, which is no line.
fn each_line(path: &Path, mut visit: impl FnMut(&str) -> bool) -> io::Result<()> {
    // Root reads it, in a folder that the user of the server can change.
    let mut file = BufReader::new(disk::open_plain(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut file).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => {}
            Some(_) if line.len() >= LINE_BYTES_MAX => {} // too long, which is said
            Some(_) | None => return Ok(()),              // being written
        }
        if !visit(&String::from_utf8_lossy(&line)) {
            return Ok(());
        }
    }
}
