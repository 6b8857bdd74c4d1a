use std::collections::HashSet;

use bytes::Bytes;
use serde::Deserialize;
use spec::{Descriptor, Digest, Index, Manifest};

use crate::{
    Error, ManifestFault,
    limits::{IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX},
};

/// A manifest or an index as a registry or a local image has it.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub descriptor: Descriptor,
    /// Checked against the digest.
    pub bytes: Bytes,
}

/// The manifests and blobs of one reference, as far as they are known.
pub(super) struct ImageGraph {
    /// Parents before children.
    pub manifests: Vec<Resolved>,
    /// Each once.
    pub blobs: Vec<Descriptor>,
    named_manifests: usize,
    seen: HashSet<Digest>,
}

/// An entry of an index that has to be read.
pub(super) struct Unread {
    pub descriptor: Descriptor,
    pub depth: usize,
}

impl ImageGraph {
    pub fn below(root: &Digest) -> Self {
        Self {
            manifests: Vec::new(),
            blobs: Vec::new(),
            named_manifests: 1,
            seen: HashSet::from([*root]),
        }
    }

    /// Adds a manifest, and returns the manifests below it that are new: of an index those that
    /// `select` picks.
    pub fn add(
        &mut self,
        manifest: Resolved,
        depth: usize,
        select: impl FnOnce(Index) -> Vec<Descriptor>,
    ) -> Result<Vec<Unread>, Error> {
        let children = match manifest.descriptor.media_type.is_index() {
            true => self.add_entries(select(parse(&manifest)?), depth),
            false => self.add_blobs(parse(&manifest)?).map(|()| Vec::new()),
        };
        let children = children.map_err(|fault| unusable(&manifest.descriptor.digest, fault))?;
        self.manifests.push(manifest);
        Ok(children)
    }

    fn add_entries(
        &mut self,
        entries: Vec<Descriptor>,
        depth: usize,
    ) -> Result<Vec<Unread>, ManifestFault> {
        let mut unread = Vec::new();
        for descriptor in entries {
            if self.seen.insert(descriptor.digest) {
                unread.push(Unread { descriptor, depth: depth + 1 });
            }
        }
        self.named_manifests += unread.len();
        match () {
            () if self.named_manifests > IMAGE_MANIFESTS_MAX => {
                Err(ManifestFault::TooManyManifests)
            }
            () if !unread.is_empty() && depth + 1 >= INDEX_DEPTH_MAX => Err(ManifestFault::TooDeep),
            () => Ok(unread),
        }
    }

    fn add_blobs(&mut self, manifest: Manifest) -> Result<(), ManifestFault> {
        let blobs = manifest.config.into_iter().chain(manifest.layers);
        self.blobs.extend(blobs.filter(|blob| self.seen.insert(blob.digest)));
        match self.blobs.len() > IMAGE_BLOBS_MAX {
            true => Err(ManifestFault::TooManyBlobs),
            false => Ok(()),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(manifest: &'a Resolved) -> Result<T, Error> {
    let parsed = match manifest.descriptor.size > MANIFEST_BYTES_MAX {
        true => Err(ManifestFault::TooLarge),
        false => spec::json::from_slice(&manifest.bytes).map_err(ManifestFault::Json),
    };
    parsed.map_err(|fault| unusable(&manifest.descriptor.digest, fault))
}

fn unusable(digest: &Digest, source: ManifestFault) -> Error {
    Error::Manifest { subject: digest.to_string(), source }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use spec::MediaType;

    use super::*;

    fn resolved(media_type: &'static str, document: serde_json::Value) -> Resolved {
        let bytes = serde_json::to_vec(&document).unwrap();
        let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
        descriptor.media_type = media_type.parse().unwrap();
        Resolved { descriptor, bytes: Bytes::from(bytes) }
    }

    fn index(entries: usize, seed: usize) -> Resolved {
        let entry =
            |n: usize| Descriptor::of(MediaType::OCI_MANIFEST, format!("{seed} {n}").as_bytes());
        let manifests: Vec<_> = (0..entries).map(entry).collect();
        let document = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        resolved(MediaType::OCI_INDEX, document)
    }

    fn image(layers: usize, seed: usize) -> Resolved {
        let layer = |n: usize| {
            Descriptor::of(MediaType::OCI_LAYER_TAR, format!("layer {seed} {n}").as_bytes())
        };
        let layers: Vec<_> = (0..layers).map(layer).collect();
        let document = serde_json::json!({"schemaVersion": 2, "layers": layers});
        resolved(MediaType::OCI_MANIFEST, document)
    }

    #[test]
    fn an_image_has_limits_and_names_each_blob_once() {
        let all = |index: Index| index.manifests;
        let mut graph = ImageGraph::below(&Digest::of(b"root"));
        assert_eq!(graph.add(index(IMAGE_MANIFESTS_MAX - 1, 0), 0, all).unwrap().len(), 255);
        assert!(graph.add(index(3, 0), 0, all).unwrap().is_empty(), "all of them are known");
        assert!(graph.add(image(100, 0), 1, all).unwrap().is_empty());
        graph.add(image(101, 0), 1, all).unwrap();
        assert_eq!((graph.manifests.len(), graph.blobs.len()), (4, 101));

        let fault = |graph: &mut ImageGraph, manifest, depth| match graph.add(manifest, depth, all)
        {
            Err(Error::Manifest { source, .. }) => source.to_string(),
            other => panic!("{:?}", other.map(|unread| unread.len())),
        };
        assert_eq!(fault(&mut graph, index(1, 1), 0), "it names more than 256 manifests");
        assert_eq!(fault(&mut graph, image(4096, 2), 1), "it names more than 4096 blobs");
        let mut graph = ImageGraph::below(&Digest::of(b"root"));
        assert_eq!(fault(&mut graph, index(1, 1), 3), "its indexes are nested more than 4 deep");
        let broken = Resolved { bytes: Bytes::from("{"), ..image(1, 1) };
        assert_eq!(fault(&mut graph, broken, 1), "it is not valid");
    }
}
