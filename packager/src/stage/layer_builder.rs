use std::collections::BTreeSet;

use super::{Stage, StageEntry, resolve};
use crate::{
    diagnostic::DiagnosticKind,
    items::{Item, Items, Meta},
    path::{ancestors, parts},
};

/// A layer in the making, and the stage that it will lie on: what is below must not vanish behind
/// what is put on top.
pub(crate) struct LayerBuilder<'a> {
    stage: &'a Stage,
    items: Items,
    /// Folders that are there, with all above them.
    folders: BTreeSet<String>,
}

impl<'a> LayerBuilder<'a> {
    pub(crate) fn on(stage: &'a Stage) -> Self {
        Self { stage, items: Items::default(), folders: BTreeSet::new() }
    }

    pub(crate) fn finish(self) -> Items {
        self.items
    }

    /// What is at `path`, links not followed.
    pub(crate) fn at(&self, path: &str) -> Option<StageEntry<'_>> {
        if let Some(item) = self.items.0.get(path) {
            return Some(StageEntry::of(item));
        }
        let is_hidden =
            |folder| matches!(self.items.0.get(folder), Some(item) if !item.is_folder());
        if ancestors(path).any(is_hidden) {
            return None;
        }
        self.stage.at(path)
    }

    pub(crate) fn is_folder(&self, path: &str) -> bool {
        path.is_empty() || self.at(path).is_some_and(|entry| entry.is_folder())
    }

    /// Where `path` leads, links followed.
    pub(crate) fn resolve(&self, path: &str) -> Result<String, DiagnosticKind> {
        resolve(path, &|path| self.at(path))
    }

    /// Makes the folder `path` and those above it, where they are missing. No part of it is a link.
    pub(crate) fn make_folders(&mut self, path: &str, meta: Meta) -> Result<(), DiagnosticKind> {
        if path.is_empty() || self.folders.contains(path) {
            return Ok(());
        }
        for part in ancestors(path).chain([path]) {
            match self.at(part) {
                None => self.insert(part, Item::Folder { meta })?,
                Some(StageEntry::Folder(_)) => {}
                Some(_) => return Err(DiagnosticKind::FileInTheWay(part.to_owned())),
            }
        }
        self.folders.insert(path.to_owned());
        Ok(())
    }

    /// Puts a file or link at `path`, in the place of what is there, unless that is a folder.
    pub(crate) fn put_file(&mut self, path: &str, item: Item) -> Result<(), DiagnosticKind> {
        match self.is_folder(path) {
            true => Err(DiagnosticKind::FolderInTheWay(path.to_owned())),
            false => self.insert(path, item),
        }
    }

    /// Puts a folder at `path`, or gives these permissions to the one that is there.
    pub(crate) fn put_folder(&mut self, path: &str, meta: Meta) -> Result<(), DiagnosticKind> {
        match self.at(path) {
            Some(StageEntry::Folder(_)) | None => self.insert(path, Item::Folder { meta }),
            Some(StageEntry::Symlink(..)) => Err(DiagnosticKind::LinkInTheWay(path.to_owned())),
            Some(_) => Err(DiagnosticKind::FileInTheWay(path.to_owned())),
        }
    }

    /// Puts `item` at `path`, in the place of whatever is there: only folders are merged.
    pub(crate) fn replace(&mut self, path: &str, item: Item) -> Result<(), DiagnosticKind> {
        if !item.is_folder() && self.is_folder(path) {
            self.folders.retain(|folder| !is_within(folder, path));
        }
        self.insert(path, item)
    }

    fn insert(&mut self, path: &str, item: Item) -> Result<(), DiagnosticKind> {
        if path.is_empty() {
            return Ok(()); // the root is always there
        }
        let normal = image::normal_name(path.as_bytes());
        normal.map_err(|reason| DiagnosticKind::PathInImage { path: path.to_owned(), reason })?;
        debug_assert_eq!(parts(path).count(), path.split('/').count());
        self.items.put(path, item, &|parent| self.stage.folder_meta(parent));
        Ok(())
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
