//! The broker: it runs in the supervisor, resolves names, checks the grant, connects, and hands the
//! connected socket over. A worker has no network of its own, so what the broker does not connect
//! stays unconnected.

mod outbound; // whether a connection is granted
mod learned; // what was connected to, for a role that grants no more
mod own_addresses; // the addresses of this machine
mod services; // names inside the platform
mod native; // connections of programs that speak for themselves
mod local; // ports of the other containers of a task
mod addresses; // which addresses may be connected to, with two keys for internal ones

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use spec::{Host, OutboundGrant};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    frame::{Refusal, SchemeName, Target},
    limits::{
        ADDRESSES_MAX, ATTEMPT_TIME_MAX, CONNECT_TIME_MAX, CONNECTING_MAX,
        CONNECTING_PER_TENANT_MAX, RESOLVING_MAX, RESOLVING_PER_TENANT_MAX,
    },
};
use learned::Learned;
use outbound::{Allowed, line_for};

pub use addresses::AddressRules;
pub use local::LocalPorts;
pub(crate) use outbound::decide;
pub use services::{DOMAIN as SERVICES_DOMAIN, NotConnected, Services};

/// Connects guests to what they were granted. Cheap to clone; one per agent.
#[derive(Debug, Clone)]
pub struct Broker {
    addresses: AddressRules,
    all: Arc<Permits>,
    tenant: Arc<Permits>,
    tenants: Arc<Mutex<HashMap<String, Weak<Permits>>>>,
    time_max: Duration,
    /// What a container reaches on its own loopback.
    local: LocalPorts,
    services: Option<Arc<dyn Services>>,
    learned: Option<Learned>,
    /// Whose guests it connects.
    owner: Arc<str>,
}

/// What may be under way at once, for a tenant or for all.
#[derive(Debug)]
struct Permits {
    connecting: Arc<Semaphore>,
    resolving: Arc<Semaphore>,
}

impl Permits {
    fn new(connecting: usize, resolving: usize) -> Arc<Self> {
        let permits = |n| Arc::new(Semaphore::new(n));
        Arc::new(Self { connecting: permits(connecting), resolving: permits(resolving) })
    }

    fn of_tenant() -> Arc<Self> {
        Self::new(CONNECTING_PER_TENANT_MAX, RESOLVING_PER_TENANT_MAX)
    }
}

impl Broker {
    /// A broker on a node that opens `private` (addresses and networks) to grants that say
    /// `;private`: the second of the two keys. With nothing in it, loopback, link-local and
    /// internal addresses and those of the machine itself are out of reach whatever a grant says.
    pub fn new(private: impl IntoIterator<Item = Host>) -> Self {
        Self {
            addresses: AddressRules::new(private),
            all: Permits::new(CONNECTING_MAX, RESOLVING_MAX),
            tenant: Permits::of_tenant(),
            tenants: Arc::default(),
            time_max: CONNECT_TIME_MAX,
            services: None,
            local: LocalPorts::default(),
            learned: None,
            owner: spec::OPERATOR.into(),
        }
    }

    /// The same broker on a node of a platform, whose services have names there.
    #[must_use]
    pub fn with_services(self, services: Arc<dyn Services>) -> Self {
        Self { services: Some(services), ..self }
    }

    /// The same broker for a run that shows what its role needs: it connects to every host but
    /// internal addresses, which take their two keys here too, and remembers them.
    #[must_use]
    pub fn learning(self) -> Self {
        Self { learned: Some(Learned::default()), ..self }
    }

    /// The lines that grant what its guests were connected to, where it learns.
    pub fn learned(&self) -> Option<Vec<String>> {
        self.learned.as_ref().map(Learned::lines)
    }

    /// The same broker for one container, which reaches ports of the others of its task as its own.
    #[must_use]
    pub fn with_local_ports(self, local: LocalPorts) -> Self {
        Self { local, ..self }
    }

    /// The same broker for the workers of `tenant`, which share one part of what may be under way:
    /// no tenant keeps the others from connecting.
    #[must_use]
    pub fn of(&self, tenant: &str) -> Self {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let share = tenants.get(tenant).and_then(Weak::upgrade).unwrap_or_else(|| {
            tenants.retain(|_, share| share.strong_count() > 0);
            let fresh = Permits::of_tenant();
            tenants.insert(tenant.to_owned(), Arc::downgrade(&fresh));
            fresh
        });
        Self { tenant: share, owner: tenant.into(), ..self.clone() }
    }

