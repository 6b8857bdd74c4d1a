use image::{Entry, EntryKind, FileIndex, FileIndexBuilder, Node, NodeId};

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

    /// What is at `id`, and everything below it, by its path relative to it.
    pub(crate) fn walk(&self, id: NodeId) -> Vec<(String, Item)> {
        let mut all = vec![(String::new(), self.item(id))];
        self.walk_below(id, "", &mut all);
        all
    }

    fn walk_below(&self, id: NodeId, below: &str, all: &mut Vec<(String, Item)>) {
        for child in self.index.children(id) {
            let path = joined(below, child.name);
            all.push((path.clone(), self.item(child.id)));
            self.walk_below(child.id, &path, all);
        }
    }

    fn item(&self, id: NodeId) -> Item {
        match self.index.node(id) {
            Node::Directory { mode, .. } => Item::Folder { mode },
            Node::Symlink { target } => Item::Symlink { target: target.to_owned() },
            Node::File(file) => {
                let base = self.stage.base.layers.len();
                let source = match (file.layer as usize).checked_sub(base) {
                    None => self.stage.base.source(file),
                    Some(new) => match self.stage.layers[new].items.0.get(&self.index.path(id)) {
                        Some(Item::File { source, .. }) => source.clone(),
                        _ => unreachable!("a file of a new layer is found under its own path"),
                    },
                };
                Item::File { mode: file.mode, source }
            }
        }
    }
}

fn entry(path: &str, item: &Item) -> Entry {
    let (kind, mode, size) = match item {
        Item::Folder { mode } => (EntryKind::Directory, *mode, 0),
        Item::File { mode, source } => (EntryKind::File, *mode, source.size()),
        Item::Symlink { target } => {
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
