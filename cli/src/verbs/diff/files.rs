use std::{collections::BTreeMap, fs::File, io};

use image::{FileIndex, FileNode, Node, Plan};
use serde::Serialize;
use spec::Digest;

/// The root filesystem of an image.
pub struct Tree<'a, F> {
    pub index: &'a FileIndex,
    pub plan: &'a Plan,
    pub layers: &'a image::Layers<'a, F>,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub path: String,
    pub change: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
}

/// How it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Added,
    Changed,
    Deleted,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Place {
    File { size: u64, mode: u32 },
    Directory { mode: u32 },
    Link { target: String },
}

/// Every path that differs, by name. The bytes of two files of one size are compared by their
/// digests.
pub fn changes<F, G>(before: &Tree<'_, F>, after: &Tree<'_, G>) -> anyhow::Result<Vec<Change>>
where
    F: Fn(&Digest) -> io::Result<File>,
    G: Fn(&Digest) -> io::Result<File>,
{
    let old: BTreeMap<String, _> = before.index.iter().collect();
    let new: BTreeMap<String, _> = after.index.iter().collect();
    let mut changes = Vec::new();
    let mut doubtful: Vec<(Change, FileNode, FileNode)> = Vec::new();
    for (path, id) in &old {
        let was = before.index.node(*id);
        let Some(id) = new.get(path) else {
            changes.push(Change::of(path, Some(was), None));
            continue;
        };
        let is = after.index.node(*id);
        let change = Change::of(path, Some(was), Some(is));
        match (was, is) {
            _ if change.before != change.after => changes.push(change),
            (Node::File(was), Node::File(is)) if before.source(was) != after.source(is) => {
                doubtful.push((change, was, is));
            }
            _ => {}
        }
    }
    for (path, id) in new.iter().filter(|(path, _)| !old.contains_key(*path)) {
        changes.push(Change::of(path, None, Some(after.index.node(*id))));
    }
    let digests_before = before.layers.digests(doubtful.iter().map(|(_, was, _)| *was))?;
    let digests_after = after.layers.digests(doubtful.iter().map(|(_, _, is)| *is))?;
    for (change, was, is) in doubtful {
        let of_old = digests_before.get(&(was.layer, was.offset));
        if of_old.is_none() || of_old != digests_after.get(&(is.layer, is.offset)) {
            changes.push(change);
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

impl<F> Tree<'_, F> {
    /// Where the bytes of a file are: two files of one place are the same, and all empty ones are.
    fn source(&self, file: FileNode) -> Option<(Digest, u64)> {
        let layer = self.plan.layers.get(file.layer as usize).filter(|_| file.len > 0);
        layer.map(|layer| (layer.descriptor.digest, file.offset))
    }
}

impl Change {
    fn of(path: &str, before: Option<Node<'_>>, after: Option<Node<'_>>) -> Self {
        let change = match (&before, &after) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Deleted,
            _ => Kind::Changed,
        };
        let path = format!("/{path}");
        Self { path, change, before: before.map(Place::of), after: after.map(Place::of) }
    }
}

impl Place {
    fn of(node: Node<'_>) -> Self {
        match node {
            Node::File(FileNode { len, mode, .. }) => Self::File { size: len, mode },
            Node::Directory { mode, .. } => Self::Directory { mode },
            Node::Symlink { target } => Self::Link { target: target.to_owned() },
        }
    }
}
