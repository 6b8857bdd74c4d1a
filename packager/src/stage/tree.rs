use image::{Entry, EntryKind, FileIndex, FileIndexBuilder, NodeId};

use super::Stage;
use crate::{error::Error, items::Item, path::joined};

/// The merged layers of a stage, to copy from.
pub(crate) struct MergedTree<'a> {
    stage: &'a Stage,
    pub(crate) index: FileIndex,
}

impl<'a> MergedTree<'a> {
    pub(crate) fn of(stage: &'a Stage) -> Result<Self, Error> {
        let wrong =
            |source| Error::Image { whose: "a stage cannot be copied from".to_owned(), source };
        let mut builder = FileIndexBuilder::on_top_of(&stage.base.index);
        for layer in &stage.layers {
            for (path, item) in &layer.items.0 {
                builder.add(&entry(path, item)).map_err(wrong)?;
            }
            builder.end_layer().map_err(wrong)?;
        }
        Ok(Self { stage, index: builder.finish().map_err(wrong)? })
    }

    /// What is at `id`, and everything below it, by its path relative to it. Folders of which
    /// `enters` says no are not looked into.
    pub(crate) fn walk(&self, id: NodeId, enters: &dyn Fn(&str) -> bool) -> Vec<(String, Item)> {
        let top = self.index.path(id);
        let mut all: Vec<_> =
            self.item(&top).map(|item| (String::new(), item)).into_iter().collect();
        self.walk_below(id, &top, "", enters, &mut all);
        all
    }

    fn walk_below(
        &self,
        id: NodeId,
        top: &str,
        below: &str,
        enters: &dyn Fn(&str) -> bool,
        all: &mut Vec<(String, Item)>,
    ) {
        for child in self.index.children(id) {
            let path = joined(below, child.name);
            let item = self.item(&joined(top, &path));
            all.extend(item.map(|item| (path.clone(), item)));
            if enters(&path) {
                self.walk_below(child.id, top, &path, enters, all);
            }
        }
    }

    fn item(&self, path: &str) -> Option<Item> {
        self.stage.at(path).map(|entry| self.stage.item(entry))
    }
}

fn entry(path: &str, item: &Item) -> Entry {
    let (kind, mode, size) = match item {
        Item::Folder { meta } => (EntryKind::Directory, meta.mode, 0),
        Item::File { meta, source } => (EntryKind::File, meta.mode, source.size()),
        Item::Symlink { target, .. } => {
            (EntryKind::Symlink { target: target.clone().into() }, 0o777, 0)
        }
    };
    Entry {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        size,
        offset: 0,
        xattrs: Vec::new(),
    }
}
