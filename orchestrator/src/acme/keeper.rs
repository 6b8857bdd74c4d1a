use std::{convert::Infallible, path::PathBuf};

use instant_acme::Account;
use spec::{HostName, SecretValue, Tenant, Timestamp, wire::HttpChallenge};
use store::Txn;
use tokio::time::{interval, sleep, timeout};

use super::{
    AcmeConfig, account,
    due::{Budget, Due, due, next_try},
    error::OrderError,
    order::{Begun, Issued},
    web::BusyUntil,
};
use crate::{
    limits::{
        ACME_ERROR_CHARS_MAX, ACME_LOOK_EVERY, ACME_ORDER_TIME_MAX, ACME_SETTLE_TIME,
        ACME_SPREAD_TIME_MAX, CERTIFICATES_MAX, WRITE_TRIES_MAX,
    },
    plan::NodeWatch,
    state::{
        State,
        chain::Chain,
        issuer::Issuer,
        keys, now,
        objects::Certificate,
        orders::OrderRecord,
        records::{CertificateRecord, Guarded, Stored},
    },
};

/// Places the orders that are due, one after the other.
pub(crate) struct Keeper<'a> {
    pub state: &'a State,
    pub node_watch: &'a NodeWatch,
    pub issuer: &'a Issuer,
    pub config: AcmeConfig,
    /// Where the account is kept.
    pub folder: PathBuf,
}

/// What is known from one order to the next.
#[derive(Default)]
struct Known {
    account: Option<Account>,
    budget: Budget,
    /// Failures in a row that were not those of one host, and until when nothing is tried for them.
    failures: u32,
    paused_until: Option<Timestamp>,
    busy_until: BusyUntil,
}

