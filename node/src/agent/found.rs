use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use spec::{ContainerName, Timestamp};

use super::converge::TaskKey;
use crate::{
    error::{Result, chain},
    home::Home,
    tasks::{self, Kind, Origin, Owned, Phase, Status, TaskFolder},
};

/// Folders of ended tasks are kept for so long, so that somebody can read why.
const ENDED_KEPT_FOR: Duration = Duration::from_secs(600);

/// A container that an earlier agent has left behind, held by us now.
#[derive(Debug)]
pub(super) struct Found {
    pub owned: Owned,
    pub status: Option<Status>,
}

/// The containers of one task.
pub(super) type FoundTask = BTreeMap<ContainerName, Found>;

impl Found {
    /// Whether it had come to its end.
    pub fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase == Phase::Exited)
    }

    /// Ends what is left of it, and removes its folder.
    pub fn clear(self) -> Result<()> {
        end(self.owned.folder(), self.status.as_ref());
        self.owned.remove()
    }
}

/// Every container of a cluster that has a folder here and no other supervisor.
pub(super) fn collect(home: &Home) -> Result<BTreeMap<TaskKey, FoundTask>> {
    let mut found: BTreeMap<TaskKey, FoundTask> = BTreeMap::new();
    for folder in tasks::list(home)? {
        let Origin::Cluster(origin) = folder.record().origin.clone() else { continue };
        let status = folder.status().ok().flatten();
        match folder.own() {
            Ok(owned) => {
                let task = found.entry((origin.tenant, origin.task)).or_default();
                task.insert(origin.container, Found { owned, status });
            }
            Err(error) => tracing::warn!(error = chain(&error), "a task's folder belongs to somebody else"),
        }
    }
    Ok(found)
}

/// Ends whatever process a container without a supervisor still has.
fn end(folder: &TaskFolder, status: Option<&Status>) {
    if folder.record().kind == Kind::Native {
        if let Ok(shim::Adopted::Running(task)) = shim::Task::adopt(folder.path()) {
            let _ = task.stop(Duration::from_secs(1));
            let _ = task.wait();
        }
        if let Err(error) = shim::sweep(folder.path()) {
            tracing::warn!(error = chain(&error), "a native container left something behind");
        }
    }
    if let Some(process) = status.and_then(|status| status.process) {
        let _ = tasks::kill(process);
    }
}

/// Removes folders that nobody will look at any more: of cluster tasks that ended a while ago, and what crashes in the
/// middle of making or removing one have left.
pub(super) fn sweep(home: &Home) {
    for folder in tasks::list(home).unwrap_or_default() {
        let Origin::Cluster(_) = folder.record().origin else { continue };
        let ended = folder.status().ok().flatten().and_then(|status| status.ended);
        let is_old = ended.is_some_and(|ended| Timestamp::of(SystemTime::now()).since(ended) > ENDED_KEPT_FOR);
        if is_old && let Ok(owned) = folder.own() {
            let _ = owned.remove();
        }
    }
    for entry in std::fs::read_dir(home.tasks()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let half_removed = name.as_encoded_bytes().starts_with(b".removed-");
        let half_made = !name.as_encoded_bytes().starts_with(b".") && !entry.path().join("task.json").exists();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if (half_removed || half_made) && age.is_some_and(|age| age > Duration::from_secs(60)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
