use serde::Deserialize;
use spec::MediaType;

/// The media type that a manifest or index declares in its own bytes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeclaredMediaType {
    media_type: Option<MediaType>,
}

impl DeclaredMediaType {
    /// `None` when the document declares none or cannot be read.
    pub fn of(manifest: &[u8]) -> Option<MediaType> {
        spec::json::from_slice::<Self>(manifest).ok()?.media_type
    }
}

/// Whether a layer of this media type is named by manifests and never stored in a registry: its
/// license allows only its vendor to distribute it.
pub(crate) fn is_foreign_layer(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}
