//! How an image was made, as its config says it: one step for each layer.

use blobs::DOCUMENT_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spec::{Descriptor, ImageConfig};

use crate::{error::Error, layout::Layout};

/// # Spec
/// OCI image-spec 1.1, "Image Configuration", `history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct HistoryEntry(Value);

impl HistoryEntry {
    pub(crate) fn of(created: &str, created_by: &str) -> Self {
        Self(serde_json::json!({ "created": created, "created_by": created_by }))
    }

    fn makes_layer(&self) -> bool {
        !self.0["empty_layer"].as_bool().unwrap_or_default()
    }
}

/// A config with its history, which nothing that runs an image needs.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigWithHistory {
    #[serde(flatten)]
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<HistoryEntry>,
}

/// The history of a base image. Engines refuse a config whose history tells of other layers than
/// there are, so one that does is left out: its layers are said to be those of the base.
pub(crate) fn of_base(
    layout: &Layout,
    manifest: &Descriptor,
    layers: usize,
) -> Result<Vec<HistoryEntry>, Error> {
    let manifests = layout.manifests(manifest)?;
    let config = manifests.first().and_then(|(_, manifest)| manifest.config.as_ref());
    let read = |config| layout.read_blob(config, DOCUMENT_BYTES_MAX);
    let bytes = config.map(read).transpose()?.unwrap_or_default();
    Ok(parse(&bytes, layers))
}

fn parse(config: &[u8], layers: usize) -> Vec<HistoryEntry> {
    #[derive(Deserialize)]
    struct Kept {
        #[serde(default)]
        history: Vec<HistoryEntry>,
    }
    let kept = serde_json::from_slice(config).map(|kept: Kept| kept.history).unwrap_or_default();
    match kept.iter().filter(|entry| entry.makes_layer()).count() == layers {
        true => kept,
        false => vec![HistoryEntry::of(UNKNOWN_TIME, "base"); layers],
    }
}

const UNKNOWN_TIME: &str = "1970-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_a_base_tells_of_as_many_layers_as_there_are() {
        let two = br#"{"history":[{"created_by":"COPY a"},{"created_by":"ENV A=1","empty_layer":true},{"created_by":"COPY b","comment":"x"}]}"#;
        let base = |layers| vec![HistoryEntry::of(UNKNOWN_TIME, "base"); layers];
        for (config, layers, want) in [
            (&two[..], 2, None),
            (&two[..], 3, Some(base(3))),
            (b"{}", 0, Some(vec![])),
            (b"{}", 1, Some(base(1))),
            (br#"{"history":7}"#, 1, Some(base(1))),
            (b"", 2, Some(base(2))),
        ] {
            let found = parse(config, layers);
            match want {
                Some(want) => assert_eq!(found, want),
                None => {
                    let text = serde_json::to_string(&found).unwrap();
                    assert!(text.contains("COPY a") && text.contains(r#""comment":"x""#), "{text}");
                }
            }
        }
    }
}
