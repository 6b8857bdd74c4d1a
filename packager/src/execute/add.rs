use std::collections::BTreeMap;

use image::{Budget, Entry, EntryKind, Sniffed, sniff};

use crate::{
    diagnostic::{ArchiveProblem, DiagnosticKind},
    fault::Fault,
    items::{ContextFile, Item, MODE_EXECUTABLE, Meta, Origin, Owner, Source},
    layer::spool::Spool,
    limits::HEAD_BYTES,
    path::{ancestors, joined},
    stage::LayerBuilder,
};

/// ADD does not fetch: what an address gives may differ from one build to the next.
pub(super) fn refuse_urls(sources: &[String]) -> Result<(), DiagnosticKind> {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@", "github.com/"];
    let is_url = |text: &&String| schemes.iter().any(|scheme| text.starts_with(scheme));
    match sources.iter().find(is_url) {
        Some(url) => Err(DiagnosticKind::Url(url.clone())),
        None => Ok(()),
    }
}

/// The archive that ADD unpacks, if these items are one file of the context that is a tar.
pub(super) fn archive<'i>(
    items: &'i [(String, Item)],
    spool: &mut Spool<'_>,
) -> Result<Option<&'i ContextFile>, Fault> {
    let [(_, Item::File { source: source @ Source::Context(file), .. })] = items else {
        return Ok(None);
    };
    let head = spool.head(source, HEAD_BYTES)?;
    match sniff(&head) {
        Sniffed::Tar => Ok(Some(file)),
        // Compressed files that are no tar are copied as they are, as Docker does.
        kind if kind.is_compressed() && spool.starts_as_tar(file)? => Ok(Some(file)),
        _ => Ok(None),
    }
}

/// Puts what is in the archive below `target`, links of the archive never followed. `--chown` says
/// otherwise than the archive, `--chmod` does not.
pub(super) fn unpack(
    archive: &ContextFile,
    target: &str,
    owner: Option<Owner>,
    layer: &mut LayerBuilder<'_>,
    spool: &mut Spool<'_>,
) -> Result<(), Fault> {
    let mut bytes = 0u64;
    // Files and links of the archive, by their names in it.
    let mut seen: BTreeMap<String, Item> = BTreeMap::new();
    for entry in spool.entries(archive)? {
        let refused = |reason| DiagnosticKind::ArchiveEntry {
            archive: archive.path.clone(),
            entry: entry.shown_path(),
            reason,
        };
        let path = entry.utf8_path().ok_or_else(|| refused(ArchiveProblem::NotUtf8))?;
        if ancestors(path).any(|folder| seen.contains_key(folder)) {
            return Err(refused(ArchiveProblem::ThroughLink).into());
        }
        // The folder that it goes to keeps its own permissions.
        if entry.path.is_empty() {
            continue;
        }
        let item = archive_item(archive, &entry, &seen).map_err(refused)?;
        if let Item::File { source, .. } = &item {
            // Hard links are written out as files: a few bytes could ask for a full disk.
            bytes = bytes.saturating_add(source.size());
            if bytes > Budget::default().bytes_max {
                return Err(refused(ArchiveProblem::TooLarge).into());
            }
        }
        if !matches!(item, Item::Folder { .. }) {
            seen.insert(path.to_owned(), item.clone());
        }
        let item = item.with_meta(|meta| Meta { owner: owner.unwrap_or(meta.owner), ..meta });
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = layer.resolve(&joined(target, folder))?;
        layer.make_folders(&folder, Meta::of(MODE_EXECUTABLE))?;
        layer.replace(&joined(&folder, name), item)?;
    }
    Ok(())
}

fn archive_item(
    archive: &ContextFile,
    entry: &Entry,
    seen: &BTreeMap<String, Item>,
) -> Result<Item, ArchiveProblem> {
    let owner = Owner { uid: entry.uid, gid: entry.gid };
    let meta = Meta { mode: entry.mode, owner };
    match &entry.kind {
        EntryKind::Directory => Ok(Item::Folder { meta }),
        EntryKind::Symlink { target } => {
            let target = String::from_utf8(target.clone()).map_err(|_| ArchiveProblem::NotUtf8)?;
            Ok(Item::Symlink { target, owner })
        }
        EntryKind::File => {
            let origin = Origin::Archive(archive.clone());
            let source = Source::Part { origin, offset: entry.offset, len: entry.size };
            Ok(Item::File { meta, source })
        }
        EntryKind::Hardlink { target } => {
            let found = str::from_utf8(target).ok().and_then(|target| seen.get(target));
            found.cloned().ok_or(ArchiveProblem::MissingHardLink)
        }
        EntryKind::SparseFile => Err(ArchiveProblem::Special("a file with holes")),
        EntryKind::Pipe => Err(ArchiveProblem::Special("a named pipe")),
        EntryKind::Device => Err(ArchiveProblem::Special("a device node")),
        EntryKind::Whiteout | EntryKind::Opaque => Err(ArchiveProblem::Whiteout),
    }
}
