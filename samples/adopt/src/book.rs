use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const BOOK: &str = "/data/book.jsonl";

/// Some thousands of adoptions; the page shows them all, so the book must end somewhere.
const BOOK_BYTES_MAX: u64 = 1 << 20;

/// One adoption: a line of the book.
#[derive(Serialize, Deserialize)]
pub struct Adoption {
    /// The name of the new owner.
    pub name: String,
    /// The name of the cat.
    pub cat: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl Adoption {
    /// It happens now.
    pub fn now(name: String, cat: String) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { name, cat, at }
    }

    /// As it is written, with the newline.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("two strings and a number are JSON");
        line.push('\n');
        line
    }
}

/// The open book. Having one means that `/data` is writable.
pub struct Book {
    file: File,
}

/// Why nothing was written.
#[derive(Debug)]
pub enum Closed {
    /// There is no folder `/data`, or it may not be written.
    NoVolume(io::Error),
    /// The volume, or the book itself, is full.
    Full,
    /// The volume is there and fails.
    Broken(io::Error),
}

impl Book {
    /// Opens the book, and begins it when `/data` is empty.
    pub fn open() -> Result<Self, Closed> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(BOOK);
        file.map(|file| Self { file }).map_err(Closed::NoVolume)
    }

    /// Adds one line, in one write, so that two concurrent requests get a line each.
    pub fn write(&mut self, adoption: &Adoption) -> Result<(), Closed> {
        let line = adoption.line();
        let length = self.file.metadata().map_err(Closed::Broken)?.len();
        if length + line.len() as u64 > BOOK_BYTES_MAX {
            return Err(Closed::Full);
        }
        self.file.write_all(line.as_bytes()).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Closed::Full,
            _ => Closed::Broken(error),
        })
    }

    /// Every adoption, oldest first. A line that makes no sense is left out.
    pub fn adoptions(&self) -> Vec<Adoption> {
        let mut text = String::new();
        let read = (&self.file).take(BOOK_BYTES_MAX).read_to_string(&mut text);
        if let Err(error) = read {
            eprintln!("cannot read `{BOOK}`: {error}");
        }
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Closed {
    /// What HTTP calls it.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoVolume(_) => 503,
            Self::Full => 507,
            Self::Broken(_) => 500,
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVolume(error) => write!(
                f,
                "no volume is granted at /data, so an adoption would be forgotten ({error}). Grant one with \
                 `fs:/data#rw;volume=NAME`, as `margay run -v NAME:/data -p 8080:80 adopt` does."
            ),
            Self::Full => {
                f.write_str("the book is full. Move /data/book.jsonl away, and a new one begins.")
            }
            Self::Broken(error) => write!(f, "the book cannot be written: {error}"),
        }
    }
}

/// What `/book` answers.
pub fn as_json(book: &Result<Book, Closed>) -> String {
    let (adoptions, note) = match book {
        Ok(book) => (book.adoptions(), None),
        Err(closed) => (Vec::new(), Some(closed.to_string())),
    };
    let listed =
        serde_json::json!({ "persists": book.is_ok(), "note": note, "adoptions": adoptions });
    format!("{listed}\n")
}
