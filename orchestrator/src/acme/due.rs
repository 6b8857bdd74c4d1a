use std::{collections::VecDeque, time::Duration};

use spec::{HostName, Tenant, Timestamp};

use crate::{
    limits::{
        ACME_BACK_OFF_FIRST, ACME_BACK_OFF_MAX, ACME_ORDERS_PER_HOUR_MAX,
        ACME_ORDERS_PER_TENANT_AND_HOUR_MAX,
    },
    state::{
        model::Model,
        objects::Certificate,
        orders::{OrderRecord, certificate_name},
    },
};

/// A host that needs a certificate now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub tenant: Tenant,
    pub record: OrderRecord,
}

/// The orders of the last hour.
#[derive(Debug, Default)]
pub(super) struct Budget(VecDeque<(Timestamp, Tenant)>);

const HOUR: Duration = Duration::from_secs(3600);

impl Budget {
    pub fn spend(&mut self, tenant: &Tenant, now: Timestamp) {
        self.0.push_back((now, tenant.clone()));
    }

    fn forget_before(&mut self, now: Timestamp) {
        while self.0.front().is_some_and(|(at, _)| now.since(*at) >= HOUR) {
            self.0.pop_front();
        }
    }

    fn allows(&self, tenant: &Tenant) -> bool {
        let own = self.0.iter().filter(|(_, owner)| owner == tenant).count();
        self.0.len() < ACME_ORDERS_PER_HOUR_MAX && own < ACME_ORDERS_PER_TENANT_AND_HOUR_MAX
    }
}

/// The order to place now, if there is one: those that a client has asked for come first, then
/// those that have failed least, then those whose certificate ends first.
///
/// A host has an order when a service has it, when it can be proven by HTTP, and when it has no
/// certificate that is good for longer: neither one that was uploaded, nor one that was ordered.
pub(super) fn due(
    model: &Model,
    operator: &Tenant,
    budget: &mut Budget,
    now: Timestamp,
) -> Option<Due> {
    budget.forget_before(now);
    let claims = model.hosts.values().filter(|claim| is_public(&claim.host));
    let wanted = claims.filter_map(|claim| {
        let (tenant, host) = (&claim.tenant, &claim.host);
        let known = model.orders.get(&(tenant.clone(), host.clone()));
        let record = known.cloned().unwrap_or_else(|| OrderRecord::new(host.clone(), now));
        let ends = match needs(model, operator, tenant, host, now) {
            Some(ends) => ends,
            None if record.requested => Timestamp::from_millis(u64::MAX),
            None => return None,
        };
        let may = record.order.next <= now && budget.allows(tenant);
        may.then_some(((!record.requested, record.order.failures, ends), tenant, record))
    });
    let first = wanted.min_by(|(one, ..), (other, ..)| one.cmp(other));
    first.map(|(_, tenant, record)| Due { tenant: tenant.clone(), record })
}

/// When the certificate that `host` has ends, if it is time for another one.
fn needs(
    model: &Model,
    operator: &Tenant,
    tenant: &Tenant,
    host: &HostName,
    now: Timestamp,
) -> Option<Timestamp> {
    let uploaded = model.certificates.iter().any(|((owner, _), certificate)| {
        let is_shown = owner == tenant || owner == operator;
        is_shown && !certificate.acme && certificate.not_after > now && covers(certificate, host)
    });
    if uploaded {
        return None;
    }
    match model.certificates.get(&(tenant.clone(), certificate_name(host))) {
        Some(own) if own.acme => (renew_at(own) <= now).then_some(own.not_after),
        _ => Some(Timestamp::from_millis(0)),
    }
}

fn covers(certificate: &Certificate, host: &HostName) -> bool {
    let parent = host.as_str().split_once('.').map(|(_, parent)| parent);
    certificate.hosts.iter().any(|name| {
        name == host || name.as_str().strip_prefix("*.").is_some_and(|own| Some(own) == parent)
    })
}

/// Whether an authority can be asked for a certificate of `host`: wildcards are proven in DNS
/// alone, and names of a machine or of a private network nowhere.
pub(crate) fn is_public(host: &HostName) -> bool {
    const PRIVATE: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];
    !host.is_wildcard() && !PRIVATE.iter().any(|domain| host.is_within(domain))
}

/// When a certificate is renewed: from a third of its time before its end (a month at most) on, and
/// not all of them at once.
fn renew_at(certificate: &Certificate) -> Timestamp {
    let from = certificate.renew_from();
    let rest = u64::try_from(certificate.not_after.since(from).as_millis()).unwrap_or(0);
    let digits = certificate.fingerprint.get(..4).unwrap_or_default();
    let spread = u64::from_str_radix(digits, 16).unwrap_or(0);
    Timestamp::from_millis(from.millis() + rest / 10 * spread / 0xffff)
}

