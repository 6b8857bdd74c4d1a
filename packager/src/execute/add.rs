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
        Sniffed::Gzip | Sniffed::Zstd if spool.starts_as_tar(file)? => Ok(Some(file)),
        _ if head.starts_with(b"BZh") || head.starts_with(b"\xfd7zXZ\0") => {
            Err(DiagnosticKind::Compression(file.path.clone()).into())
        }
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
            entry: entry.path.clone(),
            reason,
        };
        if ancestors(&entry.path).any(|folder| seen.contains_key(folder)) {
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
            seen.insert(entry.path.clone(), item.clone());
        }
        layer.put(&joined(target, &entry.path), item, ExistingFolder::TakesMode)?;
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
        EntryKind::Symlink { target } => Ok(Item::Symlink { target: target.clone() }),
        EntryKind::File => {
            let origin = Origin::Archive(archive.clone());
            let source = Source::Part { origin, offset: entry.offset, len: entry.size };
            Ok(Item::File { mode: entry.mode, source })
        }
        EntryKind::Hardlink { target } => {
            seen.get(target).cloned().ok_or(ArchiveProblem::MissingHardLink)
        }
        EntryKind::Whiteout | EntryKind::Opaque => Err(ArchiveProblem::Whiteout),
    }
}
