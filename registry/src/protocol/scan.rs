//! Which software is in images.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use spec::ParseError;

/// A format of bills of material.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SbomFormat {
    /// SPDX 2.3 as JSON.
    Spdx,
    /// CycloneDX 1.5 as JSON.
    Cyclonedx,
}

impl SbomFormat {
    pub const ALL: [Self; 2] = [Self::Spdx, Self::Cyclonedx];

    /// In queries and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spdx => "spdx",
            Self::Cyclonedx => "cyclonedx",
        }
    }

    /// The media type of its documents.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Spdx => "application/spdx+json",
            Self::Cyclonedx => "application/vnd.cyclonedx+json",
        }
    }
}

impl FromStr for SbomFormat {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| ParseError::about(text, "is no format: spdx, cyclonedx"))
    }
}