/// When an order that has failed so often is placed again.
pub(super) fn next_try(failures: u32, now: Timestamp) -> Timestamp {
    let doubled = ACME_BACK_OFF_FIRST * (1 << failures.saturating_sub(1).min(16));
    let wait = doubled.min(ACME_BACK_OFF_MAX).as_millis();
    Timestamp::from_millis(now.millis() + u64::try_from(wait).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::hosts::HostClaim;

    const DAY: u64 = 86_400_000;

    fn at(days: u64) -> Timestamp {
        Timestamp::from_millis(days * DAY)
    }

    fn certificate(name: &str, host: &str, acme: bool, until: u64) -> Certificate {
        Certificate {
            name: name.parse().unwrap(),
            hosts: vec![host.parse().unwrap()],
            issuer: String::new(),
            not_before: at(0),
            not_after: at(until),
            fingerprint: "ffff".repeat(16),
            uploaded: at(0),
            acme,
        }
    }

    fn model(hosts: &[(&str, &str)], certificates: &[(&str, Certificate)]) -> Model {
        let mut model = Model::default();
        for (owner, host) in hosts {
            let host: HostName = host.parse().unwrap();
            model.hosts.insert(host.clone(), HostClaim::new(host, owner.parse().unwrap()));
        }
        for (owner, certificate) in certificates {
            let key = (owner.parse().unwrap(), certificate.name.clone());
            model.certificates.insert(key, certificate.clone());
        }
        model
    }

    fn next(model: &Model, day: u64) -> Option<String> {
        let me: Tenant = "me".parse().unwrap();
        let due = due(model, &me, &mut Budget::default(), at(day));
        due.map(|due| format!("{}/{}", due.tenant, due.record.order.host))
    }

    #[test]
    fn a_host_without_a_good_certificate_has_an_order() {
        let ann = |host| [("ann", host)];
        let shop = ("ann", certificate("acme-shop-example", "shop.example", true, 90));
        for (what, hosts, certificates, day, want) in [
            ("none", ann("shop.example"), vec![], 1, true),
            ("a wildcard cannot be proven", ann("*.shop.example"), vec![], 1, false),
            ("no authority knows this machine", ann("shop.localhost"), vec![], 1, false),
            ("nor a private network", ann("shop.corp.internal"), vec![], 1, false),
            ("one that was ordered", ann("shop.example"), vec![shop.clone()], 59, false),
            ("a third of its time is left", ann("shop.example"), vec![shop.clone()], 63, true),
            ("it has ended", ann("shop.example"), vec![shop.clone()], 91, true),
            (
                "one that was uploaded, however soon it ends",
                ann("shop.example"),
                vec![("ann", certificate("own", "shop.example", false, 90))],
                89,
                false,
            ),
            (
                "one that was uploaded and has ended",
                ann("shop.example"),
                vec![("ann", certificate("own", "shop.example", false, 90))],
                90,
                true,
            ),
            (
                "the wildcard of the operator",
                ann("a.shop.example"),
                vec![("me", certificate("all", "*.shop.example", false, 90))],
                1,
                false,
            ),
            (
                "the certificate of another tenant is not shown",
                ann("shop.example"),
                vec![("bob", certificate("own", "shop.example", false, 90))],
                1,
                true,
            ),
        ] {
            let next = next(&model(&hosts, &certificates), day);
            assert_eq!(next.is_some(), want, "{what}: {next:?}");
        }
    }

    #[test]
    fn an_order_that_fails_waits_longer_each_time_and_lets_others_go_first() {
        let mut model = model(&[("ann", "bad.example"), ("ann", "good.example")], &[]);
        let host: HostName = "bad.example".parse().unwrap();
        let mut record = OrderRecord::new(host.clone(), at(1));
        record.order.failures = 1;
        let key: (Tenant, HostName) = ("ann".parse().unwrap(), host);
        model.orders.insert(key.clone(), record.clone());
        assert_eq!(next(&model, 1).unwrap(), "ann/good.example");
        model.hosts.remove(&"good.example".parse::<HostName>().unwrap());
        assert_eq!(next(&model, 1).unwrap(), "ann/bad.example");
        record.order.next = at(2);
        model.orders.insert(key.clone(), record.clone());
        assert_eq!(next(&model, 1), None);
        // One that a client has asked for is placed although its certificate is good.
        let own = certificate("acme-bad-example", "bad.example", true, 90);
        model.certificates.insert(("ann".parse().unwrap(), own.name.clone()), own);
        assert_eq!(next(&model, 3), None);
        record.requested = true;
        model.orders.insert(key, record);
        assert_eq!(next(&model, 3).unwrap(), "ann/bad.example");

        let waits: Vec<u64> = [1, 2, 3, 5, 9, 40]
            .iter()
            .map(|failures| next_try(*failures, at(0)).millis() / 60_000)
            .collect();
        assert_eq!(waits, [2, 4, 8, 32, 360, 360]);
    }

    #[test]
    fn a_tenant_has_its_part_of_the_orders_of_an_hour() {
        let model = model(&[("ann", "a.example"), ("bob", "b.example")], &[]);
        let (me, ann, bob): (Tenant, Tenant, Tenant) =
            ("me".parse().unwrap(), "ann".parse().unwrap(), "bob".parse().unwrap());
        let (mut budget, minute) = (Budget::default(), Duration::from_secs(60));
        for _ in 0..ACME_ORDERS_PER_TENANT_AND_HOUR_MAX {
            assert_eq!(due(&model, &me, &mut budget, at(1)).unwrap().tenant, ann);
            budget.spend(&ann, at(1));
        }
        assert_eq!(due(&model, &me, &mut budget, at(1)).unwrap().tenant, bob);
        for _ in ACME_ORDERS_PER_TENANT_AND_HOUR_MAX..ACME_ORDERS_PER_HOUR_MAX {
            budget.spend(&me, at(1));
        }
        assert_eq!(due(&model, &me, &mut budget, at(1)), None);
        let later =
            |time: Duration| Timestamp::from_millis(at(1).millis() + time.as_millis() as u64);
        assert_eq!(due(&model, &me, &mut budget, later(HOUR - minute)), None);
        assert_eq!(due(&model, &me, &mut budget, later(HOUR)).unwrap().tenant, ann);
    }
}
