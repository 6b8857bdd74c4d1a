use anyhow::{Result, ensure};
use spec::Digest;

use super::{
    Stand,
    client::{Client, Random},
    peers::{Peer, REPOSITORY},
    table,
};
use crate::measure::{self, Contender};

const ROUNDS: usize = 5;
const GIB: f64 = (1_u64 << 30) as f64;
/// Pulls of a round, of a blob of 1 MiB and of a large one.
const SMALL_PULLS: usize = 512;
const LARGE_PULLS: usize = 8;
/// Pushes of a round, likewise: each stays on the disk until the end.
const SMALL_PUSHES: usize = 64;
const LARGE_PUSHES: usize = 2;

/// Blobs that are there, read again and again.
pub fn pull(stand: &mut Stand<'_>) -> Result<()> {
    let mut random = stand.random();
    for (megabytes, pulls) in [(1, SMALL_PULLS), (random.large_megabytes(), LARGE_PULLS)] {
        let (blob, digest) = random.blob(megabytes);
        let peers = stand.peers()?;
        for peer in &peers {
            Client::connect(&peer.address)?.push(REPOSITORY, &blob, &digest)?;
        }
        let contenders = peers
            .iter()
            .map(|peer| Contender::new(peer.name, || pulled(peer, &digest, blob.len(), pulls)))
            .collect();
        let results = measure::in_turn(ROUNDS, contenders)?;
        table(&format!("pull {megabytes} MiB"), "s/GiB", &results);
    }
    Ok(())
}

/// Seconds of the processor for a gibibyte.
fn pulled(peer: &Peer, digest: &Digest, bytes: usize, pulls: usize) -> Result<f64> {
    let mut client = Client::connect(&peer.address)?;
    let before = peer.cpu_time();
    for _ in 0..pulls {
        ensure!(client.pull(REPOSITORY, digest)? == bytes as u64, "not the whole blob");
    }
    let spent = peer.cpu_time().saturating_sub(before).as_secs_f64();
    Ok(spent / (bytes as f64 * pulls as f64 / GIB))
}

/// Blobs that are new each time.
pub fn push(stand: &mut Stand<'_>) -> Result<()> {
    let mut random = stand.random();
    let peers = stand.peers()?;
    let large = random.large_megabytes();
    for (megabytes, pushes) in [(1, SMALL_PUSHES), (large, LARGE_PUSHES)] {
        let random = std::cell::RefCell::new(&mut random);
        let contenders = peers
            .iter()
            .map(|peer| {
                Contender::new(peer.name, || {
                    let spent = pushed(peer, &mut random.borrow_mut(), megabytes, pushes)?;
                    // A small one by itself, a large one by its size.
                    Ok(match megabytes {
                        1 => spent * 1e3 / pushes as f64,
                        _ => spent / ((megabytes * pushes) as f64 / 1024.0),
                    })
                })
            })
            .collect();
        let results = measure::in_turn(ROUNDS, contenders)?;
        let unit = if megabytes == 1 { "ms" } else { "s/GiB" };
        table(&format!("push {megabytes} MiB"), unit, &results);
    }
    Ok(())
}

/// Seconds of the processor.
fn pushed(peer: &Peer, random: &mut Random, megabytes: usize, pushes: usize) -> Result<f64> {
    let blobs: Vec<_> = (0..pushes).map(|_| random.blob(megabytes)).collect();
    let mut client = Client::connect(&peer.address)?;
    let before = peer.cpu_time();
    for (blob, digest) in &blobs {
        client.push(REPOSITORY, blob, digest)?;
    }
    Ok(peer.cpu_time().saturating_sub(before).as_secs_f64())
}
