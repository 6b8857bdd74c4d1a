//! From a guest's path to a place in the union. A walk starts at a folder and never ends above it:
//! `..` out of it, absolute paths and links that point out of it are refused, as `wasi:filesystem`
//! asks.

use super::tree::{Entry, Folder, Tree};
use crate::limits::{LINKS_MAX, NAME_BYTES_MAX, NAMES_MAX, PATH_BYTES_MAX};
use crate::worker::files::filesystem::{ErrorCode, Result};

/// Where a path ended.
#[derive(Debug)]
pub(crate) struct Place {
    /// The last name and its folder; none for a folder that `..`, a final `.` or the start of the
    /// walk named.
    pub name: Option<(Folder, String)>,
    pub entry: Option<Entry>,
    /// The path has a `/` at its end.
    pub wants_folder: bool,
}

impl From<Folder> for Place {
    fn from(folder: Folder) -> Self {
        Self { name: None, entry: Some(Entry::Folder(folder)), wants_folder: true }
    }
}

impl Place {
    /// The last name, or `otherwise` where a folder itself was named.
    pub fn named(self, otherwise: ErrorCode) -> Result<(Folder, String)> {
        self.name.ok_or(otherwise)
    }

    /// The name of what is to be made.
    pub fn free(self) -> Result<(Folder, String)> {
        match self.entry {
            None => self.name.ok_or(ErrorCode::Exist),
            Some(_) => Err(ErrorCode::Exist),
        }
    }
}

/// Where a walk ended.
#[derive(Debug)]
pub(crate) enum Reached {
    Here(Place),
    /// At a mount point: the rest of the path, which may be empty, is for the filesystem there.
    Mount {
        mount: usize,
        rest: String,
    },
}

/// How a walk goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    pub from: Folder,
    /// Whether a link at the very end is followed.
    pub follow: bool,
}

/// A path that may be walked: relative, and of a sane length.
pub(crate) fn checked(path: &str) -> Result<&str> {
    match path {
        "" => Err(ErrorCode::NoEntry),
        _ if path.starts_with('/') => Err(ErrorCode::NotPermitted),
        _ if path.contains('\0') => Err(ErrorCode::IllegalByteSequence),
        _ if path.len() > PATH_BYTES_MAX
            || path.split('/').any(|name| name.len() > NAME_BYTES_MAX) =>
        {
            Err(ErrorCode::NameTooLong)
        }
        _ => Ok(path),
    }
}

impl Walk {
    /// Walks `path`. With a `/` at its end it must reach a folder, or nothing yet.
    pub fn along(self, tree: &Tree, path: &str) -> Result<Reached> {
        let path = checked(path)?;
        let mut above: Vec<Folder> = Vec::new();
        let mut here = self.from;
        let mut ahead: Vec<String> = parts(path);
        let wants_folder = path.ends_with('/');
        let (mut links, mut walked) = (0, 0);
        while let Some(name) = ahead.pop() {
            walked += 1;
            if name == ".." {
                here = above.pop().ok_or(ErrorCode::NotPermitted)?;
                continue;
            }
            let last = ahead.is_empty();
            match tree.child(here, &name) {
                Some(Entry::Link(target)) if !last || self.follow || wants_folder => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(ErrorCode::Loop);
                    }
                    if target.starts_with('/') {
                        // An absolute link starts at the root, which only a walk from the root may
                        // see.
                        if self.from != tree.root() {
                            return Err(ErrorCode::NotPermitted);
                        }
                        here = self.from;
                        above.clear();
                    }
                    if target.len() > PATH_BYTES_MAX {
                        return Err(ErrorCode::NameTooLong);
                    }
                    ahead.extend(parts(&target));
                    if walked + ahead.len() > NAMES_MAX {
                        return Err(ErrorCode::Loop);
                    }
                }
                Some(Entry::Mount(mount)) => {
                    let mut rest = std::mem::take(&mut ahead);
                    rest.reverse();
                    let slash = if wants_folder && !rest.is_empty() { "/" } else { "" };
                    return Ok(Reached::Mount { mount, rest: rest.join("/") + slash });
                }
                Some(Entry::Folder(folder)) if !last => {
                    above.push(here);
                    here = folder;
                }
                entry if last => {
                    if wants_folder && !matches!(entry, None | Some(Entry::Folder(_))) {
                        return Err(ErrorCode::NotDirectory);
                    }
                    let name = Some((here, name));
                    return Ok(Reached::Here(Place { name, entry, wants_folder }));
                }
                None => return Err(ErrorCode::NoEntry),
                Some(_) => return Err(ErrorCode::NotDirectory),
            }
        }
        Ok(Reached::Here(here.into()))
    }
}

/// The names of a path, the first one last.
fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).rev().map(str::to_owned).collect()
}
