use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use spec::{ContainerName, Timestamp};

use super::{converge::TaskKey, problems};
use crate::{
    anonymous_volumes, engines,
    error::{Result, chain},
    home::Home,
    tasks::{self, Origin, Owned, Phase, Status, TaskFolder},
};

/// For a container that is not wanted any more, and that no agent has supervised for a while.
const END_GRACE: Duration = Duration::from_secs(1);
/// Folders of ended tasks are kept for so long, so that their logs can be read: as long as the
/// control plane shows them.
const ENDED_KEPT_FOR: Duration = Duration::from_secs(3600);
/// And at most so many: each may have a log of some megabytes and the files of a Linux image.
const ENDED_KEPT_MAX: usize = 200;

/// A container that an earlier agent has left behind, and whose folder this one holds now.
#[derive(Debug)]
pub(super) struct Adoptable {
    pub owned: Owned,
    pub status: Option<Status>,
}

pub(super) type AdoptableTask = BTreeMap<ContainerName, Adoptable>;

impl Adoptable {
    /// Whether it had come to its end.
    pub fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase == Phase::Exited)
    }

    /// Ends what is left of it, and removes its folder.
    pub fn clear(self, home: &Home) -> Result<()> {
        let process = self.status.as_ref().and_then(|status| status.process);
        engines::end(self.owned.folder(), process, END_GRACE);
        let record = self.owned.record().clone();
        self.owned.remove()?;
        anonymous_volumes::remove(home, &record)
    }
}

/// Every container of a cluster that has a folder here and no other supervisor.
pub(super) fn collect(home: &Home) -> Result<BTreeMap<TaskKey, AdoptableTask>> {
    let mut found: BTreeMap<TaskKey, AdoptableTask> = BTreeMap::new();
    for folder in tasks::list(home)? {
        let Origin::Cluster(origin) = folder.record().origin.clone() else { continue };
        let status = folder.status().ok().flatten();
        match folder.own() {
            Ok(owned) => {
                let task = found.entry((origin.tenant, origin.task)).or_default();
                task.insert(origin.container, Adoptable { owned, status });
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the folder of a task is held by another process"
                )
            }
        }
    }
    Ok(found)
}

/// Removes folders that are not needed any more: of cluster tasks that ended a while ago, and
/// what crashes in the middle of making or removing one have left. A task in `keep` is still asked
/// for: its folder says that it has run.
pub(super) fn sweep(home: &Home, keep: &BTreeSet<TaskKey>) {
    let mut ended = Vec::new();
    for folder in tasks::list(home).unwrap_or_default() {
        let Origin::Cluster(origin) = folder.record().origin.clone() else { continue };
        if keep.contains(&(origin.tenant, origin.task)) {
            continue;
        }
        let status = folder.status().ok().flatten();
        ended.extend(status.and_then(|status| status.ended).map(|at| (at, folder)));
    }
    let remove = |(_, folder): (_, TaskFolder)| {
        if let Ok(owned) = folder.own() {
            let record = owned.record().clone();
            let _ = owned.remove().and_then(|()| anonymous_volumes::remove(home, &record));
        }
    };
    superfluous(&mut ended, Timestamp::of(SystemTime::now())).into_iter().for_each(remove);
    // What has ended takes no disk from what runs, nor this node from others.
    while problems::is_disk_short(&home.tasks())
        && let Some(oldest) = ended.pop()
    {
        remove(oldest);
    }
    if let Err(error) = tasks::clear_damaged(home) {
        tracing::warn!(error = chain(&error), "a damaged task could not be removed");
    }
    for entry in std::fs::read_dir(home.tasks()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let half_removed = name.as_encoded_bytes().starts_with(b".removed-");
        let half_made =
            !name.as_encoded_bytes().starts_with(b".") && !entry.path().join("task.json").exists();
        let age =
            entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if (half_removed || half_made) && age.is_some_and(|age| age > Duration::from_secs(60)) {
            let _ = shim::remove_tree(&entry.path());
        }
    }
}

/// Takes out of what has ended, with its time, what is old, and what is more than is kept. What
/// stays begins with the newest.
fn superfluous<T>(ended: &mut Vec<(Timestamp, T)>, now: Timestamp) -> Vec<(Timestamp, T)> {
    ended.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let is_kept = |(at, _): &(Timestamp, T)| now.since(*at) <= ENDED_KEPT_FOR;
    let kept = ended.iter().take_while(|one| is_kept(one)).count().min(ENDED_KEPT_MAX);
    ended.split_off(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{ClusterOrigin, ProcessId, TaskRecord};
    use spec::LaunchType;

    fn record(id: &str) -> TaskRecord {
        let origin = ClusterOrigin {
            tenant: "acme".parse().unwrap(),
            cluster: "main".parse().unwrap(),
            service: None,
            task: id.parse().unwrap(),
            container: "cats".parse().unwrap(),
            definition: "cats:1".parse().unwrap(),
            launch_type: LaunchType::Node,
        };
        let record = tasks::folder_tests::record(&format!("acme.{id}.cats"), id);
        TaskRecord { origin: Origin::Cluster(origin), ..record }
    }

    #[test]
    fn what_an_earlier_agent_left_is_found_and_swept_when_it_is_not_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        for (id, phase, ended) in [
            ("runs", Phase::Running, None),
            ("old", Phase::Exited, Some(1)),
            ("kept", Phase::Exited, Some(1)),
        ] {
            let owned = tasks::create(&home, record(id)).unwrap();
            let ended = ended.map(Timestamp::from_millis);
            owned
                .write_status(&Status { phase, ended, ..Status::starting(ProcessId::this()) })
                .unwrap();
        }
        let key = |id: &str| -> TaskKey { ("acme".parse().unwrap(), id.parse().unwrap()) };
        let found = collect(&home).unwrap();
        let ended: Vec<_> = found
            .iter()
            .map(|((_, id), task)| (id.as_str(), task.values().all(Adoptable::has_ended)))
            .collect();
        assert_eq!(ended, [("kept", true), ("old", true), ("runs", false)]);
        assert!(collect(&home).unwrap().is_empty(), "they are ours now");
        drop(found);
        sweep(&home, &BTreeSet::from([key("kept")]));
        let left: Vec<_> =
            tasks::list(&home).unwrap().iter().map(|task| task.record().name.clone()).collect();
        assert_eq!(left, ["kept", "runs"]);
    }

    #[test]
    fn what_ended_is_kept_for_an_hour_and_the_newest_alone() {
        let hour = ENDED_KEPT_FOR.as_millis() as u64;
        let now = Timestamp::from_millis(10 * hour);
        let ended = |count: u64, ago: u64| -> Vec<(Timestamp, u64)> {
            (0..count).map(|n| (Timestamp::from_millis(now.millis() - ago - n), n)).collect()
        };
        assert!(superfluous(&mut ended(3, 0), now).is_empty());
        assert!(superfluous(&mut ended(1, hour), now).is_empty());
        assert_eq!(superfluous(&mut ended(2, hour), now).len(), 1, "one is a millisecond too old");
        let more = superfluous(&mut ended(ENDED_KEPT_MAX as u64 + 2, 0), now);
        let oldest: Vec<u64> = more.iter().map(|(_, number)| *number).collect();
        assert_eq!(oldest, [ENDED_KEPT_MAX as u64, ENDED_KEPT_MAX as u64 + 1]);
    }
}
