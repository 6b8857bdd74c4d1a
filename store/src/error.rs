#![allow(missing_docs, reason = "the messages say what the variants and their fields are")]

use std::{io, path::PathBuf};

use crate::Rev;

/// Why a request to the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Whether the transaction happened is unknown. Read again by key before trying again.
    #[error("the outcome of a transaction is unknown")]
    Unknown,
    /// Nothing was changed, and a later try may succeed.
    #[error("the store cannot write now")]
    Unavailable { source: rusqlite::Error },
    /// An earlier failure left the file in doubt, so nothing is written any more.
    #[error("the store stopped writing after a failure")]
    Broken,
    /// R9.
    #[error("a key is empty")]
    EmptyKey,
    /// R7.
    #[error("a transaction writes `{key}` twice")]
    DuplicateKey { key: String },
    /// R12.
    #[error("a transaction reads `{key}`, which it also writes")]
    ReadOfWritten { key: String },
    /// R8.
    #[error(
        "a request to the store is too large: {what} is at most {max}, and this one is {found}"
    )]
    TooLarge { what: &'static str, max: usize, found: usize },
    /// R16, R17: a revision that has not happened yet.
    #[error("revision {asked} has not happened yet: the store is at {rev}")]
    FutureRev { asked: Rev, rev: Rev },
    /// R16, R17: a revision whose events are gone. List, then watch from what the list says.
    #[error("the events after revision {asked} are gone: the oldest kept is {compact_rev}")]
    Compacted { asked: Rev, compact_rev: Rev },
    #[error("`{key}` has format {found}, and this margay knows {known}")]
    Newer { key: String, found: u8, known: u8 },
    /// A stored value is not what its key promises.
    #[error("the value of `{key}` is damaged")]
    Damaged { key: String, source: serde_json::Error },
    #[error("the store `{}` is in use by another process", .path.display())]
    InUse { path: PathBuf },
    #[error("the store `{}` has format {found}, and this margay knows {known}", .path.display())]
    NewerFile { path: PathBuf, found: i64, known: i64 },
    #[error("cannot open the store `{}`", .path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("cannot prepare the store `{}`", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    /// The next thing that an operator could try, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Newer { .. } | Self::NewerFile { .. } => Some("update margay".to_owned()),
            Self::InUse { .. } => {
                Some("stop the other process, or use another MARGAY_HOME".to_owned())
            }
            Self::Unavailable { .. } => Some("see whether the disk is full".to_owned()),
            Self::Broken => {
                Some("see the log for the failure, then restart this process".to_owned())
            }
            Self::Unknown => Some("read again before trying again".to_owned()),
            Self::TooLarge { .. } => {
                Some("split the request, or keep the value elsewhere".to_owned())
            }
            Self::EmptyKey
            | Self::DuplicateKey { .. }
            | Self::ReadOfWritten { .. }
            | Self::FutureRev { .. }
            | Self::Compacted { .. }
            | Self::Damaged { .. }
            | Self::Open { .. }
            | Self::Io { .. } => None,
        }
    }
}
