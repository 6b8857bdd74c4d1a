use std::{fmt, str::FromStr};

use super::grammar::Line;
use crate::{
    limits::GUEST_PATH_BYTES_MAX,
    name::VolumeName,
    time::{parse_bytes, print_bytes},
};

/// `fs:/data#rw;volume=orders;max=1GiB`: a folder of the guest. Without a volume: that folder of
/// the image, writes (where `w`) going to the task's writable layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileGrant {
    /// Absolute and normal: no `.`, `..`, doubled or trailing `/`.
    pub path: String,
    /// What may be done there.
    pub rights: Rights,
    /// The named volume mounted there.
    pub volume: Option<VolumeName>,
    /// The most bytes that may be written there.
    pub max_bytes: Option<u64>,
}

/// What may be done with files: `r` read, `w` write, `x` execute, `d` delete and rename; in this
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rights {
    /// Read files and list folders.
    pub read: bool,
    /// Create and change files.
    pub write: bool,
    /// Load as code. Accepted for native images only.
    pub execute: bool,
    /// Delete and rename. `w` alone may add and overwrite.
    pub delete: bool,
}

impl FileGrant {
    /// The grant that mounting `volume` at `path` implies.
    pub fn mount(path: &str, read_only: bool, volume: &VolumeName, max_bytes: Option<u64>) -> Self {
        let rights = if read_only { Rights::READ } else { Rights::READ_WRITE_DELETE };
        Self { path: path.to_owned(), rights, volume: Some(volume.clone()), max_bytes }
    }

    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, String> {
        let path = guest_path(line.target)?;
        let rights = line.rights.take().map_or(Ok(Rights::READ), str::parse)?;
        let volume = line.value("volume")?;
        if volume.is_some() && path == "/" {
            return Err("a volume cannot be mounted at `/`: give it a folder of its own, such as \
                        `/data`"
                .to_owned());
        }
        let volume = volume.map(str::parse::<VolumeName>).transpose().map_err(|e| e.to_string())?;
        let max_bytes = line.value("max")?.map(parse_bytes).transpose();
        Ok(Self { path, rights, volume, max_bytes: max_bytes.map_err(|e| e.to_string())? })
    }

    /// A want without a volume, or with another name for it, accepts the operator's volume.
    pub(super) fn covers(&self, want: &Self) -> bool {
        let enough = match (self.max_bytes, want.max_bytes) {
            (None, _) | (_, None) => true,
            (Some(granted), Some(wanted)) => granted >= wanted,
        };
        self.path == want.path
            && self.rights.include(want.rights)
            && (self.volume == want.volume || self.volume.is_some())
            && enough
    }

    /// The want's path and rights, with the operator's volume and the smaller ceiling.
    pub(super) fn narrowed_to(&self, want: &Self) -> Self {
        Self {
            volume: self.volume.clone(),
            max_bytes: smaller(self.max_bytes, want.max_bytes),
            ..want.clone()
        }
    }
}

/// The smaller of two ceilings, where `None` is none.
fn smaller(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

impl Rights {
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false, execute: false, delete: false };
    /// Reading, writing, deleting: what a mounted volume gives unless said otherwise.
    pub const READ_WRITE_DELETE: Self =
        Self { read: true, write: true, execute: false, delete: true };

    /// Whether every right in `other` is here too.
    pub fn include(self, other: Self) -> bool {
        (self.read || !other.read)
            && (self.write || !other.write)
            && (self.execute || !other.execute)
            && (self.delete || !other.delete)
    }
}

impl fmt::Display for FileGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fs:{}#{}", self.path, self.rights)?;
        if let Some(volume) = &self.volume {
            write!(f, ";volume={volume}")?;
        }
        match self.max_bytes {
            Some(max) => write!(f, ";max={}", print_bytes(max)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, has) in
            [("r", self.read), ("w", self.write), ("x", self.execute), ("d", self.delete)]
        {
            if has {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Rights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let has = |letter| text.contains(letter);
        let rights = Self { read: has('r'), write: has('w'), execute: has('x'), delete: has('d') };
        match rights.to_string() == text && !text.is_empty() {
            true => Ok(rights),
            false => Err(format!(
                "the rights `#{text}` are not letters of `rwxd`, once each and in this order"
            )),
        }
    }
}

fn guest_path(text: &str) -> Result<String, String> {
    let normal = text == "/"
        || text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    match normal && !text.contains(['\0', '\\', '%']) && text.len() <= GUEST_PATH_BYTES_MAX {
        true => Ok(text.to_owned()),
        false => {
            Err("its path must be absolute, without `.`, `..`, `//`, `%`, `\\` or a `/` at the end"
                .to_owned())
        }
    }
}
