//! Services by their names inside the platform, `SERVICE.CLUSTER.internal`, for the guests of this
//! node: straight to a replica on it where there is one, else by its ingress, which knows the way
//! to the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use runtime::{NotConnected, SERVICES_DOMAIN, Services};
use spec::{
    NodeId, Protocol, RouteSettings, Tenant,
    wire::{Backend, RouteTable},
};
use tokio::{io::AsyncWriteExt as _, net::UnixStream, time::timeout};

use crate::ingress::{IngressFolder, inside_preface, named_inside, socket_name};

/// The port of every name inside.
const PORT: u16 = 80;
/// To a socket of this machine: one whose queue is full has more than it can do.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// The route table of this node, as guests see it.
#[derive(Debug)]
pub(super) struct ServiceNames {
    here: NodeId,
    folder: IngressFolder,
    known: RwLock<Known>,
    turn: AtomicUsize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    hosts: BTreeMap<String, Vec<Backend>>,
    /// Of these, those whose requests the ingress shares out between revisions, or counts.
    by_ingress: BTreeSet<String>,
    /// And those whose requests wait there for a first replica, with their tenants.
    woken: BTreeMap<String, Tenant>,
}

/// How a guest reaches a service.
#[derive(Debug, PartialEq, Eq)]
struct Way<'a> {
    /// Its replicas on this node.
    local: Vec<&'a Backend>,
    /// Whether the ingress knows more of them.
    is_elsewhere: bool,
}

impl ServiceNames {
    pub fn new(here: NodeId, folder: IngressFolder) -> Self {
        Self { here, folder, known: RwLock::default(), turn: AtomicUsize::new(0) }
    }

    pub fn replace(&self, routes: &RouteTable) {
        let is_shared =
            |settings: &RouteSettings| settings.counted || settings.newest_percent.is_some();
        let shared = routes.settings.iter().filter(|(_, settings)| is_shared(settings));
        let by_ingress = shared.map(|(host, _)| host.clone()).collect();
        let woken = routes.settings.iter().filter_map(|(host, settings)| {
            Some((host.clone(), settings.wakes.as_ref()?.tenant.clone()))
        });
        let woken = woken.collect();
        let fresh = Known { hosts: routes.hosts.clone(), by_ingress, woken };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Whether requests wait for a first replica of some service.
    pub fn wakes_any(&self) -> bool {
        !self.known.read().unwrap_or_else(PoisonError::into_inner).woken.is_empty()
    }

    /// The sockets of its replicas here, in the order in which to try them, and whether it has
    /// others.
    fn sockets(&self, tenant: &str, name: &str) -> Result<(Vec<String>, bool), NotConnected> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let way = way(&known, &self.here, tenant, name)?;
        let mut local: Vec<String> =
            way.local.iter().map(|one| socket_name(&one.tenant, &one.task, one.port())).collect();
        if !local.is_empty() {
            // A connection is one request of a guest: replicas take turns.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let count = local.len();
            local.rotate_left(turn % count);
        }
        Ok((local, way.is_elsewhere))
    }

    async fn reach(&self, tenant: &str, host: &str, port: u16) -> Result<OwnedFd, NotConnected> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let name = name.strip_suffix(SERVICES_DOMAIN).ok_or(NotConnected::NoSuchService)?;
        if port != PORT {
            let why = format!("`{host}` answers on port {PORT}");
            return Err(NotConnected::Unreachable(why));
        }
        let (local, is_elsewhere) = self.sockets(tenant, name)?;
        let mut why = format!("`{host}` has no replica that is ready");
        for socket in local {
            match connect(&self.folder.sockets().join(socket)).await {
                Ok(stream) => return descriptor(stream),
                Err(error) => why = format!("a replica of `{host}` takes no connection: {error}"),
            }
        }
        if !is_elsewhere {
            return Err(NotConnected::Unreachable(why));
        }
        let by_ingress = async {
            let mut stream = connect(&self.folder.inside()).await?;
            stream.write_all(&inside_preface(tenant)).await?;
            io::Result::Ok(stream)
        };
        match by_ingress.await {
            Ok(stream) => descriptor(stream),
            Err(error) => Err(NotConnected::Unreachable(format!(
                "the ingress of this node takes no connection for `{host}`: {error}"
            ))),
        }
    }
}

impl Services for ServiceNames {
    fn connect<'a>(
        &'a self,
        tenant: &'a str,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<OwnedFd, NotConnected>> {
        Box::pin(self.reach(tenant, host, port))
    }
}

