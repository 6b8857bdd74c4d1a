use std::{collections::BTreeMap, path::PathBuf};

use disk::Survives;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    files,
    home::{Home, make_private},
    tuning::Tuning,
};

/// What is said once, when a node joins, and holds until it is said again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    pub ingress_address: Option<String>,
    #[serde(default)]
    pub tuning: Tuning,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            zone: "default".to_owned(),
            labels: BTreeMap::new(),
            ingress_address: None,
            tuning: Tuning::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct NodeFolder(PathBuf);

impl NodeFolder {
    pub fn of(home: &Home) -> Result<Self> {
        let folder = home.node();
        make_private(&folder)?;
        Ok(Self(folder))
    }

    pub fn identity(&self) -> PathBuf {
        self.0.join("identity.json")
    }

    pub fn desired(&self) -> PathBuf {
        self.0.join("desired.json")
    }

    pub fn usage(&self) -> PathBuf {
        self.0.join("usage")
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub fn settings(&self) -> Result<Settings> {
        Ok(files::read_json(&self.0.join("settings.json"))?.unwrap_or_default())
    }

    pub fn write_settings(&self, settings: &Settings) -> Result<()> {
        files::write_json(&self.0.join("settings.json"), settings, Survives::PowerLoss)
    }
}
