use serde::{Deserialize, Serialize};
use spec::{Digest, Usage, UsageRecord};

use super::Meter;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Entry {
    /// What was used, and the reading that it leads to.
    Record { record: UsageRecord, reading: Usage },
    /// A reading that an earlier log holds the records for.
    Baseline {
        tenant: spec::Tenant,
        task: spec::TaskId,
        container: spec::ContainerName,
        image: Digest,
        reading: Usage,
    },
}

impl Entry {
    pub fn record(record: UsageRecord, reading: Usage) -> Self {
        Self::Record { record, reading }
    }

    pub fn baseline(meter: &Meter, reading: Usage) -> Self {
        let Meter { tenant, task, container, image } = meter.clone();
        Self::Baseline { tenant, task, container, image, reading }
    }

    /// Whose reading it has, and which.
    pub fn reading(&self) -> (Meter, Usage) {
        let (tenant, task, container, image, reading) = match self {
            Self::Record { record: r, reading } => {
                (&r.tenant, &r.task, &r.container, r.image, *reading)
            }
            Self::Baseline { tenant, task, container, image, reading } => {
                (tenant, task, container, *image, *reading)
            }
        };
        (
            Meter {
                tenant: tenant.clone(),
                task: task.clone(),
                container: container.clone(),
                image,
            },
            reading,
        )
    }
}

/// Hex digits of the hash before a line: 64 bits tell any accident apart from what was written.
const SEAL_CHARS: usize = 16;

/// The hash over everything so far.
#[derive(Debug, Clone)]
pub(super) struct Chain(String);

impl Chain {
    /// A log begins with its own name, so that lines cannot wander from one log into another.
    pub fn begin(boot: &str) -> Self {
        Self(seal("", boot))
    }

    pub fn write(&mut self, entry: &Entry, into: &mut Vec<u8>) {
        let json = serde_json::to_string(entry).expect("an entry has only text and numbers");
        self.0 = seal(&self.0, &json);
        into.extend_from_slice(self.0.as_bytes());
        into.push(b' ');
        into.extend_from_slice(json.as_bytes());
        into.push(b'\n');
    }

    /// The entry in `line` (without its newline), when it follows on what came before.
    pub fn read(&mut self, line: &[u8]) -> Option<Entry> {
        let text = std::str::from_utf8(line).ok()?;
        let (sealed, json) = text.split_at_checked(SEAL_CHARS)?;
        let json = json.strip_prefix(' ')?;
        let next = seal(&self.0, json);
        if next != sealed {
            return None;
        }
        let entry = serde_json::from_str(json).ok()?;
        self.0 = next;
        Some(entry)
    }
}

fn seal(before: &str, text: &str) -> String {
    let mut hex = Digest::of(format!("{before}\n{text}").as_bytes()).hex();
    hex.truncate(SEAL_CHARS);
    hex
}
