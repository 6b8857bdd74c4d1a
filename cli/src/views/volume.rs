use std::collections::BTreeMap;

use node::volumes::Volume;
use serde::Serialize;
use serde_json::{Map, Value, json};
use spec::Timestamp;

use crate::{
    listing::{Fields, record},
    output::docker_size,
};

/// What a template of `volume ls` can name.
pub const FIELDS: Fields = &[
    ("Driver", "DRIVER"),
    ("Labels", "LABELS"),
    ("Links", "TASKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

/// The one driver: a folder of this machine.
pub const DRIVER: &str = "local";

/// A volume as JSON.
#[derive(Debug, Serialize)]
pub struct VolumeView {
    pub name: String,
    pub path: String,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    /// The tasks that mount it, ended ones included.
    pub tasks: Vec<String>,
}

impl VolumeView {
    pub fn of(volume: &Volume) -> Self {
        Self {
            name: volume.name.to_string(),
            path: volume.folder.display().to_string(),
            created: volume.created,
            labels: volume.labels.clone(),
            tasks: volume.tasks.clone(),
        }
    }

    /// A row of `volume ls` under Docker's names; `bytes` where they were counted.
    pub fn row(&self, bytes: Option<u64>) -> Map<String, Value> {
        let labels = self.labels.iter().map(|(name, value)| format!("{name}={value}"));
        record([
            ("Driver", DRIVER.into()),
            ("Labels", labels.collect::<Vec<_>>().join(",").into()),
            ("Links", self.tasks.len().to_string().into()),
            ("Mountpoint", self.path.clone().into()),
            ("Name", self.name.clone().into()),
            ("Scope", DRIVER.into()),
            ("Size", bytes.map_or_else(|| "N/A".to_owned(), docker_size).into()),
            ("Status", "N/A".into()),
            ("Label", json!(self.labels)),
        ])
    }

    /// The structure of Docker's `volume inspect`.
    pub fn docker(&self) -> Map<String, Value> {
        record([
            ("CreatedAt", self.created.to_string().into()),
            ("Driver", DRIVER.into()),
            ("Labels", json!(self.labels)),
            ("Mountpoint", self.path.clone().into()),
            ("Name", self.name.clone().into()),
            ("Options", json!({})),
            ("Scope", DRIVER.into()),
        ])
    }
}
