use std::collections::HashMap;

use super::{Stage, StageEntry, resolve};
use crate::{
    diagnostic::DiagnosticKind,
    items::{Item, Items},
    path::{ancestors, joined},
};

/// A layer in the making, and the stage that it will lie on: what is below must not vanish behind
/// what is put on top.
pub(crate) struct LayerBuilder<'a> {
    stage: &'a Stage,
    items: Items,
    /// Where the links on the way to a folder lead: the same for every file in it.
    folders: HashMap<String, String>,
}

/// What happens to the mode of a folder when another one is put in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExistingFolder {
    /// As with COPY.
    KeepsMode,
    /// As when a tar is unpacked.
    TakesMode,
}

/// The layer that holds one file or folder at `path`, links followed; empty for a folder that is
/// there already.
pub(crate) fn single_item(stage: &Stage, path: &str, item: Item) -> Result<Items, DiagnosticKind> {
    let mut layer = LayerBuilder::on(stage);
    let path = layer.resolve(path)?;
    let there = stage.at(&path);
    if !matches!((&item, there), (Item::Folder { .. }, Some(StageEntry::Folder { .. }))) {
        layer.put(&path, item, ExistingFolder::KeepsMode)?;
    }
    Ok(layer.items)
}

impl<'a> LayerBuilder<'a> {
    pub(crate) fn on(stage: &'a Stage) -> Self {
        Self { stage, items: Items::default(), folders: HashMap::new() }
    }

    pub(crate) fn finish(self) -> Items {
        self.items
    }

    fn at(&self, path: &str) -> Option<StageEntry<'_>> {
        self.items.0.get(path).map(StageEntry::of).or_else(|| self.stage.at(path))
    }

    pub(crate) fn resolve(&self, path: &str) -> Result<String, DiagnosticKind> {
        resolve(path, &|path| self.at(path))
    }

    /// Puts `item` at `path`, links on the way followed. A folder at the place of a link goes where
    /// the link leads; a file takes a link's place.
    pub(crate) fn put(
        &mut self,
        path: &str,
        item: Item,
        existing: ExistingFolder,
    ) -> Result<(), DiagnosticKind> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut path = joined(&self.folder(parent)?, name);
        if matches!(item, Item::Folder { .. }) {
            path = self.resolve(&path)?;
        }
        image::normal_name(if path.is_empty() { b"." } else { path.as_bytes() })
            .map_err(|reason| DiagnosticKind::PathInImage { path: path.clone(), reason })?;
        let item = match (item, self.at(&path)) {
            (Item::Folder { .. }, Some(StageEntry::New(_) | StageEntry::Base(_))) => {
                return Err(DiagnosticKind::FileInTheWay(path));
            }
            (Item::Folder { .. }, Some(StageEntry::Folder { mode }))
                if existing == ExistingFolder::KeepsMode =>
            {
                Item::Folder { mode }
            }
            (Item::File { .. } | Item::Symlink { .. }, Some(StageEntry::Folder { .. })) => {
                return Err(DiagnosticKind::FolderInTheWay(path));
            }
            (item, _) => item,
        };
        self.items.put(&path, item, &|parent| self.stage.folder_mode(parent));
        Ok(())
    }

    /// Where the folder `path` is, links followed.
    fn folder(&mut self, path: &str) -> Result<String, DiagnosticKind> {
        if let Some(known) = self.folders.get(path) {
            return Ok(known.clone());
        }
        let resolved = self.resolve(path)?;
        for part in ancestors(&resolved).chain([resolved.as_str()]) {
            if matches!(self.at(part), Some(StageEntry::New(_) | StageEntry::Base(_))) {
                return Err(DiagnosticKind::FileInTheWay(part.to_owned()));
            }
        }
        self.folders.insert(path.to_owned(), resolved.clone());
        Ok(resolved)
    }
}
