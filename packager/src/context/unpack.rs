use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use image::{Budget, EntryKind, LayerReader, Sniffed, sniff};

use crate::{
    diagnostic::ContextProblem,
    error::{Error, io_error},
    limits::HEAD_BYTES,
    path::{ancestors, clean},
};

/// Unpacks the archive `file`, compressed or not, into the empty folder `folder`: a build context
/// that came as a stream. `false` when it is none.
///
/// # Errors
/// [`Error::Context`] for an entry that leads through a link, [`Error::Image`] for a broken
/// archive.
pub fn unpack_context(file: &Path, folder: &Path) -> Result<bool, Error> {
    let open = || File::open(file).map_err(io_error("open", file));
    let mut head = Vec::new();
    open()?.take(HEAD_BYTES).read_to_end(&mut head).map_err(io_error("read", file))?;
    let kind = sniff(&head);
    if kind != Sniffed::Tar && !kind.is_compressed() {
        return Ok(false);
    }
    let wrong =
        |source| Error::Image { whose: "the context cannot be unpacked".to_owned(), source };
    let mut reader = LayerReader::new(open()?, Budget::default()).map_err(wrong)?;
    // Nothing of the archive is followed: a path that leads through one of these is refused.
    let mut others = BTreeSet::new();
    while let Some(entry) = reader.next_entry().map_err(wrong)? {
        let not_utf8 =
            || Error::Context { path: entry.shown_path(), problem: ContextProblem::NameNotUtf8 };
        let path = entry.utf8_path().ok_or_else(not_utf8)?.to_owned();
        let source = match &entry.kind {
            EntryKind::Hardlink { target } => {
                Some(String::from_utf8(target.clone()).map_err(|_| not_utf8())?)
            }
            _ => None,
        };
        let is_behind = |path: &String| ancestors(path).any(|above| others.contains(above));
        if is_behind(&path) || source.as_ref().is_some_and(is_behind) {
            return Err(Error::Context { path, problem: ContextProblem::ThroughLink });
        }
        if path.is_empty() {
            continue;
        }
        put(
            &entry.kind,
            entry.mode,
            &folder.join(clean(&path)),
            source.map(|path| folder.join(path)),
            &mut reader.content(),
        )
        .map_err(io_error("write", folder.join(&path)))?;
        if entry.kind != EntryKind::Directory {
            others.insert(path);
        }
    }
    reader.finish().map_err(wrong)?;
    Ok(true)
}

fn put(
    kind: &EntryKind,
    mode: u32,
    path: &Path,
    source: Option<PathBuf>,
    content: &mut impl io::Read,
) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match kind {
        EntryKind::Directory => {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            // What its owner may not enter could not be read here.
            return fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | 0o700));
        }
        // As with a context that is a folder, pipes and devices are in no image.
        EntryKind::Whiteout | EntryKind::Opaque | EntryKind::Pipe | EntryKind::Device => {
            return Ok(());
        }
        EntryKind::SparseFile => return Err(io::Error::other("it is a file with holes")),
        EntryKind::File | EntryKind::Symlink { .. } | EntryKind::Hardlink { .. } => {}
    }
    let _ = fs::remove_file(path);
    match kind {
        EntryKind::Symlink { target } => symlink(OsStr::from_bytes(target), path),
        _ => match source {
            Some(source) => fs::hard_link(source, path),
            None => {
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
                io::copy(content, &mut file)?;
                file.set_permissions(Permissions::from_mode(mode & 0o7777))
            }
        },
    }
}
