//! From a guest's path to a thing. A walk starts at a folder and never ends above it: `..` out of
//! it, absolute paths and links that point out of it are refused, as `wasi:filesystem` asks.

use super::{
    host::ErrorCode,
    tree::{Folder, Thing, Tree},
};

/// As Linux has it.
const LINKS_MAX: usize = 40;
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// Names walked, and still to walk, in one call: twice what one path can have, so that links that
/// lead through long links hold neither the processor nor memory.
const NAMES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

/// Where a walk ended.
#[derive(Debug)]
pub(super) enum Reached {
    /// At the folder where it began, or at one that `..` or a final `.` named: it has no name of
    /// its own here.
    Folder(Folder),
    /// At a name in a folder, and what is there.
    Entry { folder: Folder, name: String, thing: Option<Thing> },
    /// In a volume: the rest of the path, which may be empty, is the kernel's to walk.
    Volume { volume: usize, rest: String },
}

/// How a walk goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// Where it begins.
    pub from: Folder,
    /// Whether a link at the very end is followed.
    pub follow: bool,
}

/// A path that may be walked: relative, and of a sane length.
pub(super) fn checked(path: &str) -> Result<&str, ErrorCode> {
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
    pub fn along(self, tree: &Tree, path: &str) -> Result<Reached, ErrorCode> {
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
                Some(Thing::Link(target)) if !last || self.follow || wants_folder => {
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
                Some(Thing::Mount(volume)) => {
                    let mut rest = std::mem::take(&mut ahead);
                    rest.reverse();
                    let slash = if wants_folder && !rest.is_empty() { "/" } else { "" };
                    return Ok(Reached::Volume { volume, rest: rest.join("/") + slash });
                }
                Some(Thing::Folder(folder)) if !last => {
                    above.push(here);
                    here = folder;
                }
                thing if last => {
                    if wants_folder && !matches!(thing, None | Some(Thing::Folder(_))) {
                        return Err(ErrorCode::NotDirectory);
                    }
                    return Ok(Reached::Entry { folder: here, name, thing });
                }
                None => return Err(ErrorCode::NoEntry),
                Some(_) => return Err(ErrorCode::NotDirectory),
            }
        }
        Ok(Reached::Folder(here))
    }
}

/// The names of a path, the first one last.
fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).rev().map(str::to_owned).collect()
}
