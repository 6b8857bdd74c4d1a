use std::collections::BTreeMap;

use image::{Entry, EntryKind};
use serde::{Deserialize, Serialize};

use crate::items::{Meta, Owner};

/// What the index of an image does not keep: owners other than root, and the permissions beyond
/// those of reading, writing and executing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Attributes(BTreeMap<String, Meta>);

impl Attributes {
    /// Takes in the entry of a layer that lies on the ones before.
    pub(crate) fn note(&mut self, entry: &Entry) {
        // Names that are not UTF-8 are in no index, and nothing is copied by them.
        let Some(path) = entry.utf8_path() else { return };
        let of_target = |target: &[u8]| self.0.get(str::from_utf8(target).ok()?).copied();
        let meta = match &entry.kind {
            EntryKind::Whiteout | EntryKind::Opaque => {
                let below = format!("{path}/");
                self.0.retain(|other, _| !other.starts_with(&below));
                return;
            }
            EntryKind::Hardlink { target } => of_target(target),
            _ => {
                let owner = Owner { uid: entry.uid, gid: entry.gid };
                Some(Meta { mode: entry.mode, owner })
            }
        };
        let is_plain = |meta: &Meta| meta.owner == Owner::default() && meta.mode <= 0o777;
        match meta.filter(|meta| !is_plain(meta)) {
            Some(meta) => drop(self.0.insert(path.to_owned(), meta)),
            None => drop(self.0.remove(path)),
        }
    }

    /// The permissions of what is at `path` with `mode`.
    pub(crate) fn of(&self, path: &str, mode: u32) -> Meta {
        self.0.get(path).copied().unwrap_or(Meta::of(mode))
    }
}
