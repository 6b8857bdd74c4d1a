use std::collections::HashSet;

use image::Document as Parsed;
use spec::{Descriptor, Digest, Manifest};

use crate::{
    error::{Error, Result},
    limits::{DOCUMENT_BYTES_MAX, DOCUMENTS_MAX, INDEX_DEPTH_MAX},
    store::{BlobStore, read},
};

/// A manifest or an index that is in a store.
#[derive(Debug, Clone)]
pub struct Document {
    pub descriptor: Descriptor,
    /// `None` for an index.
    pub manifest: Option<Manifest>,
}

/// The manifests and indexes below `root` that are in `store`, itself included, each once. An index
/// stands behind what it names.
///
/// # Errors
/// [`Error::Missing`] when the root is not there, [`Error::Image`] when one of them is malformed or
/// they are nested too deeply.
pub fn documents(store: &(impl BlobStore + ?Sized), root: &Descriptor) -> Result<Vec<Document>> {
    let mut walk = Walk { store, root: root.digest, documents: Vec::new(), seen: HashSet::new() };
    walk.descend(root, 0)?;
    Ok(walk.documents)
}

/// Every blob of the image at `root`, its own included, each once, in an order in which nothing
/// comes before what it names. Blobs that no store has are among them.
///
/// # Errors
/// As [`documents`].
pub fn closure(store: &(impl BlobStore + ?Sized), root: &Descriptor) -> Result<Vec<Descriptor>> {
    let mut all = Vec::new();
    for Document { descriptor, manifest } in documents(store, root)? {
        if let Some(manifest) = manifest {
            all.extend(manifest.layers);
            all.extend(manifest.config);
        }
        all.push(descriptor);
    }
    let mut seen = HashSet::new();
    all.retain(|blob| seen.insert(blob.digest));
    Ok(all)
}

struct Walk<'a, S: ?Sized> {
    store: &'a S,
    root: Digest,
    documents: Vec<Document>,
    seen: HashSet<Digest>,
}

impl<S: BlobStore + ?Sized> Walk<'_, S> {
    fn descend(&mut self, at: &Descriptor, depth: usize) -> Result<()> {
        if !self.seen.insert(at.digest) {
            return Ok(());
        }
        let unusable = |source| Error::Image { image: self.root, source };
        if depth >= INDEX_DEPTH_MAX || self.seen.len() > DOCUMENTS_MAX {
            let why = "it names too many manifests".to_owned();
            return Err(unusable(image::Error::Malformed { document: "index", why }));
        }
        let bytes = read(self.store, at, DOCUMENT_BYTES_MAX)?;
        let manifest = match image::parse_document(&bytes).map_err(unusable)? {
            Parsed::Manifest(manifest) => Some(manifest),
            Parsed::Index(index) => {
                for entry in &index.manifests {
                    if self.store.size(&entry.digest)? == Some(entry.size) {
                        self.descend(entry, depth + 1)?;
                    }
                }
                None
            }
        };
        self.documents.push(Document { descriptor: at.clone(), manifest });
        Ok(())
    }
}
