use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::{
    activity::{Activity, Standing},
    limits::{EVICTION_PAUSE, EVICTION_WARNING_EVERY},
};

/// The connections of one class, of which some are closed when others need their place.
#[derive(Debug)]
pub(crate) struct HeldConnections<K>(Arc<Mutex<Held<K>>>);

#[derive(Debug)]
struct Held<K> {
    connections: HashMap<u64, (Option<K>, Arc<Activity>)>,
    next: u64,
    /// When there was nothing to close for a key, so that it is not looked for each time. Only keys
    /// that have all of their share are here.
    in_vain: HashMap<K, Instant>,
    warned: Option<Instant>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldConnection<K> {
    held: Arc<Mutex<Held<K>>>,
    number: u64,
}

impl<K> Default for HeldConnections<K> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Held {
            connections: HashMap::new(),
            next: 0,
            in_vain: HashMap::new(),
            warned: None,
        })))
    }
}

fn locked<K>(held: &Mutex<Held<K>>) -> MutexGuard<'_, Held<K>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Drop for HeldConnection<K> {
    fn drop(&mut self) {
        locked(&self.held).connections.remove(&self.number);
    }
}

impl<K: Eq + Hash + Clone> HeldConnections<K> {
    /// Holds one of `key`; one without a key shares with none.
    pub fn hold(&self, key: Option<K>, activity: Arc<Activity>) -> HeldConnection<K> {
        let mut held = locked(&self.0);
        let number = held.next;
        held.next += 1;
        held.connections.insert(number, (key, activity));
        HeldConnection { held: self.0.clone(), number }
    }

    /// Closes up to `count` of them that nothing is lost with. Returns how many.
    pub fn evict(&self, count: usize) -> usize {
        let mut held = locked(&self.0);
        let closed = held.close(|_| true, count);
        let now = Instant::now();
        let is_news = held.warned.is_none_or(|last| now - last >= EVICTION_WARNING_EVERY);
        if closed > 0 && is_news {
            held.warned = Some(now);
            let connections = held.connections.len();
            tracing::warn!(connections, "all connections are taken: closing those without a use");
        }
        closed
    }

    /// Closes one of `key` that nothing is lost with, if there is one.
    pub fn evict_of(&self, key: &K) -> bool {
        let (mut held, now) = (locked(&self.0), Instant::now());
        held.in_vain.retain(|_, last| now - *last < EVICTION_PAUSE);
        if held.in_vain.contains_key(key) {
            return false;
        }
        let closed = held.close(|of| of == Some(key), 1) == 1;
        if !closed {
            held.in_vain.insert(key.clone(), now);
        }
        closed
    }
}

impl<K: Eq + Hash + Clone> Held<K> {
    fn close(&self, of: impl Fn(Option<&K>) -> bool, count: usize) -> usize {
        let now = Instant::now();
        let standing = |(number, (key, activity)): (&u64, &(Option<K>, Arc<Activity>))| {
            (*number, key.clone(), activity.standing(now))
        };
        let connections = self.connections.iter().filter(|(_, (key, _))| of(key.as_ref()));
        let chosen = chosen(connections.map(standing).collect(), count);
        chosen.into_iter().filter(|number| self.connections[number].1.close()).count()
    }
}

/// Which `count` of `connections` are closed: the last one of a key after all that have others
/// beside them, those without a request before those whose request the client holds up, of the key
/// with the most connections first, and of these the oldest. So one address does not keep others
/// out, and one with few connections keeps its own.
fn chosen<K: Eq + Hash>(
    mut connections: Vec<(u64, Option<K>, Standing)>,
    count: usize,
) -> Vec<u64> {
    let mut held: HashMap<&K, usize> = HashMap::new();
    connections.sort_by_key(|(.., standing)| standing.order());
    for key in connections.iter().filter_map(|(_, key, _)| key.as_ref()) {
        *held.entry(key).or_default() += 1;
    }
    let mut ranked = Vec::new();
    for (number, key, standing) in &connections {
        // How many its key has, when those before it are closed.
        let rank = key.as_ref().map_or(1, |key| {
            let left = held.get_mut(key).expect("each was counted");
            *left -= 1;
            *left + 1
        });
        if *standing != Standing::Busy {
            let is_asked = matches!(standing, Standing::Stalled(_));
            ranked.push(((rank == 1, is_asked, Reverse(rank)), *number));
        }
    }
    ranked.sort_by_key(|(order, _)| *order); // stable: the oldest first
    ranked.into_iter().take(count).map(|(_, number)| number).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_address_with_the_most_connections_makes_room_with_those_it_misses_least() {
        let seconds = Duration::from_secs;
        let idle = |key, number, time| (number, Some(key), Standing::Idle(seconds(time)));
        let stalled = |key, number, time| (number, Some(key), Standing::Stalled(seconds(time)));
        let busy = |key, number| (number, Some(key), Standing::Busy);
        let alone = |number, time| (number, None, Standing::Idle(seconds(time)));
        type Case<'a> = (&'a str, Vec<(u64, Option<char>, Standing)>, usize, &'a [u64]);
        let cases: [Case<'_>; 8] = [
            (
                "the oldest of one",
                vec![idle('a', 1, 5), idle('a', 2, 9), idle('a', 3, 1)],
                2,
                &[2, 1],
            ),
            (
                "of the larger one",
                vec![idle('a', 1, 99), idle('b', 2, 1), idle('b', 3, 2)],
                1,
                &[3],
            ),
            (
                "until they have the same, and then the oldest",
                vec![idle('a', 1, 9), idle('b', 2, 1), idle('b', 3, 2), idle('b', 4, 3)],
                3,
                &[4, 3, 1],
            ),
            ("none that is busy", vec![busy('a', 1), busy('a', 2), idle('b', 3, 1)], 3, &[3]),
            (
                "busy ones count for their address",
                vec![busy('a', 1), busy('a', 2), idle('a', 3, 1), idle('b', 4, 9), idle('b', 5, 9)],
                1,
                &[3],
            ),
            (
                "what is stalled after what is idle",
                vec![
                    stalled('a', 1, 99),
                    stalled('a', 2, 50),
                    stalled('a', 3, 9),
                    idle('b', 4, 1),
                    idle('b', 5, 2),
                ],
                2,
                &[5, 1],
            ),
            (
                "and before the last of another address",
                vec![stalled('a', 1, 99), stalled('a', 2, 50), idle('b', 4, 1)],
                3,
                &[1, 4, 2],
            ),
            (
                "those of a proxy one by one",
                vec![alone(1, 9), alone(2, 99), idle('a', 3, 1), idle('a', 4, 1)],
                2,
                &[3, 2],
            ),
        ];
        for (what, connections, count, want) in cases {
            assert_eq!(chosen(connections, count), want, "{what}");
        }
    }
}