    pub(crate) async fn connect(
        &self,
        grants: &[OutboundGrant],
        target: &Target,
    ) -> Result<OwnedFd, Refusal> {
        let allowed = match (decide(grants, target), &self.learned) {
            (Err(Refusal::Denied { .. }), Some(_)) => Allowed { private: false },
            (decided, _) => decided?,
        };
        if let Some(path) = self.local.path(target) {
            return local::connect(path, target).await;
        }
        let connected = async {
            // In this order: a tenant that waits for its own share holds nothing of the others'.
            let _tenant = permit(&self.tenant.connecting).await?;
            let _all = permit(&self.all.connecting).await?;
            if services::is_internal(&target.host) {
                return self.connect_inside(target).await;
            }
            let addresses = self.resolve(target).await?;
            let open = self.reachable(&addresses, allowed, target)?;
            self.dial(&open, allowed, target).await
        };
        let late =
            || Refusal::Unreachable { why: format!("`{}` did not answer in time", target.host) };
        let connected = timeout(self.time_max, connected).await.unwrap_or_else(|_| Err(late()))?;
        if let Some(learned) = &self.learned {
            learned.add(target, allowed);
        }
        Ok(connected)
    }

    /// Names inside the platform are not resolved, here or elsewhere: no answer of a resolver leads
    /// a guest to an internal address.
    async fn connect_inside(&self, target: &Target) -> Result<OwnedFd, Refusal> {
        let Some(services) = &self.services else { return Err(Refusal::NoSuchName) };
        if target.scheme != SchemeName::Http {
            let why = "services speak plain HTTP inside the platform".to_owned();
            return Err(Refusal::Unreachable { why });
        }
        let connected = services.connect(&self.owner, &target.host, target.port).await;
        connected.map_err(|error| match error {
            NotConnected::NoSuchService => Refusal::NoSuchName,
            NotConnected::Unreachable(why) => Refusal::Unreachable { why },
        })
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        if let Ok(address) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, target.port)]);
        }
        let tenant = permit(&self.tenant.resolving).await?;
        let all = permit(&self.all.resolving).await?;
        let name = (target.host.clone(), target.port);
        let looked_up = tokio::task::spawn_blocking(move || {
            let addresses = name.to_socket_addrs();
            let addresses = addresses.map(|all| all.take(ADDRESSES_MAX).collect::<Vec<_>>());
            // Only now: the request may be long gone, and this thread was still taken.
            drop((tenant, all));
            addresses
        });
        looked_up.await.ok().and_then(Result::ok).ok_or(Refusal::NoSuchName)
    }

    /// The addresses that are not off limits. Resolved once: what was checked is what is dialled.
    fn reachable(
        &self,
        addresses: &[SocketAddr],
        allowed: Allowed,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let mut why = None;
        let open: Vec<SocketAddr> = addresses
            .iter()
            .copied()
            .filter(|address| match self.addresses.refusal(address.ip(), allowed.private) {
                None => true,
                Some(reason) => {
                    why = Some(reason);
                    false
                }
            })
            .collect();
        match (open.is_empty(), why) {
            (true, Some(why)) => Err(refused(target, allowed, why)),
            (true, None) => Err(Refusal::NoSuchName),
            (false, _) => Ok(open),
        }
    }

    async fn dial(
        &self,
        addresses: &[SocketAddr],
        allowed: Allowed,
        target: &Target,
    ) -> Result<OwnedFd, Refusal> {
        let mut why = String::new();
        for address in addresses {
            let connected = self.addresses.connect(*address, allowed.private);
            match timeout(ATTEMPT_TIME_MAX, connected).await {
                // Without a number it is not the kernel's.
                Ok(Err(error))
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && error.raw_os_error().is_none() =>
                {
                    return Err(refused(target, allowed, error.to_string()));
                }
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    match stream.into_std() {
                        Ok(stream) => return Ok(stream.into()),
                        Err(error) => why = error.to_string(),
                    }
                }
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = "no answer in 3 s".to_owned(),
            }
        }
        Err(Refusal::Unreachable { why })
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new([])
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    // It is never closed.
    semaphore.clone().acquire_owned().await.map_err(|_| Refusal::Busy)
}

