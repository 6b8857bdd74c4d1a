//! What a registry has read in the bytes of images.

use std::collections::BTreeMap;

use image::ProgramFacts;
use serde::{Deserialize, Serialize};
use spec::{Digest, Timestamp, Want};

use super::query::encode_query;

/// What is in an image, by its config and the bytes of its program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageContents {
    /// `OS/ARCHITECTURE`, by its config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The capabilities that it asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<Want>,
    /// Of a Wasm image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramFacts>,
    /// Why its layers were not read to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// An image, or an index with the images that the repository has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    pub repository: String,
    pub digest: Digest,
    pub media_type: String,
    /// Some of the tags that point to it.
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Timestamp>,
    pub images: Vec<ImageEntry>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Of its manifest.
    pub digest: Digest,
    #[serde(flatten)]
    pub contents: ImageContents,
}

/// Which images to look for: those of which everything that is given here is true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSearch {
    /// In a name, a tag, a label, an import or an export, in capitals or not.
    pub text: Option<String>,
    /// The beginning of the name of an import, as in `wasi:http/outgoing-handler`.
    pub imports: Option<String>,
    pub exports: Option<String>,
    /// `KEY`, or `KEY=VALUE`.
    pub label: Option<String>,
    /// The beginning of the digest of the manifest, with `sha256:` or without.
    pub digest: Option<String>,
}

/// An image that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundImage {
    pub repository: String,
    pub digest: Digest,
    /// Some of the tags that point to it.
    pub tags: Vec<String>,
    #[serde(flatten)]
    pub contents: ImageContents,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundImages {
    pub images: Vec<FoundImage>,
    /// Whether there may be others besides.
    pub more: bool,
}

impl ImageSearch {
    /// As the query of a request.
    pub(crate) fn query(&self) -> String {
        let parameters = [
            ("text", &self.text),
            ("imports", &self.imports),
            ("exports", &self.exports),
            ("label", &self.label),
            ("digest", &self.digest),
        ];
        let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let pairs = given.map(|(name, value)| format!("{name}={}", encode_query(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// Whether it is met by the name and the tags of an image alone.
    pub(crate) fn is_met_by_names(&self) -> bool {
        self.imports.is_none() && self.exports.is_none() && self.label.is_none()
    }

    /// Whether a manifest of this digest can be one.
    pub(crate) fn takes_digest(&self, digest: &Digest) -> bool {
        let Some(start) = &self.digest else { return true };
        digest.hex().starts_with(start.as_str()) || digest.to_string().starts_with(start.as_str())
    }

    /// Whether it is one.
    pub(crate) fn takes(&self, image: &FoundImage) -> bool {
        let program = image.contents.program.as_ref();
        let imports = || program.iter().flat_map(|program| &program.imports);
        let exports = || program.iter().flat_map(|program| &program.exports);
        let labels = &image.contents.labels;
        let has_label = |label: &str| match label.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|known| known == value),
            None => labels.contains_key(label),
        };
        let has_text = |text: &str| {
            let text = text.to_lowercase();
            let is_there = |place: &str| place.to_lowercase().contains(&text);
            image.tags.iter().any(|tag| is_there(&format!("{}:{tag}", image.repository)))
                || is_there(&image.repository)
                || labels.iter().any(|(key, value)| is_there(key) || is_there(value))
                || imports().chain(exports()).any(|name| is_there(name))
        };
        self.takes_digest(&image.digest)
            && self.imports.as_ref().is_none_or(|name| imports().any(|i| i.starts_with(name)))
            && self.exports.as_ref().is_none_or(|name| exports().any(|e| e.starts_with(name)))
            && self.label.as_ref().is_none_or(|label| has_label(label))
            && self.text.as_ref().is_none_or(|text| has_text(text))
    }
}

#[cfg(test)]
mod tests {
    use image::{ProgramKind, Wasi, World};

    use super::*;

    #[test]
    fn a_search_takes_what_meets_all_of_it() {
        let program = ProgramFacts {
            path: Some("/app.wasm".to_owned()),
            kind: ProgramKind::Component,
            wasi: Wasi::P2,
            world: World::Http,
            imports: vec!["wasi:cli/environment@0.2.3".to_owned()],
            exports: vec!["wasi:http/incoming-handler@0.2.3".to_owned()],
        };
        let digest = Digest::of(b"cats");
        let labels = [("team".to_owned(), "Paws".to_owned())].into();
        let contents = ImageContents { labels, program: Some(program), ..ImageContents::default() };
        let image = FoundImage {
            repository: "ann/cats".to_owned(),
            digest,
            tags: vec!["v1".to_owned()],
            contents,
        };
        let (hex, whole) = (digest.hex()[..12].to_owned(), digest.to_string());
        for (query, want) in [
            ("", true),
            ("text=CATS", true),
            ("text=cats:v1", true),
            ("text=paws", true),
            ("text=incoming-handler", true),
            ("text=dogs", false),
            ("imports=wasi:cli/environment", true),
            ("imports=wasi:http", false),
            ("exports=wasi:http", true),
            ("exports=incoming-handler", false),
            ("label=team", true),
            ("label=team=Paws", true),
            ("label=team=paws", false),
            ("label=owner", false),
            (&format!("digest={hex}"), true),
            (&format!("digest={whole}"), true),
            ("digest=0000", false),
            ("text=cats&label=owner", false),
        ] {
            let given = crate::protocol::Query::parse(query);
            let of = |name| given.get(name).map(str::to_owned);
            let search = ImageSearch {
                text: of("text"),
                imports: of("imports"),
                exports: of("exports"),
                label: of("label"),
                digest: of("digest"),
            };
            assert_eq!(search.takes(&image), want, "{query}");
        }
    }
}
