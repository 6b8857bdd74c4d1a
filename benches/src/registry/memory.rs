use anyhow::Result;

use super::{
    Stand,
    client::Client,
    peers::REPOSITORY,
    records::{Filled, filled},
};
use crate::measure::{self, Samples};

const STARTS: usize = 5;
const TRANSFERS: usize = 32;

/// From exec to the first answer, with manifests of which the registry knows.
pub fn start(stand: &mut Stand<'_>) -> Result<()> {
    let mut rows = Vec::new();
    for Filled { peer, tags, .. } in filled(stand)? {
        let mut times = Samples::default();
        for _ in 0..STARTS {
            times.push_time(peer.restart()?);
        }
        rows.push([peer.name.to_owned(), tags.to_string(), times.show("ms")]);
    }
    measure::table(["start", "manifests", "to the first answer: median (min to max)"], &rows);
    println!();
    Ok(())
}

/// After logins alone, after the tags were pushed, and after a start with them.
pub fn resident(stand: &mut Stand<'_>) -> Result<()> {
    let mut rows = Vec::new();
    for Filled { peer, tags, resident: [idle, pushed] } in filled(stand)? {
        peer.restart()?;
        let started = peer.memory("VmRSS:")?;
        let shown = [*idle, *pushed, started].map(|megabytes| format!("{megabytes:.1} MB"));
        let [idle, pushed, started] = shown;
        rows.push([peer.name.to_owned(), idle, tags.to_string(), pushed, started]);
    }
    let head = ["resident", "after logins", "tags", "after their push", "after a start"];
    measure::table(head, &rows);
    println!();
    Ok(())
}

/// The most that is held while so many blobs come and go at once.
pub fn transfers(stand: &mut Stand<'_>) -> Result<()> {
    let mut random = stand.random();
    let (blob, digest) = random.large();
    let others: Vec<_> = (0..4).map(|_| random.large()).collect();
    let mut rows = Vec::new();
    for peer in stand.peers()? {
        Client::connect(&peer.address)?.push(REPOSITORY, &blob, &digest)?;
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for number in 0..TRANSFERS {
                let (peer, digest) = (&peer, &digest);
                let (other, name) = &others[number % others.len()];
                running.push(scope.spawn(move || {
                    Client::connect(&peer.address)?.pull(REPOSITORY, digest).map(drop)
                }));
                running.push(
                    scope.spawn(move || {
                        Client::connect(&peer.address)?.push(REPOSITORY, other, name)
                    }),
                );
            }
            running.into_iter().try_for_each(|one| one.join().expect("it does not panic"))
        })?;
        let [peak, after] = [peer.memory("VmHWM:")?, peer.memory("VmRSS:")?];
        rows.push([peer.name.to_owned(), format!("{peak:.1} MB"), format!("{after:.1} MB")]);
    }
    let megabytes = random.large_megabytes();
    let title = format!("{TRANSFERS} pulls and {TRANSFERS} pushes of {megabytes} MiB at once");
    measure::table([&title, "peak of resident", "afterwards"], &rows);
    println!();
    Ok(())
}