fn refused(target: &Target, allowed: Allowed, why: String) -> Refusal {
    let line = format!("{};private", line_for(target));
    Refusal::Forbidden { line, why, granted: allowed.private }
}

#[cfg(test)]
mod tests {
    use super::{
        outbound::tests::{grants, target},
        *,
    };

    #[tokio::test]
    async fn a_broker_that_learns_opens_every_host_but_internal_ones_and_names_them() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let granted = grants(&[&format!("net.out:http://127.0.0.1:{port};private")]);
        let loopback = grants(&["net.out:http://127.0.0.0/8"]).remove(0).host;
        let inside = target("127.0.0.1", port);

        let broker = Broker::new([loopback]).learning().of("ann");
        let refused = broker.connect(&[], &inside).await.unwrap_err();
        assert!(matches!(refused, Refusal::Forbidden { granted: false, .. }), "{refused:?}");
        let unknown = broker.connect(&[], &target("cats.invalid", 80)).await.unwrap_err();
        assert_eq!(unknown, Refusal::NoSuchName, "which is not that nothing grants it");
        assert_eq!(broker.learned(), Some(Vec::new()), "what was not reached is not learned");

        broker.connect(&granted, &inside).await.unwrap();
        broker.connect(&granted, &inside).await.unwrap();
        assert_eq!(broker.learned(), Some(vec![granted[0].to_string()]));
        assert_eq!(Broker::default().learned(), None);
    }

    #[tokio::test]
    async fn an_internal_address_takes_two_keys() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let one_key = format!("net.out:http://127.0.0.1:{port}");
        let loopback = || grants(&["net.out:http://127.0.0.0/8"]).remove(0).host;
        for (grant, key, reached) in [
            (one_key.clone(), false, false),
            (one_key.clone(), true, false),
            (format!("{one_key};private"), false, false),
            (format!("{one_key};private"), true, true),
        ] {
            let broker = Broker::new(key.then(loopback));
            let got = broker.connect(&grants(&[&grant]), &target("127.0.0.1", port)).await;
            assert_eq!(
                got.is_ok(),
                reached,
                "{grant} on a node that opens loopback: {key}: {got:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_the_machine_itself_is_refused_after_resolution() {
        let held = grants(&["net.out:http://localhost:80"]);
        let got = Broker::default().connect(&held, &target("localhost", 80)).await;
        assert!(matches!(got, Err(Refusal::Forbidden { .. })), "{got:?}");
    }

    fn public(host: &str) -> (OutboundGrant, Target) {
        (grants(&[&format!("net.out:http://{host}:80")]).remove(0), target(host, 80))
    }

    #[test]
    fn an_address_of_the_machine_itself_takes_two_keys() {
        let own = ["8.8.8.8", "2606:4700::1"];
        let with = |opened: &[&str]| Broker {
            addresses: AddressRules::of_machine(&own, opened),
            ..Broker::default()
        };
        let broker = with(&[]);
        let (_, target) = public("example.com");
        let addresses = |texts: &[&str]| {
            texts.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 80)).collect::<Vec<_>>()
        };
        let allowed = Allowed { private: true };
        for own in ["8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1"] {
            let got = broker.reachable(&addresses(&[own]), allowed, &target);
            assert!(matches!(got, Err(Refusal::Forbidden { .. })), "{own}: {got:?}");
        }
        let open = broker.reachable(&addresses(&["8.8.8.8", "1.1.1.1"]), allowed, &target);
        assert_eq!(open, Ok(addresses(&["1.1.1.1"])));
        let opened = with(&["8.8.8.8"]);
        assert!(opened.reachable(&addresses(&["8.8.8.8"]), allowed, &target).is_ok());
        assert!(
            opened
                .reachable(&addresses(&["8.8.8.8"]), Allowed { private: false }, &target)
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_connection_that_ends_on_the_machine_itself_is_refused_after_connecting() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_, target) = public("example.com");
        // As if the address had come up after the check.
        let got = Broker::default().dial(&[address], Allowed { private: true }, &target).await;
        assert!(matches!(got, Err(Refusal::Forbidden { .. })), "{got:?}");
    }

    #[tokio::test]
    async fn one_tenant_cannot_take_the_permits_of_the_others() {
        let broker = Broker::default();
        let (one, again, other) = (broker.of("one"), broker.of("one"), broker.of("other"));
        let held = one
            .tenant
            .connecting
            .clone()
            .acquire_many_owned(CONNECTING_PER_TENANT_MAX as u32)
            .await
            .unwrap();
        let (grant, target) = public("127.0.0.1");
        let waiting = Broker { time_max: Duration::from_millis(50), ..again.clone() };
        let late = waiting.connect(std::slice::from_ref(&grant), &target).await.unwrap_err();
        assert!(matches!(late, Refusal::Unreachable { .. }), "it waits for its turn: {late:?}");
        let denied = again.connect(&[], &target).await.unwrap_err();
        assert!(
            matches!(denied, Refusal::Denied { .. }),
            "what is not granted takes no permit: {denied:?}"
        );
        let got = other.connect(&[grant], &target).await.unwrap_err();
        assert!(matches!(got, Refusal::Forbidden { .. }), "{got:?}");
        drop(held);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_ends_at_the_one_deadline() {
        let broker = Broker { time_max: Duration::from_millis(20), ..Broker::default() };
        let _lookups = broker
            .tenant
            .resolving
            .clone()
            .acquire_many_owned(RESOLVING_PER_TENANT_MAX as u32)
            .await
            .unwrap();
        let (grant, target) = public("example.com");
        let got = broker.connect(&[grant], &target).await.unwrap_err();
        assert!(matches!(got, Refusal::Unreachable { .. }), "{got:?}");
        assert_eq!(
            broker.all.connecting.available_permits(),
            CONNECTING_MAX,
            "and gives its permit back"
        );
    }

    /// Two services of one tenant, of which one cannot be reached.
    #[derive(Debug)]
    struct FakeServices;

    impl Services for FakeServices {
        fn connect<'a>(
            &'a self,
            tenant: &'a str,
            host: &'a str,
            _port: u16,
        ) -> futures_util::future::BoxFuture<'a, Result<OwnedFd, NotConnected>> {
            Box::pin(async move {
                match (tenant, host) {
                    ("ann", "cats.main.internal") => {
                        Ok(std::os::unix::net::UnixStream::pair().unwrap().0.into())
                    }
                    ("ann", "dogs.main.internal") => {
                        Err(NotConnected::Unreachable("no replica".to_owned()))
                    }
                    _ => Err(NotConnected::NoSuchService),
                }
            })
        }
    }

    #[tokio::test]
    async fn a_name_inside_takes_a_grant_and_reaches_services_of_the_same_tenant_alone() {
        let cats = "net.out:http://cats.main.internal:80";
        let platform = || Broker::default().with_services(Arc::new(FakeServices));
        for (broker, grant, host, want) in [
            (platform().of("ann"), cats, "cats.main.internal", None),
            (platform().of("bob"), cats, "cats.main.internal", Some(Refusal::NoSuchName)),
            (Broker::default(), cats, "cats.main.internal", Some(Refusal::NoSuchName)),
            (
                platform().of("ann"),
                "net.out:http://example.com:80",
                "cats.main.internal",
                Some(Refusal::Denied { line: cats.to_owned() }),
            ),
            (
                platform().of("ann"),
                "net.out:http://*.main.internal:80",
                "dogs.main.internal",
                Some(Refusal::Unreachable { why: "no replica".to_owned() }),
            ),
        ] {
            let got = broker.connect(&grants(&[grant]), &target(host, 80)).await;
            assert_eq!(got.err(), want, "{grant} {host}");
        }
        let target = Target { scheme: SchemeName::Https, ..target("cats.main.internal", 80) };
        let https = grants(&["net.out:https://cats.main.internal:80"]);
        let got = platform().of("ann").connect(&https, &target).await;
        assert!(matches!(got, Err(Refusal::Unreachable { .. })), "{got:?}");
    }
}
