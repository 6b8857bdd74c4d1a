//! Replicas that do not answer are left out until they do. A request that waits raises the
//! suspicion; a probe that no guest sees tells a replica that is slow from one that is frozen or
//! cut off. Where another ingress leads to the replica it carries the probe on, so that a frozen
//! replica and a frozen node are told apart.

use std::{
    future::pending,
    io,
    sync::{Arc, Weak},
};

use runtime::AddressRules;
use tokio::time::{Instant, sleep, timeout};

use super::{
    answering::Answering,
    limits::{
        ANSWERED_JUST_NOW, HOP_PROBE_TIME_MAX, PROBE_AGAIN_EVERY, PROBE_TIME_MAX, SILENT_TIME_MAX,
    },
    table::Replica,
    upstream::{Answer, Probed, Upstream},
};

/// Ready when `replica` is ejected. While a request waits for it, here from `waited` on, it is
/// probed whenever it has answered nothing for a while.
pub(super) async fn ejected(
    replica: &Replica,
    waited: Instant,
    upstream: &Arc<Upstream>,
    addresses: &AddressRules,
) {
    let answering = &replica.answering;
    loop {
        let changed = answering.changed.notified();
        let ingress_changed = replica.ingress.as_ref().map(|ingress| ingress.changed.notified());
        if replica.is_ejected() {
            return;
        }
        let silent = answering.silent_for().min(waited.elapsed());
        let left = SILENT_TIME_MAX.saturating_sub(silent);
        let pause = match (left.is_zero(), answering.probing.try_lock()) {
            (false, _) => left,
            (true, Err(_)) => PROBE_TIME_MAX, // another request has it probed
            (true, Ok(_probing)) => {
                probe_and_judge(replica, upstream, addresses).await;
                continue;
            }
        };
        let ingress_changed = async {
            match ingress_changed {
                Some(changed) => changed.await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = ingress_changed => {}
            () = sleep(pause) => {}
        }
    }
}

/// Whether a replica on this node answers, for another ingress that waits for it.
pub(super) async fn answers(
    replica: &Replica,
    upstream: &Arc<Upstream>,
    addresses: &AddressRules,
) -> bool {
    let is_heard = || replica.answering.silent_for() < ANSWERED_JUST_NOW;
    let judged = async {
        let _probing = replica.answering.probing.lock().await;
        if !replica.is_ejected() && !is_heard() {
            probe_and_judge(replica, upstream, addresses).await;
        }
    };
    timeout(HOP_PROBE_TIME_MAX, judged).await.is_ok() && !replica.is_ejected()
}

/// Leaves out what another ingress says is silent.
pub(super) fn eject(replica: &Replica, upstream: &Arc<Upstream>, addresses: &AddressRules) {
    leave_out(&replica.answering, Probed::replica(replica), upstream, addresses);
}

async fn probe_and_judge(replica: &Replica, upstream: &Arc<Upstream>, addresses: &AddressRules) {
    let answer = probe(upstream, &Probed::replica(replica), addresses).await;
    replica.answering.see();
    match answer {
        Ok(Answer::Answers) => {}
        Ok(Answer::ReplicaIsSilent) => eject(replica, upstream, addresses),
        Err(error) => {
            tracing::debug!(target = ?replica.target, %error, "no answer to a probe");
            match &replica.ingress {
                Some(ingress) => {
                    leave_out(ingress, Probed::ingress_of(replica), upstream, addresses);
                }
                None => eject(replica, upstream, addresses),
            }
        }
    }
}

/// Leaves out a replica, or an ingress and what is behind it.
fn leave_out(
    answering: &Arc<Answering>,
    probed: Probed,
    upstream: &Arc<Upstream>,
    addresses: &AddressRules,
) {
    if !answering.eject() {
        return; // probed already
    }
    tracing::warn!(?probed, "left out: it does not answer");
    let known = Arc::downgrade(answering);
    tokio::spawn(until_it_answers(known, upstream.clone(), probed, addresses.clone()));
}

/// Probes what was ejected, for as long as a route table has it.
async fn until_it_answers(
    known: Weak<Answering>,
    upstream: Arc<Upstream>,
    probed: Probed,
    addresses: AddressRules,
) {
    loop {
        sleep(PROBE_AGAIN_EVERY).await;
        let Some(known) = known.upgrade().filter(|known| known.is_ejected()) else { return };
        let answer = probe(&upstream, &probed, &addresses).await;
        if matches!(answer, Ok(Answer::Answers)) {
            known.answered();
            tracing::info!(?probed, "it answers again");
            return;
        }
    }
}

/// Whether anything at all comes back on a new connection. The request names no host: a worker and
/// an ingress refuse it themselves, and a native program answers it as it likes.
async fn probe(
    upstream: &Arc<Upstream>,
    probed: &Probed,
    addresses: &AddressRules,
) -> io::Result<Answer> {
    match timeout(PROBE_TIME_MAX, upstream.answers(probed, addresses)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}
