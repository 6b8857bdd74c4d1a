use std::collections::BTreeMap;

use image::{Budget, Entry, EntryKind, Sniffed, sniff};

use crate::{
    diagnostic::{ArchiveProblem, DiagnosticKind},
    fault::Fault,
    items::{ContextFile, Item, Origin, Source},
    layer::spool::Spool,
    limits::HEAD_BYTES,
    path::{ancestors, joined},
    stage::{ExistingFolder, LayerBuilder},
};

/// ADD does not fetch: what a URL gives may differ from one build to the next.
pub(super) fn refuse_urls(sources: &[String]) -> Result<(), DiagnosticKind> {
    let schemes = ["http://", "https://", "git://", "git@", "ftp://"];
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

/// Puts what is in the archive below `target`, links of the archive never followed.
pub(super) fn unpack(
    archive: &ContextFile,
    target: &str,
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
        layer.put(&joined(target, path), item, ExistingFolder::TakesMode)?;
    }
    Ok(())
}

fn archive_item(
    archive: &ContextFile,
    entry: &Entry,
    seen: &BTreeMap<String, Item>,
) -> Result<Item, ArchiveProblem> {
    match &entry.kind {
        EntryKind::Directory => Ok(Item::Folder { mode: entry.mode }),
        EntryKind::Symlink { target } => {
            let target = String::from_utf8(target.clone()).map_err(|_| ArchiveProblem::NotUtf8)?;
            Ok(Item::Symlink { target })
        }
        EntryKind::File => {
            let origin = Origin::Archive(archive.clone());
            let source = Source::Part { origin, offset: entry.offset, len: entry.size };
            Ok(Item::File { mode: entry.mode, source })
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
