use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use spec::{Digest, MediaType, Timestamp};

/// Bytes of a digest in [`Links`]: six are eight characters. Two blobs of a repository of a million
/// share them in one of five hundred repositories, and then one is kept that could go.
const LINK_BYTES: usize = 6;
const LINK_CHARS: usize = 8;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    /// A PHC string, which states the parameters that it was made with.
    pub password: String,
    /// Another one with each password: tokens name it.
    #[serde(default)]
    pub serial: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryRecord {
    pub public: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    pub media_type: MediaType,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// What it names. Absent in records from before they were kept: then its bytes say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Links>,
    /// When it was pushed, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Timestamp>,
    /// When it was pulled, the last time, to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Timestamp>,
}

/// An entry of the list of referrers, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    pub media_type: MediaType,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagRecord {
    pub digest: Digest,
    /// When it was set, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Timestamp>,
}

/// The blobs and manifests that a manifest names, each as the start of its digest. One that is not
/// among them is not named; one that is among them almost certainly is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Links(String);

/// The start of a digest, as [`Links`] have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Link([u8; LINK_CHARS]);

/// The record of a blob of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobRecord {
    pub digest: Digest,
    pub size: u64,
    /// The revision that last changed it.
    pub rev: store::Rev,
}

impl Referrer {
    /// The length of its record, where a control character in an annotation takes six bytes.
    pub fn record_bytes(&self) -> usize {
        store::encode(0, self).len()
    }
}

impl Links {
    pub fn of<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> Self {
        let links = digests.into_iter().map(Link::of);
        Self(links.flat_map(|link| link.0.map(char::from)).collect())
    }

    pub fn contain(&self, link: &Link) -> bool {
        self.iter().any(|known| known == *link)
    }

    pub fn iter(&self) -> impl Iterator<Item = Link> {
        let (links, _) = self.0.as_bytes().as_chunks::<LINK_CHARS>();
        links.iter().map(|link| Link(*link))
    }
}

impl Link {
    pub fn of(digest: &Digest) -> Self {
        let mut link = [0; LINK_CHARS];
        BASE64_URL_SAFE_NO_PAD
            .encode_slice(&start_of(digest)[..LINK_BYTES], &mut link)
            .expect("six bytes are eight characters");
        Self(link)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The first eight bytes of a digest.
pub(crate) fn start_of(digest: &Digest) -> [u8; 8] {
    let bytes: &[u8] = match digest {
        Digest::Sha256(bytes) => bytes,
        Digest::Sha512(bytes) => bytes,
    };
    *bytes.first_chunk().expect("a digest has 32 bytes or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_contain_what_they_were_made_of_and_nothing_else() {
        let digests: Vec<_> = (0..100u8).map(|n| Digest::of(&[n])).collect();
        let (named, others) = digests.split_at(50);
        let links = Links::of(named);
        assert_eq!(links.iter().count(), 50);
        assert!(named.iter().all(|digest| links.contain(&Link::of(digest))));
        assert!(!others.iter().any(|digest| links.contain(&Link::of(digest))));
        // Not across the border of two.
        let shifted = Link(*links.0.as_bytes()[1..].first_chunk().unwrap());
        assert!(!links.contain(&shifted));
        let text = serde_json::to_string(&links).unwrap();
        assert_eq!(serde_json::from_str::<Links>(&text).unwrap(), links);
    }
}
