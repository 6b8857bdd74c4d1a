//! Replicas that do not answer are left out until they do. A request that waits raises the
//! suspicion; a probe that no guest sees tells a replica that is slow from one that is frozen or
//! cut off.

use std::{
    io,
    sync::{Arc, Weak},
};

use runtime::AddressRules;
use spec::Protocol;
use tokio::time::{Instant, sleep, timeout};

use super::{
    answering::Answering,
    limits::{PROBE_AGAIN_EVERY, PROBE_TIME_MAX, SILENT_TIME_MAX},
    table::{Replica, Target},
    upstream::Upstream,
};

/// Ready when `replica` is ejected. While a request waits for it, it is probed whenever it has
/// answered nothing for a while.
pub(super) async fn ejected(replica: &Replica, upstream: &Arc<Upstream>, addresses: &AddressRules) {
    let (answering, waited) = (&replica.answering, Instant::now());
    loop {
        let changed = answering.changed.notified();
        if answering.is_ejected() {
            return;
        }
        let silent = answering.silent_for().min(waited.elapsed());
        let left = SILENT_TIME_MAX.saturating_sub(silent);
        let pause = match (left.is_zero(), answering.probing.try_lock()) {
            (false, _) => left,
            (true, Err(_)) => PROBE_TIME_MAX, // another request has it probed
            (true, Ok(_probing)) => {
                let answered = probe(upstream, &replica.target, replica.protocol, addresses).await;
                answering.see();
                if let Err(error) = answered {
                    eject(replica, upstream, addresses, &error);
                    return;
                }
                continue;
            }
        };
        tokio::select! {
            () = changed => {}
            () = sleep(pause) => {}
        }
    }
}

fn eject(replica: &Replica, upstream: &Arc<Upstream>, addresses: &AddressRules, error: &io::Error) {
    let target = replica.target.clone();
    tracing::warn!(?target, %error, "a replica does not answer and is left out");
    replica.answering.eject();
    let known = Arc::downgrade(&replica.answering);
    let probed = (target, replica.protocol);
    tokio::spawn(until_it_answers(known, upstream.clone(), probed, addresses.clone()));
}

/// Probes a replica that was ejected, for as long as a route table has it.
async fn until_it_answers(
    known: Weak<Answering>,
    upstream: Arc<Upstream>,
    (target, protocol): (Target, Protocol),
    addresses: AddressRules,
) {
    loop {
        sleep(PROBE_AGAIN_EVERY).await;
        let Some(known) = known.upgrade().filter(|known| known.is_ejected()) else { return };
        if probe(&upstream, &target, protocol, &addresses).await.is_ok() {
            known.answered();
            tracing::info!(?target, "a replica answers again");
            return;
        }
    }
}

/// Whether anything at all comes back on a new connection. The request names no host: a worker and
/// an ingress refuse it themselves, and a native program answers it as it likes.
async fn probe(
    upstream: &Arc<Upstream>,
    target: &Target,
    protocol: Protocol,
    addresses: &AddressRules,
) -> io::Result<()> {
    match timeout(PROBE_TIME_MAX, upstream.answers(target, protocol, addresses)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}