async fn connect(path: &std::path::Path) -> io::Result<UnixStream> {
    match timeout(CONNECT_TIME_MAX, net::connect_unix(path)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn descriptor(stream: UnixStream) -> Result<OwnedFd, NotConnected> {
    let stream = stream.into_std().map_err(|error| NotConnected::Unreachable(error.to_string()))?;
    Ok(stream.into())
}

/// Where the replicas of `name`, which is `SERVICE.CLUSTER`, are.
fn way<'a>(
    Known { hosts, by_ingress, woken }: &'a Known,
    here: &NodeId,
    tenant: &str,
    name: &str,
) -> Result<Way<'a>, NotConnected> {
    if named_inside(woken, name, |owner| owner.as_str() == tenant).is_some() {
        return Ok(Way { local: Vec::new(), is_elsewhere: true });
    }
    let has_own =
        |backends: &Vec<Backend>| backends.iter().any(|backend| backend.tenant.as_str() == tenant);
    let Some((host, backends)) = named_inside(hosts, name, has_own) else {
        // A service without a replica has a host as well. The hosts of one tenant end alike, and
        // those of others are none of its business.
        let own = hosts.iter().find(|(_, backends)| has_own(backends));
        let end = own.and_then(|(host, _)| host.splitn(3, '.').nth(2));
        return match end.is_some_and(|end| hosts.contains_key(&format!("{name}.{end}"))) {
            true => {
                let why = format!("`{name}{SERVICES_DOMAIN}` has no replica that is ready");
                Err(NotConnected::Unreachable(why))
            }
            false => Err(NotConnected::NoSuchService),
        };
    };
    if by_ingress.contains(host) {
        return Ok(Way { local: Vec::new(), is_elsewhere: true });
    }
    let own = || backends.iter().filter(|backend| backend.tenant.as_str() == tenant);
    // A guest speaks HTTP/1, and the ingress whatever a replica speaks.
    let is_near = |backend: &&Backend| backend.node == *here && backend.protocol == Protocol::Http;
    let is_elsewhere = own().any(|backend| !is_near(&backend));
    Ok(Way { local: own().filter(is_near).collect(), is_elsewhere })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(node: &str, tenant: &str, task: &str) -> Backend {
        Backend {
            node: node.parse().unwrap(),
            tenant: tenant.parse().unwrap(),
            task: task.parse().unwrap(),
            container_port: 8080,
            newest: false,
            protocol: Protocol::Http,
        }
    }

    #[test]
    fn a_name_inside_leads_to_the_replicas_of_its_own_tenant() {
        let hosts = BTreeMap::from([
            (
                "cats.main.localhost".to_owned(),
                vec![backend("n1", "me", "a"), backend("n2", "me", "b")],
            ),
            ("cats.main.ann.localhost".to_owned(), vec![backend("n2", "ann", "c")]),
            ("dogs.main.ann.localhost".to_owned(), vec![backend("n1", "ann", "d")]),
            ("birds.main.ann.localhost".to_owned(), vec![backend("n1", "ann", "f")]),
            ("cats.main2.localhost".to_owned(), vec![backend("n1", "me", "e")]),
            ("asleep.main.localhost".to_owned(), Vec::new()),
            ("asleep.own.ann.localhost".to_owned(), Vec::new()),
        ]);
        let by_ingress = BTreeSet::from(["dogs.main.ann.localhost".to_owned()]);
        let woken = [("woken.main.ann.localhost".to_owned(), "ann".parse().unwrap())].into();
        let (known, here) = (Known { hosts, by_ingress, woken }, "n1".parse().unwrap());
        for (tenant, name, want) in [
            ("me", "cats.main", Ok((&["a"][..], true))),
            ("ann", "cats.main", Ok((&[][..], true))),
            ("ann", "birds.main", Ok((&["f"][..], false))),
            // Its requests are shared out between two revisions.
            ("ann", "dogs.main", Ok((&[][..], true))),
            ("me", "dogs.main", Err("none")),
            ("bob", "cats.main", Err("none")),
            ("me", "cats", Err("none")),
            ("me", "cats.mai", Err("none")),
            ("me", "ats.main", Err("none")),
            ("me", "", Err("none")),
            ("ann", "woken.main", Ok((&[][..], true))),
            ("me", "woken.main", Err("none")),
            ("me", "asleep.main", Err("no replica")),
            ("ann", "asleep.main", Err("none")),
            ("ann", "asleep.own", Err("no replica")),
            ("me", "asleep.own", Err("none")),
        ] {
            let way = way(&known, &here, tenant, name);
            let got = way.as_ref().map(|way| {
                let local: Vec<&str> = way.local.iter().map(|one| one.task.as_str()).collect();
                (local, way.is_elsewhere)
            });
            match (got, want) {
                (Ok((local, elsewhere)), Ok(want)) => {
                    assert_eq!((&local[..], elsewhere), want, "{tenant} {name}");
                }
                (Err(NotConnected::NoSuchService), Err("none"))
                | (Err(NotConnected::Unreachable(_)), Err("no replica")) => {}
                (got, want) => panic!("{tenant} {name}: {got:?}, not {want:?}"),
            }
        }
    }
}
