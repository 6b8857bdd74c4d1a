use std::{io, path::PathBuf};

use crate::Rev;

/// Why a store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody knows whether the transaction happened. Read again by key before trying again.
    #[error("the outcome of a transaction is unknown")]
    Unknown,
    /// Nothing was changed, and a later try may succeed.
    #[error("the store cannot write now")]
    Unavailable {
        /// What stopped it.
        source: rusqlite::Error,
    },
    /// An earlier failure left the file in doubt, so nothing is written any more.
    #[error("the store stopped writing after a failure")]
    Broken,
    /// R9.
    #[error("a key is empty")]
    EmptyKey,
    /// R7.
    #[error("a transaction writes `{key}` twice")]
    DuplicateKey {
        /// The key, or the prefix of keys.
        key: String,
    },
    /// R12.
    #[error("a transaction reads `{key}`, which it also writes")]
    ReadOfWritten {
        /// The key, or the prefix of keys.
        key: String,
    },
    /// R8.
    #[error(
        "a request to the store is too large: {what} is at most {max}, and this one is {found}"
    )]
    TooLarge {
        /// What has a limit.
        what: &'static str,
        /// The limit.
        max: usize,
        /// What was asked.
        found: usize,
    },
    /// R16, R17: a revision that has not happened yet.
    #[error("revision {asked} has not happened yet: the store is at {rev}")]
    FutureRev {
        /// What was asked for.
        asked: Rev,
        /// Where the store is.
        rev: Rev,
    },
    /// R16, R17: a revision whose events are gone. List, then watch from what the list says.
    #[error("the events after revision {asked} are gone: the oldest kept is {compact_rev}")]
    Compacted {
        /// What was asked for.
        asked: Rev,
        /// What is still there.
        compact_rev: Rev,
    },
    /// A stored value was written by a newer margay.
    #[error("`{key}` has format {found}, and this margay knows {known}")]
    Newer {
        /// Whose value.
        key: String,
        /// Its version byte.
        found: u8,
        /// What we know.
        known: u8,
    },
    /// A stored value is not what its key promises.
    #[error("the value of `{key}` is damaged")]
    Damaged {
        /// Whose value.
        key: String,
        /// How.
        source: serde_json::Error,
    },
    /// Another process has the file open.
    #[error("the store `{}` is in use by another process", .path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// The file was made by a newer margay.
    #[error("the store `{}` has format {found}, and this margay knows {known}", .path.display())]
    NewerFile {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// What we know.
        known: i64,
    },
    /// The database could not be opened or read.
    #[error("cannot open the store `{}`", .path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file system said no.
    #[error("cannot prepare the store `{}`", .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The next thing a person could try, when we know one.
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
