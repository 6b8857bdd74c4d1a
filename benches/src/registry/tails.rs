use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Result, ensure};

use super::{
    Stand,
    client::Client,
    peers::{Peer, REPOSITORY},
};
use crate::measure::{self, Samples};

const REQUESTS: usize = 600;
const CLIENTS: usize = 2;
const ROUNDS: usize = 3;
/// What a collection and a scrub have to look at.
const MANIFESTS: usize = 5000;

/// What goes on beside the requests.
const BESIDE: [(&str, Option<&[&str]>); 3] = [
    ("nothing", None),
    ("collection", Some(&["gc", "--grace", "1h"])),
    ("scrub", Some(&["scrub", "--rate", "16MiB"])),
];

/// The slowest of a hundred pushes and pulls of 1 MiB, alone and beside what the registry does by
/// itself, over and over.
pub fn run(stand: &mut Stand<'_>) -> Result<()> {
    let mut peer = stand.margay()?;
    super::records::fill(&mut peer, stand.options.tags.min(MANIFESTS))?;
    let mut found = vec![[Samples::default(), Samples::default()]; BESIDE.len()];
    for _ in 0..ROUNDS {
        for ((_, beside), found) in BESIDE.iter().zip(&mut found) {
            peer.log_in()?;
            let tails = with(&peer, *beside, || tails(&peer, stand))?;
            for (tail, samples) in tails.into_iter().zip(found) {
                samples.push(tail);
            }
        }
    }
    let alone = found[0].clone().map(|samples| samples.median());
    let rows: Vec<_> = BESIDE
        .iter()
        .zip(&found)
        .map(|((name, _), [push, pull])| {
            let ratio = |samples: &Samples, alone| format!("{:.2}", samples.median() / alone);
            let ratios = format!("{}, {}", ratio(push, alone[0]), ratio(pull, alone[1]));
            [(*name).to_owned(), push.show("ms"), pull.show("ms"), ratios]
        })
        .collect();
    measure::table(["beside", "p99 of pushes", "p99 of pulls", "/ alone"], &rows);
    println!();
    Ok(())
}

/// `work`, while the registry does this again and again.
fn with<T: Send>(
    peer: &Peer,
    beside: Option<&[&str]>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let doing = beside.map(|args| {
            let done = &done;
            scope.spawn(move || -> Result<()> {
                let mut running = peer.command(args).spawn()?;
                while !done.load(Ordering::Relaxed) {
                    if let Some(ended) = running.try_wait()? {
                        ensure!(ended.success(), "margay registry {args:?} failed");
                        running = peer.command(args).spawn()?;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                running.kill()?;
                running.wait()?;
                Ok(())
            })
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        if let Some(doing) = doing {
            doing.join().expect("it does not panic")?;
        }
        result
    })
}

/// Of pushes and of pulls, in milliseconds.
fn tails(peer: &Peer, stand: &Stand<'_>) -> Result<[f64; 2]> {
    let mut both = [Samples::default(), Samples::default()];
    let clients: Result<Vec<_>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| times(peer, stand))).collect();
        clients.into_iter().map(|client| client.join().expect("it does not panic")).collect()
    });
    for times in clients? {
        for (push, pull) in times {
            both[0].push_unsorted(push);
            both[1].push_unsorted(pull);
        }
    }
    Ok(both.map(|mut samples| {
        samples.sort();
        samples.quantile(0.99)
    }))
}

fn times(peer: &Peer, stand: &Stand<'_>) -> Result<Vec<(f64, f64)>> {
    let (mut client, mut random) = (Client::connect(&peer.address)?, stand.random());
    let mut times = Vec::new();
    for _ in 0..REQUESTS / CLIENTS {
        let (blob, digest) = random.blob(1);
        let began = Instant::now();
        client.push(REPOSITORY, &blob, &digest)?;
        let pushed = began.elapsed();
        client.pull(REPOSITORY, &digest)?;
        let pulled = began.elapsed() - pushed;
        times.push((pushed.as_secs_f64() * 1e3, pulled.as_secs_f64() * 1e3));
    }
    Ok(times)
}
