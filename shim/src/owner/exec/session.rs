//! A program with all that it has started: the processes of its session, which begins with it, and
//! the descendants of those.

use std::collections::BTreeSet;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{limits::SESSION_ROUNDS_MAX, owner::members::Members};

/// What the kernel says of a process: the fields that tell whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    pid: i32,
    parent: i32,
    session: i32,
    /// With its number, the name of a process for as long as the machine runs.
    started: u64,
}

/// Kills the session of `leader`, a child that was not waited for yet, in the container of
/// `processes`. A process that has left the session and has lost its parent is no part of it any
/// more.
pub(super) fn kill(leader: Pid, processes: &Members) {
    let leader = leader.as_raw_nonzero().get();
    let mut killed = BTreeSet::new();
    // What is started while others are killed is found in the next round.
    for _ in 0..SESSION_ROUNDS_MAX {
        let all: Vec<_> = processes.processes().into_iter().filter_map(facts).collect();
        let members = members(leader, &all);
        let found: Vec<_> = members.into_iter().filter(|one| killed.insert(one.pid)).collect();
        if found.is_empty() {
            return;
        }
        for one in found {
            kill_one(one);
        }
    }
}

/// Those of `all` that belong to the session of `leader`.
fn members(leader: i32, all: &[Facts]) -> Vec<Facts> {
    let is_in = |one: &&Facts| one.pid == leader || one.session == leader;
    let mut members: Vec<Facts> = all.iter().filter(is_in).copied().collect();
    let mut next = 0;
    while let Some(parent) = members.get(next).map(|one| one.pid) {
        for child in all.iter().filter(|one| one.parent == parent) {
            if !members.contains(child) {
                members.push(*child);
            }
        }
        next += 1;
    }
    members
}

/// Unless its number means another process by now.
fn kill_one(one: Facts) {
    let Some(pid) = Pid::from_raw(one.pid) else { return };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if facts(one.pid).is_some_and(|now| now.started == one.started) {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

fn facts(pid: i32) -> Option<Facts> {
    parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A line of `/proc/PID/stat`. The second field is a name, which may hold anything.
fn parse(pid: i32, stat: &str) -> Option<Facts> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    Some(Facts {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_its_members_and_their_descendants_and_no_others() {
        let process = |(pid, parent, session)| Facts { pid, parent, session, started: 1 };
        let all = [
            (1, 0, 1),  // the container's first process
            (5, 0, 5),  // the program
            (6, 5, 5),  // its child
            (7, 6, 7),  // a grandchild with a session of its own
            (8, 7, 7),  // and what that has started
            (9, 1, 5),  // of its session, with another parent by now
            (10, 1, 1), // not its own
            (11, 1, 11),
        ]
        .map(process);
        let pids: BTreeSet<i32> = members(5, &all).iter().map(|one| one.pid).collect();
        assert_eq!(pids, BTreeSet::from([5, 6, 7, 8, 9]));
        assert!(members(99, &all).is_empty());
    }

    #[test]
    fn a_name_cannot_pretend_to_be_a_field() {
        let tail = "4 5 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0";
        let want = Facts { pid: 6, parent: 4, session: 5, started: 777 };
        assert_eq!(parse(6, &format!("6 (a) S 1 1 1) S {tail}")), Some(want));
        for text in ["", "6 (a", "6 (a) S", "6 (a) S x y z"] {
            assert_eq!(parse(6, text), None, "{text}");
        }
        assert!(facts(std::process::id() as i32).is_some_and(|own| own.started > 0));
    }
}
