use node::tasks::{HealthStatus, State, Status, TaskFolder};
use serde::Serialize;
use spec::{Digest, PublishedPort, Timestamp};

use crate::output::{ago, human, now};

/// What `ps` and `inspect` say about a task.
#[derive(Serialize)]
pub struct Summary {
    /// The name of its folder.
    pub id: String,
    pub name: String,
    pub image: String,
    pub digest: Digest,
    pub command: Vec<String>,
    pub created: Timestamp,
    /// In words, as Docker has them.
    pub status: String,
    /// The guest's code once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub ports: Vec<PublishedPort>,
    /// Where its program runs and is asked whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
}

impl Summary {
    pub fn of(folder: &TaskFolder, state: State, seen: Option<&Status>) -> Self {
        let record = folder.record();
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.image.clone(),
            digest: record.digest,
            command: record.command.clone(),
            created: record.created,
            status: in_words(state, seen, now()),
            exit_code: seen.and_then(|seen| seen.exit_code),
            reason: seen.and_then(|seen| seen.reason.clone()),
            ports: match seen {
                Some(seen) if state.is_alive() => seen.ports.clone(),
                _ => Vec::new(),
            },
            health: health(state, seen),
        }
    }
}

fn in_words(state: State, seen: Option<&Status>, now: Timestamp) -> String {
    let (started, ended, restarts) =
        seen.map_or((None, None, 0), |seen| (seen.started, seen.ended, seen.restarts));
    let words = match state {
        State::Running | State::Unsupervised => {
            let up = format!("Up {}", human(now.since(started.unwrap_or(now))));
            match health(state, seen) {
                None => up,
                Some(HealthStatus::Starting) => format!("{up} (health: starting)"),
                Some(health) => format!("{up} ({})", health.word()),
            }
        }
        State::Exited(code) => {
            format!("Exited ({code}) {}", ago(ended.unwrap_or(now), now))
        }
        State::Created => "Created".to_owned(),
        State::Starting => "Starting".to_owned(),
        State::Idle => "Idle".to_owned(),
        State::BackOff => "Restarting".to_owned(),
        State::Lost => "Lost".to_owned(),
    };
    match restarts {
        0 => words,
        1 => format!("{words}, 1 restart"),
        _ => format!("{words}, {restarts} restarts"),
    }
}

/// Whether the program of a task is well, while it runs.
pub fn health(state: State, seen: Option<&Status>) -> Option<HealthStatus> {
    match state {
        State::Running | State::Unsupervised => Some(seen?.health.as_ref()?.status),
        State::Created
        | State::Starting
        | State::Idle
        | State::BackOff
        | State::Exited(_)
        | State::Lost => None,
    }
}

/// The word that Docker has for a state. What waits for its first request counts as running.
pub fn docker_state(state: State) -> &'static str {
    match state {
        State::Created | State::Starting => "created",
        State::Running | State::Unsupervised | State::Idle => "running",
        State::BackOff => "restarting",
        State::Exited(_) => "exited",
        State::Lost => "dead",
    }
}

#[cfg(test)]
mod tests {
    use node::tasks::Health;

    use super::*;

    #[test]
    fn a_status_is_in_dockers_words() {
        let time = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let me = node::tasks::ProcessId { pid: 1, started: 1 };
        let seen = Status {
            started: Some(time(100)),
            ended: Some(time(400)),
            restarts: 2,
            ..Status::starting(me)
        };
        let with = |status| {
            let health = Health { status, failing_streak: 0, log: Vec::new() };
            Status { restarts: 0, health: Some(health), ..seen.clone() }
        };
        let [starting, healthy, unhealthy] =
            [HealthStatus::Starting, HealthStatus::Healthy, HealthStatus::Unhealthy].map(with);
        for (state, seen, want) in [
            (State::Running, Some(&seen), "Up 5 minutes, 2 restarts"),
            (State::Running, None, "Up Less than a second"),
            (State::Running, Some(&starting), "Up 5 minutes (health: starting)"),
            (State::Running, Some(&healthy), "Up 5 minutes (healthy)"),
            (State::Unsupervised, Some(&unhealthy), "Up 5 minutes (unhealthy)"),
            (State::Exited(1), Some(&unhealthy), "Exited (1) 3 seconds ago"),
            (
                State::Exited(0),
                Some(&Status { restarts: 0, ..seen.clone() }),
                "Exited (0) 3 seconds ago",
            ),
            (
                State::BackOff,
                Some(&Status { restarts: 1, ..seen.clone() }),
                "Restarting, 1 restart",
            ),
        ] {
            assert_eq!(in_words(state, seen, time(403)), want, "{state:?}");
        }
    }
}
