use std::{fmt, str::FromStr};

use crate::text::{ParseError, written_as_text};

/// A media type as written. It is a hint: the bytes decide what something is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaType(String);

impl MediaType {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, a plain tar.
    pub const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, a tar in gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, a tar in zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// OCI's empty descriptor, `{}`.
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, a tar in gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// CNCF Wasm artifact, config.
    pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
    /// Legacy `wasm-to-oci` and `oci-client`, config.
    pub const WASM_CONFIG_V1: &str = "application/vnd.wasm.config.v1+json";
    /// CNCF Wasm artifact, the one layer: raw Wasm.
    pub const WASM: &str = "application/wasm";
    /// runwasi, a component as a layer.
    pub const RUNWASI_COMPONENT: &str =
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
    /// Legacy `wasm-to-oci`, and Spin: Wasm as a layer.
    pub const WASM_CONTENT: &str = "application/vnd.wasm.content.layer.v1+wasm";
    /// Solo.io and old wasmCloud: Wasm as a layer.
    pub const SOLO_CONTENT: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
    /// Spin's locked application.
    pub const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";
    /// Spin's static file.
    pub const SPIN_DATA: &str = "application/vnd.wasm.content.layer.v1+data";

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it announces a manifest of manifests.
    pub fn is_index(&self) -> bool {
        matches!(self.as_str(), Self::OCI_INDEX | Self::DOCKER_INDEX)
    }

    /// Whether it announces a manifest of one image.
    pub fn is_manifest(&self) -> bool {
        matches!(self.as_str(), Self::OCI_MANIFEST | Self::DOCKER_MANIFEST)
    }

    /// Whether it announces a layer that is raw Wasm.
    pub fn is_wasm_layer(&self) -> bool {
        matches!(
            self.as_str(),
            Self::WASM | Self::RUNWASI_COMPONENT | Self::WASM_CONTENT | Self::SOLO_CONTENT
        )
    }
}

impl From<&'static str> for MediaType {
    fn from(text: &'static str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MediaType {
    type Err = ParseError;

    /// RFC 6838 `type/subtype`, at most 255 visible ASCII characters.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let good = text.len() <= 255
            && text.split_once('/').is_some_and(|(a, b)| is_token(a) && is_token(b));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::about(text, "is not a media type"))
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
}

written_as_text!(
    MediaType,
    "A media type (RFC 6838).",
    "application/vnd.oci.image.manifest.v1+json"
);