impl Keeper<'_> {
    pub async fn run(self) -> Infallible {
        let (mut known, mut look) = (Known::default(), interval(ACME_LOOK_EVERY));
        loop {
            look.tick().await;
            if let Err(error) = self.tidy().await {
                tracing::warn!(?error, "cannot remove orders that nothing needs any more");
            }
            while let Some(due) = self.next(&mut known) {
                known.budget.spend(&due.tenant, now());
                if let Err(error) = self.place(&due, &mut known).await {
                    tracing::error!(?error, "cannot write what became of an order");
                    break;
                }
            }
        }
    }

    /// The next order that may be placed now.
    fn next(&self, known: &mut Known) -> Option<Due> {
        let now = now();
        let is_ahead = |at: Option<Timestamp>| at.is_some_and(|at| at > now);
        if is_ahead(*known.busy_until.read()) {
            return None;
        }
        let operator = &self.node_watch.names.operator;
        let due = due(&self.state.model(), operator, &mut known.budget, now)?;
        // What a client has asked for just now, it wants to see tried.
        (due.record.requested || !is_ahead(known.paused_until)).then_some(due)
    }

    async fn place(&self, due: &Due, known: &mut Known) -> Result<(), store::Error> {
        let (host, name) = (&due.record.order.host, &due.record.order.certificate);
        tracing::info!(%host, certificate = %name, "asking for a certificate");
        let issued = timeout(ACME_ORDER_TIME_MAX, self.issue(due, known)).await;
        let kept = match issued.unwrap_or(Err(OrderError::Undecided)) {
            Ok(issued) => self.keep(due, issued).await?,
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => {
                tracing::info!(%host, certificate = %name, "has a certificate");
                (known.failures, known.paused_until) = (0, None);
            }
            Err(error) => {
                let (sentence, hint) = (error.sentence(), error.hint());
                tracing::warn!(%host, error = sentence, hint, "there is no certificate");
                if error.is_of_all() {
                    known.account = None;
                    known.failures = known.failures.saturating_add(1);
                    known.paused_until = Some(next_try(known.failures, now()));
                }
                self.note_failure(due, sentence, hint).await?;
            }
        }
        Ok(())
    }

    async fn issue(&self, due: &Due, known: &mut Known) -> Result<Issued, OrderError> {
        let host = &due.record.order.host;
        let begun = match Begun::with(&self.account(known).await?, host).await {
            // The authority has forgotten it: another one is as good.
            Err(error) if error.is_lost_account() => {
                account::forget(&self.folder).await?;
                known.account = None;
                Begun::with(&self.account(known).await?, host).await
            }
            begun => begun,
        };
        let mut begun = begun?;
        if let Some(challenge) = begun.challenge().await? {
            self.publish(due, challenge).await?;
            begun.prove().await?;
        }
        begun.finish().await
    }

    async fn account(&self, known: &mut Known) -> Result<Account, OrderError> {
        if let Some(account) = &known.account {
            return Ok(account.clone());
        }
        let opened = account::open(&self.config, &self.folder, known.busy_until.clone()).await;
        let opened = opened.map_err(|error| OrderError::Account(Box::new(error)))?;
        Ok(known.account.insert(opened).clone())
    }

    /// Has every ingress that can be reached answer `challenge`.
    async fn publish(&self, due: &Due, challenge: HttpChallenge) -> Result<(), OrderError> {
        let written =
            self.change(due, |record| OrderRecord { challenge: Some(challenge.clone()), ..record });
        written.await.map_err(|error| OrderError::Kept(error.into()))?;
        // The authority may ask any of them. One that does not listen now answers as before.
        let _ = timeout(ACME_SPREAD_TIME_MAX, self.told()).await;
        sleep(ACME_SETTLE_TIME).await;
        Ok(())
    }

    /// Until every node that is connected has the routes as they are now.
    async fn told(&self) {
        loop {
            let nodes: Vec<_> = {
                let model = self.state.model();
                let away = self.state.reports.disconnected(model.nodes.keys());
                model.nodes.values().filter(|node| !away.contains(&node.id)).cloned().collect()
            };
            if nodes.iter().all(|node| self.node_watch.has_newest(node)) {
                return;
            }
            sleep(ACME_SETTLE_TIME / 5).await;
        }
    }

    /// Puts the certificate in the place of the one before, and ends the order.
    async fn keep(
        &self,
        due: &Due,
        issued: Issued,
    ) -> Result<Result<(), OrderError>, store::Error> {
        let Due { tenant, record } = due;
        let (host, name) = (&record.order.host, &record.order.certificate);
        let (at, order) = (keys::host_certificate(tenant, name), keys::order(tenant, host));
        let Issued { chain_pem, key_pem, chain } = issued;
        let Chain { hosts, issuer, not_before, not_after, fingerprint } = chain;
        let Ok(key) = SecretValue::new(key_pem.into_bytes()) else {
            return Ok(Err(OrderError::Kept("the key is too long".into())));
        };
        let sealed = self.issuer.certificate_seal.close(tenant, name, &key);
        let certificate = Certificate {
            name: name.clone(),
            hosts,
            issuer,
            not_before,
            not_after,
            fingerprint,
            uploaded: now(),
            acme: true,
        };
        let written = CertificateRecord { certificate, chain_pem, sealed };
        for _ in 0..WRITE_TRIES_MAX {
            let before = self.state.get::<CertificateRecord>(at.clone()).await?;
            let own = self.state.model().certificates.keys().filter(|(of, _)| of == tenant).count();
            if before.is_none() && own >= CERTIFICATES_MAX {
                return Ok(Err(OrderError::Full));
            }
            let rev = before.map_or(0, |before| before.mod_rev);
            let txn = Txn::new().when(self.state.epoch.fence()).update(at.clone(), rev, &written);
            if self.state.commit_and_follow(txn.delete(order.clone())).await? {
                return Ok(Ok(()));
            }
        }
        Ok(Err(OrderError::Kept("it was modified concurrently".into())))
    }

    async fn note_failure(
        &self,
        due: &Due,
        sentence: String,
        hint: Option<String>,
    ) -> Result<(), store::Error> {
        let error: String = sentence.chars().take(ACME_ERROR_CHARS_MAX).collect();
        self.change(due, |mut record| {
            record.order.tried = Some(now());
            record.order.failures = record.order.failures.saturating_add(1);
            record.order.next = next_try(record.order.failures, now());
            (record.order.error, record.order.hint) = (Some(error.clone()), hint.clone());
            OrderRecord { requested: false, challenge: None, ..record }
        })
        .await
    }

    /// Writes the order as `change` makes it, while its host is still that of its tenant.
    async fn change(
        &self,
        due: &Due,
        change: impl Fn(OrderRecord) -> OrderRecord + Send,
    ) -> Result<(), store::Error> {
        let Due { tenant, record } = due;
        let key = keys::order(tenant, &record.order.host);
        for _ in 0..WRITE_TRIES_MAX {
            let stored: Option<Stored<OrderRecord>> = self.state.get(key.clone()).await?;
            let (before, rev) =
                stored.map_or((record.clone(), 0), |stored| (stored.value, stored.mod_rev));
            let txn = Txn::new().when(self.state.epoch.fence());
            let written =
                self.state.commit_and_follow(txn.update(key.clone(), rev, &change(before)));
            if written.await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes orders of hosts that their tenant has no more, and certificates that were ordered
    /// for such hosts and have expired.
    async fn tidy(&self) -> Result<(), store::Error> {
        let now = now();
        let (orders, certificates) = {
            let model = self.state.model();
            let has = |tenant: &Tenant, host: &HostName| {
                model.hosts.get(host).is_some_and(|claim| claim.tenant == *tenant)
            };
            let orders = model.orders.keys().filter(|(tenant, host)| !has(tenant, host));
            let orders: Vec<_> =
                orders.map(|(tenant, host)| keys::order(tenant, host)).take(TIDIED_MAX).collect();
            let certificates = model.certificates.iter().filter(|((tenant, _), certificate)| {
                let is_used = certificate.hosts.iter().any(|host| has(tenant, host));
                certificate.acme && certificate.not_after <= now && !is_used
            });
            let certificates =
                certificates.map(|((tenant, name), _)| keys::host_certificate(tenant, name));
            (orders, certificates.take(TIDIED_MAX).collect::<Vec<_>>())
        };
        for key in orders.into_iter().chain(certificates) {
            self.state.commit(Txn::new().when(self.state.epoch.fence()).delete(key)).await?;
        }
        Ok(())
    }
}

/// At one look; what is left goes at the next.
const TIDIED_MAX: usize = 50;
