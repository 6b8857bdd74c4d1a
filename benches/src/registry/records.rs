use std::{cell::RefCell, time::Instant};

use anyhow::Result;

use super::{
    PEER_TAGS_MAX, Stand,
    client::{Client, manifest, tag},
    peers::{Peer, REPOSITORY},
    table,
};
use crate::measure::{self, Contender, Samples};

const ROUNDS: usize = 5;
const REQUESTS: usize = 2000;
const CLIENTS: usize = 16;
const MANIFESTS: usize = 100;
const DELETIONS: usize = 100;
const LOGINS: usize = 16;
/// Manifests that a token lasts for at the slowest.
const PUT_AT_ONCE: usize = 10_000;
/// The first number of manifests that nothing has been filled with.
const FRESH: usize = 1_000_000;

/// A registry whose repository has its tags.
pub struct Filled {
    pub peer: Peer,
    pub tags: usize,
    /// Megabytes that were resident after logins alone, and after the tags.
    pub resident: [f64; 2],
}

fn title(what: &str, stand: &Stand<'_>) -> String {
    format!("{what}, {} tags (peers {PEER_TAGS_MAX})", stand.options.tags)
}

/// All that are installed, each with its tags and a new token.
pub fn filled<'a>(stand: &'a mut Stand<'_>) -> Result<&'a mut Vec<Filled>> {
    if stand.filled.is_empty() {
        for mut peer in stand.peers()? {
            for _ in 0..LOGINS {
                peer.log_in()?;
            }
            let idle = peer.memory("VmRSS:")?;
            let tags = match peer.is_margay() {
                true => stand.options.tags,
                false => stand.options.tags.min(PEER_TAGS_MAX),
            };
            fill(&mut peer, tags)?;
            let resident = [idle, peer.memory("VmRSS:")?];
            stand.filled.push(Filled { peer, tags, resident });
        }
    }
    stand.filled.iter_mut().try_for_each(|filled| filled.peer.log_in())?;
    Ok(&mut stand.filled)
}

/// Gives the repository so many manifests with one tag each.
pub fn fill(peer: &mut Peer, tags: usize) -> Result<()> {
    Client::connect(&peer.address)?.push_config(REPOSITORY)?;
    for start in (0..tags).step_by(PUT_AT_ONCE) {
        peer.log_in()?;
        put(peer, start, PUT_AT_ONCE.min(tags - start))?;
    }
    peer.log_in()
}

/// Manifests from so many clients at once.
fn put(peer: &Peer, start: usize, count: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    let mut connection = Client::connect(&peer.address)?;
                    for number in (start + client..start + count).step_by(CLIENTS) {
                        connection.put_manifest(REPOSITORY, number)?;
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().expect("it does not panic"))
    })
}

/// Milliseconds of the processor for one request, of many that go over the tags in turn.
fn asked(
    peer: &Peer,
    requests: usize,
    ask: impl Fn(&mut Client, usize) -> Result<()>,
) -> Result<f64> {
    let mut client = Client::connect(&peer.address)?;
    let before = peer.cpu_time();
    for request in 0..requests {
        ask(&mut client, request)?;
    }
    let spent = peer.cpu_time().saturating_sub(before);
    Ok(spent.as_secs_f64() * 1e3 / requests as f64)
}

pub fn head_blob(stand: &mut Stand<'_>) -> Result<()> {
    let ((blob, digest), title) = (stand.random().blob(1), title("HEAD blob", stand));
    let filled = filled(stand)?;
    for Filled { peer, .. } in filled.iter() {
        Client::connect(&peer.address)?.push(REPOSITORY, &blob, &digest)?;
    }
    let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let head = |client: &mut Client, _| client.expect("HEAD", &path, b"", 200).map(drop);
    let contenders = filled
        .iter()
        .map(|Filled { peer, .. }| Contender::new(peer.name, || asked(peer, REQUESTS, head)));
    table(&title, "ms", &measure::in_turn(ROUNDS, contenders.collect())?);
    Ok(())
}

/// Of a hundred tags that are pulled, and of all in turn, which no cache holds.
pub fn get_manifest(stand: &mut Stand<'_>) -> Result<()> {
    for (what, most) in [("GET manifest, 100 of them", 100), ("GET manifest, all", usize::MAX)] {
        let title = title(what, stand);
        let contenders = filled(stand)?.iter().map(|Filled { peer, tags, .. }| {
            let (tags, mut next) = ((*tags).min(most), 0);
            Contender::new(peer.name, move || {
                let start = next;
                next += REQUESTS;
                asked(peer, REQUESTS, |client, request| {
                    // Far from each other: a prime number of tags further each time.
                    let tag = tag((start + request) * 7919 % tags);
                    let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
                    client.expect("GET", &path, b"", 200).map(drop)
                })
            })
        });
        table(&title, "ms", &measure::in_turn(ROUNDS, contenders.collect())?);
    }
    Ok(())
}

/// In a fresh repository, and in one with its tags: what each costs, and how many there are in a
/// second.
pub fn put_manifest(stand: &mut Stand<'_>) -> Result<()> {
    let fresh = stand.peers()?;
    for peer in &fresh {
        Client::connect(&peer.address)?.push_config(REPOSITORY)?;
    }
    put_in_turn(&format!("PUT manifest, {CLIENTS} clients"), &fresh.iter().collect::<Vec<_>>())?;
    let title = title(&format!("PUT manifest, {CLIENTS} clients"), stand);
    let filled: Vec<_> = filled(stand)?.iter().map(|filled| &filled.peer).collect();
    put_in_turn(&title, &filled)
}

fn put_in_turn(title: &str, peers: &[&Peer]) -> Result<()> {
    let rates = RefCell::new(vec![Samples::default(); peers.len()]);
    let contenders = peers.iter().enumerate().map(|(index, peer)| {
        let (rates, mut next) = (&rates, FRESH);
        Contender::new(peer.name, move || {
            let (before, began) = (peer.cpu_time(), Instant::now());
            put(peer, next, CLIENTS * MANIFESTS)?;
            next += CLIENTS * MANIFESTS;
            let count = (CLIENTS * MANIFESTS) as f64;
            rates.borrow_mut()[index].push(count / began.elapsed().as_secs_f64());
            Ok(peer.cpu_time().saturating_sub(before).as_secs_f64() * 1e3 / count)
        })
    });
    table(title, "ms", &measure::in_turn(ROUNDS, contenders.collect())?);
    for (peer, rates) in peers.iter().zip(rates.borrow().iter()) {
        println!("{}: {}\n", peer.name, rates.show("manifests/s"));
    }
    Ok(())
}

pub fn delete_manifest(stand: &mut Stand<'_>) -> Result<()> {
    let title = title("DELETE manifest", stand);
    let mut results = Vec::new();
    for Filled { peer, tags, .. } in filled(stand)? {
        let mut samples = Samples::default();
        for start in (0..*tags).step_by(DELETIONS).take(ROUNDS.min(*tags / DELETIONS)) {
            samples.push(asked(peer, DELETIONS, |client, request| {
                let digest = spec::Digest::of(manifest(start + request).as_bytes());
                let path = format!("/v2/{REPOSITORY}/manifests/{digest}");
                client.expect("DELETE", &path, b"", 202).map(drop)
            })?);
        }
        results.push((peer.name.to_owned(), samples));
    }
    table(&title, "ms", &results);
    Ok(())
}
