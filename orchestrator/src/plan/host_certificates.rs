use std::collections::{BTreeMap, BTreeSet};

use spec::{HostName, Tenant, wire::RouteCertificate};

use crate::state::{model::Model, objects::Certificate};

/// Which certificate clients of which names are shown: only names of which some service answers
/// for a host.
#[derive(Debug, Default)]
pub(crate) struct HostCertificates<'a> {
    /// By the name in the certificate.
    best: BTreeMap<&'a HostName, (&'a Tenant, &'a Certificate)>,
}

/// The hosts of one tenant that are served.
#[derive(Debug, Default)]
struct Served<'a> {
    hosts: BTreeSet<&'a str>,
    parents: BTreeSet<&'a str>,
}

impl<'a> Served<'a> {
    fn add(&mut self, host: &'a str) {
        self.hosts.insert(host);
        self.parents.extend(host.split_once('.').map(|(_, parent)| parent));
    }

    fn has(&self, name: &HostName) -> bool {
        match name.as_str().strip_prefix("*.") {
            Some(parent) => self.parents.contains(parent),
            None => {
                let is_one_of = |(_, parent): (&str, &str)| {
                    let wildcard = format!("*.{parent}");
                    self.hosts.contains(wildcard.as_str())
                };
                self.hosts.contains(name.as_str())
                    || name.as_str().split_once('.').is_some_and(is_one_of)
            }
        }
    }
}

impl<'a> HostCertificates<'a> {
    /// `generated` are the names that services and tasks of each tenant have by themselves. A
    /// certificate of a tenant is shown for its own hosts, one of the `operator` for every host; of
    /// two for one name that of the tenant which has the host, and of two of one tenant the one
    /// that is good for longer.
    pub fn of(
        model: &'a Model,
        operator: &Tenant,
        generated: impl Iterator<Item = (&'a Tenant, &'a str)>,
    ) -> Self {
        let mut all = Served::default();
        let mut by_tenant: BTreeMap<&Tenant, Served<'a>> = BTreeMap::new();
        let claimed = model.hosts.values().map(|claim| (&claim.tenant, claim.host.as_str()));
        for (tenant, host) in generated.chain(claimed) {
            all.add(host);
            by_tenant.entry(tenant).or_default().add(host);
        }
        let mut best: BTreeMap<&HostName, (&Tenant, &Certificate)> = BTreeMap::new();
        for ((tenant, _), certificate) in &model.certificates {
            let is_operator = tenant == operator;
            let served = if is_operator { Some(&all) } else { by_tenant.get(tenant) };
            let names = certificate.hosts.iter();
            for name in names.filter(|name| served.is_some_and(|served| served.has(name))) {
                let rank = |tenant: &Tenant, certificate: &Certificate| {
                    (tenant != operator, certificate.not_after)
                };
                let known = best.get(name).map(|(owner, known)| rank(owner, known));
                if known.is_none_or(|known| known < rank(tenant, certificate)) {
                    best.insert(name, (tenant, certificate));
                }
            }
        }
        Self { best }
    }

    /// Each name with the tenant whose certificate it is.
    pub fn shown(&self) -> impl Iterator<Item = (&'a Tenant, HostName, RouteCertificate)> {
        self.best.iter().map(|(name, (tenant, certificate))| {
            let shown = RouteCertificate {
                tenant: (*tenant).clone(),
                name: certificate.name.clone(),
                fingerprint: certificate.fingerprint.clone(),
            };
            (*tenant, (*name).clone(), shown)
        })
    }
}

#[cfg(test)]
mod tests {
    use spec::Timestamp;

    use super::*;
    use crate::state::hosts::HostClaim;

    fn certificate(name: &str, hosts: &[&str], days: u64) -> Certificate {
        Certificate {
            name: name.parse().unwrap(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            issuer: String::new(),
            not_before: Timestamp::from_millis(0),
            not_after: Timestamp::from_millis(days * 86_400_000),
            fingerprint: "ab".repeat(32),
            uploaded: Timestamp::from_millis(0),
            acme: false,
        }
    }

    #[test]
    fn a_certificate_is_shown_for_hosts_that_are_served_and_that_its_tenant_has() {
        let mut model = Model::default();
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        for (owner, certificate) in [
            ("me", certificate("all", &["*.apps.example", "shop.example", "unused.example"], 90)),
            ("ann", certificate("old", &["shop.example", "*.shop.example"], 10)),
            ("ann", certificate("new", &["shop.example"], 20)),
            ("bob", certificate("stolen", &["shop.example", "bob.example"], 99)),
        ] {
            model.certificates.insert((tenant(owner), certificate.name.clone()), certificate);
        }
        for (owner, host) in
            [("ann", "shop.example"), ("ann", "*.shop.example"), ("bob", "bob.example")]
        {
            let host: HostName = host.parse().unwrap();
            model.hosts.insert(host.clone(), HostClaim::new(host, tenant(owner)));
        }
        let generated = [(tenant("me"), "web.apps.example".to_owned())];
        let generated = generated.iter().map(|(tenant, host)| (tenant, host.as_str()));
        let me = tenant("me");
        let shown = HostCertificates::of(&model, &me, generated);
        let shown: Vec<_> = shown
            .shown()
            .map(|(owner, host, shown)| format!("{host} {owner}/{}", shown.name))
            .collect();
        let want = [
            "*.apps.example me/all",
            "*.shop.example ann/old",
            "bob.example bob/stolen",
            "shop.example ann/new",
        ];
        assert_eq!(shown, want);
    }
}
