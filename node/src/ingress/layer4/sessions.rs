use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use net::AddressPrefix;

/// The clients of one port, each with what is kept for it. One that was heard of once makes room
/// first, the earliest of them, and one that goes on is looked at again later: so a flood of
/// invented addresses takes the place of itself.
#[derive(Debug)]
pub(super) struct Sessions<S> {
    by_client: HashMap<SocketAddr, Session<S>>,
    /// In the order in which they are looked at. Some have ended.
    turns: VecDeque<(SocketAddr, u64)>,
    of_prefix: HashMap<AddressPrefix, usize>,
    of_prefix_max: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Session<S> {
    id: u64,
    /// Since it was last looked at.
    used: bool,
    value: S,
}

impl<S> Sessions<S> {
    pub fn new(of_prefix_max: usize) -> Self {
        Self {
            by_client: HashMap::new(),
            turns: VecDeque::new(),
            of_prefix: HashMap::new(),
            of_prefix_max,
            next_id: 0,
        }
    }

    /// What is kept for `client`, which has sent something again.
    pub fn of(&mut self, client: SocketAddr) -> Option<&mut S> {
        let session = self.by_client.get_mut(&client)?;
        session.used = true;
        Some(&mut session.value)
    }

    /// Another one of its address would be more than an address may have.
    pub fn is_share_taken(&self, client: SocketAddr) -> bool {
        let prefix = AddressPrefix::from(client.ip());
        self.of_prefix.get(&prefix).is_some_and(|count| *count >= self.of_prefix_max)
    }

    /// Keeps what `value` makes of the number of the new session.
    pub fn insert(&mut self, client: SocketAddr, value: impl FnOnce(u64) -> S) -> &mut S {
        let id = self.next_id;
        self.next_id += 1;
        self.remove(client);
        *self.of_prefix.entry(client.ip().into()).or_default() += 1;
        if self.turns.len() > 2 * self.by_client.len() + 64 {
            let by_client = &self.by_client;
            self.turns.retain(|(client, id)| is_of(by_client, client, *id));
        }
        self.turns.push_back((client, id));
        let session = Session { id, used: false, value: value(id) };
        &mut self.by_client.entry(client).insert_entry(session).into_mut().value
    }

    /// Forgets `client`.
    pub fn remove(&mut self, client: SocketAddr) -> Option<S> {
        let session = self.by_client.remove(&client)?;
        let prefix = AddressPrefix::from(client.ip());
        if let Some(count) = self.of_prefix.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.of_prefix.remove(&prefix);
            }
        }
        Some(session.value)
    }

    /// Forgets `client`, unless it has another session by now.
    pub fn ended(&mut self, client: SocketAddr, id: u64) {
        if is_of(&self.by_client, &client, id) {
            self.remove(client);
        }
    }

    /// Takes out the one that is to make room for `client`: one of its own address where that has
    /// its share.
    pub fn make_room_for(&mut self, client: SocketAddr) -> Option<S> {
        let prefix = self.is_share_taken(client).then(|| AddressPrefix::from(client.ip()));
        let is_meant = |other: &SocketAddr| {
            prefix.is_none_or(|prefix| AddressPrefix::from(other.ip()) == prefix)
        };
        // After one turn of all none is used.
        for _ in 0..2 * self.turns.len() {
            let (other, id) = self.turns.pop_front()?;
            let Some(session) = self.by_client.get_mut(&other).filter(|known| known.id == id)
            else {
                continue;
            };
            match is_meant(&other) {
                true if !std::mem::take(&mut session.used) => return self.remove(other),
                _ => self.turns.push_back((other, id)),
            }
        }
        None
    }
}

fn is_of<S>(by_client: &HashMap<SocketAddr, Session<S>>, client: &SocketAddr, id: u64) -> bool {
    by_client.get(client).is_some_and(|session| session.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 5353))
    }

    fn of_one_address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 9, 9, 9], port))
    }

    #[test]
    fn the_client_that_was_heard_of_once_makes_room_and_one_that_goes_on_stays() {
        let mut sessions = Sessions::new(100);
        for number in 0..4 {
            sessions.insert(client(number), |_| number);
        }
        assert_eq!(sessions.of(client(0)), Some(&mut 0));
        assert_eq!(sessions.of(client(2)), Some(&mut 2));
        // An end of before says nothing of the session of now.
        sessions.insert(client(3), |id| u16::try_from(id).unwrap());
        sessions.ended(client(3), 3);
        let next = |sessions: &mut Sessions<u16>| sessions.make_room_for(client(9));
        assert_eq!([1, 4, 0, 2].map(Some), [0; 4].map(|_| next(&mut sessions)));
        assert_eq!(next(&mut sessions), None, "there is none");
        assert!(sessions.of_prefix.is_empty());
    }

    #[test]
    fn an_address_that_has_its_share_makes_room_itself() {
        let mut sessions = Sessions::new(3);
        sessions.insert(client(1), |_| 100);
        for port in 1..=3 {
            assert!(!sessions.is_share_taken(of_one_address(port)));
            sessions.insert(of_one_address(port), |_| port);
        }
        assert!(sessions.is_share_taken(of_one_address(4)));
        assert!(!sessions.is_share_taken(client(2)));
        sessions.of(of_one_address(1));
        for (port, want) in [(4, 2), (5, 3), (6, 1), (7, 4)] {
            assert_eq!(sessions.make_room_for(of_one_address(port)), Some(want));
            sessions.insert(of_one_address(port), |_| port);
        }
        assert_eq!(sessions.of(client(1)), Some(&mut 100), "others stay");
    }

    #[test]
    fn clients_that_have_ended_are_not_remembered() {
        let mut sessions = Sessions::new(10);
        for number in 0..10_000 {
            sessions.insert(client(number), |_| ());
            sessions.ended(client(number), number.into());
        }
        assert!(sessions.by_client.is_empty() && sessions.of_prefix.is_empty());
        assert!(sessions.turns.len() < 100, "{}", sessions.turns.len());
    }
}
