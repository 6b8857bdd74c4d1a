use std::collections::HashSet;

use spec::{Descriptor, Digest};

use crate::{
    error::Result,
    store::BlobStore,
    walk::{Document, documents},
};

/// Where marking begins.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// Images that have a name. All that they need must stay.
    pub named: Vec<Descriptor>,
    /// Manifests that tasks run from, whose names and blobs may be gone. What was prepared from
    /// them must stay.
    pub running: Vec<Digest>,
}

/// What the roots need.
#[derive(Debug, Clone, Default)]
pub struct Marked {
    /// Every blob: indexes, manifests, configs, layers.
    pub blobs: HashSet<Digest>,
    /// Every manifest, for what was made of one.
    pub manifests: HashSet<Digest>,
    /// The layers of each manifest, for what was made of them together.
    pub layers: Vec<Vec<Descriptor>>,
}

impl Marked {
    /// All that is marked in either.
    pub fn and(mut self, other: Self) -> Self {
        self.blobs.extend(other.blobs);
        self.manifests.extend(other.manifests);
        self.layers.extend(other.layers);
        self
    }
}

/// Everything in `store` that `roots` need.
///
/// # Errors
/// When the documents of a named image cannot be read, because then nothing says what it needs.
pub fn mark(store: &(impl BlobStore + ?Sized), roots: &Roots) -> Result<Marked> {
    let mut marked =
        Marked { manifests: roots.running.iter().copied().collect(), ..Marked::default() };
    for root in &roots.named {
        for Document { descriptor, manifest } in documents(store, root)? {
            marked.blobs.insert(descriptor.digest);
            let Some(manifest) = manifest else { continue };
            marked.manifests.insert(descriptor.digest);
            let parts = manifest.config.iter().chain(&manifest.layers);
            marked.blobs.extend(parts.map(|part| part.digest));
            marked.layers.push(manifest.layers);
        }
    }
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spec::MediaType;

    use super::*;
    use crate::{MemoryBlobStore, closure, write};

    /// Stores an image of these layers.
    fn image(store: &MemoryBlobStore, layers: &[&str]) -> Descriptor {
        let config = json!({ "layers": layers }).to_string();
        let put = |kind: &'static str, bytes: &[u8]| {
            write(store, bytes).unwrap();
            Descriptor::of(kind, bytes)
        };
        let layers: Vec<_> =
            layers.iter().map(|layer| put(MediaType::OCI_LAYER_TAR, layer.as_bytes())).collect();
        let config = put(MediaType::OCI_CONFIG, config.as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        put(MediaType::OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap())
    }

    fn index(store: &MemoryBlobStore, entries: &[&Descriptor]) -> Descriptor {
        let bytes =
            serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": entries })).unwrap();
        write(store, &bytes).unwrap();
        Descriptor::of(MediaType::OCI_INDEX, &bytes)
    }

    #[test]
    fn roots_mark_all_that_they_need_and_nothing_else() {
        let store = MemoryBlobStore::default();
        let (cats, dogs) = (image(&store, &["base", "cats"]), image(&store, &["base", "dogs"]));
        let absent = Descriptor::of(MediaType::OCI_MANIFEST, b"never pulled");
        let both = index(&store, &[&cats, &dogs, &absent]);
        let nested = index(&store, &[&both, &both]);
        let all = store.list().unwrap().len();
        let running = Digest::of(b"a manifest whose name is gone");
        for (case, named, blobs, manifests) in [
            ("none", vec![], 0, vec![]),
            ("one image", vec![&cats], 4, vec![&cats]),
            ("two that share a layer", vec![&cats, &dogs], 7, vec![&cats, &dogs]),
            ("an index", vec![&both], 8, vec![&cats, &dogs]),
            ("an index in an index", vec![&nested], 9, vec![&cats, &dogs]),
            ("an image and its index", vec![&cats, &both], 8, vec![&cats, &dogs]),
        ] {
            let named: Vec<_> = named.into_iter().cloned().collect();
            let roots = Roots { named: named.clone(), running: vec![running] };
            let marked = mark(&store, &roots).unwrap();
            assert_eq!(marked.blobs.len(), blobs, "{case}");
            let want: HashSet<_> =
                manifests.iter().map(|manifest| manifest.digest).chain([running]).collect();
            assert_eq!(marked.manifests, want, "{case}");
            for root in &named {
                let needed = closure(&store, root).unwrap();
                assert!(needed.iter().all(|blob| marked.blobs.contains(&blob.digest)), "{case}");
            }
        }
        assert_eq!(all, 9);
        assert!(mark(&store, &Roots { named: vec![absent], running: vec![] }).is_err());
        let too_deep = index(&store, &[&index(&store, &[&nested])]);
        assert!(mark(&store, &Roots { named: vec![too_deep], running: vec![] }).is_err());
    }
}
