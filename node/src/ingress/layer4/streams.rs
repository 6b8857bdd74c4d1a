use std::{collections::BTreeMap, convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use net::{ConnectionLimits, Connections, Tunnel};
use spec::{Port, Transport};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{
    datagrams::{self, DatagramLimits},
    header::proxy_header,
    reach::{Reach, Reached},
    reserved::ReservedPorts,
};
use crate::ingress::{
    forward::Forwarder,
    limits::{
        LAYER4_CONNECTIONS_MAX, LAYER4_CONNECTIONS_PER_ADDRESS_MAX, LAYER4_IDLE_TIME_MAX,
        LAYER4_LOOK_EVERY,
    },
};

/// The connections of clients to ports of services.
pub(in crate::ingress) struct Streams {
    ports: ReservedPorts,
    reach: Arc<Reach>,
    connections: Connections,
    limits: ConnectionLimits,
    datagrams: Arc<DatagramLimits>,
}

impl Streams {
    pub fn new(
        ports: ReservedPorts,
        forwarder: Arc<Forwarder>,
        connections: Connections,
        share: impl Fn(usize) -> usize,
    ) -> Arc<Self> {
        let limits = ConnectionLimits::new(
            share(LAYER4_CONNECTIONS_MAX),
            share(LAYER4_CONNECTIONS_PER_ADDRESS_MAX),
        );
        let datagrams = Arc::new(DatagramLimits::new(share));
        let reach = Arc::new(Reach::new(forwarder));
        Arc::new(Self { ports, reach, connections, limits, datagrams })
    }

    /// Listens on the ports that services have, as long as they have them.
    pub async fn keep_up(self: &Arc<Self>) -> Infallible {
        let mut serving: BTreeMap<Port, AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = self.reach.forwarder.routes.ports();
            let gone = serving.extract_if(.., |port, _| !wanted.contains(port));
            for (port, task) in gone {
                task.abort();
                match port.transport {
                    Transport::Tcp => self.ports.close(port.number),
                    Transport::Udp => self.ports.refuse_datagrams(port.number),
                }
                tracing::info!(%port, "no service has this port any more");
            }
            for port in wanted {
                if serving.contains_key(&port) {
                    continue;
                }
                match self.serve(port, &mut tasks) {
                    Ok(Some(task)) => {
                        tracing::info!(%port, "listens for a service");
                        serving.insert(port, task);
                    }
                    Ok(None) => {} // not set aside on this node
                    Err(error) => tracing::warn!(%port, %error, "cannot listen for a service"),
                }
            }
            while tasks.try_join_next().is_some() {}
            sleep(LAYER4_LOOK_EVERY).await;
        }
    }

    /// Begins to serve `port`, if it is one of those that were set aside.
    fn serve(
        self: &Arc<Self>,
        port: Port,
        tasks: &mut JoinSet<Infallible>,
    ) -> io::Result<Option<AbortHandle>> {
        Ok(match port.transport {
            Transport::Tcp => self.ports.listen(port.number)?.map(|listener| {
                let streams = self.clone();
                tasks.spawn(async move { streams.accept(port, listener).await })
            }),
            Transport::Udp => self.ports.receive(port.number)?.map(|socket| {
                let (reach, limits) = (self.reach.clone(), self.datagrams.clone());
                tasks.spawn(datagrams::relay(reach, limits, port, socket))
            }),
        })
    }

    async fn accept(self: &Arc<Self>, port: Port, listener: TcpListener) -> Infallible {
        let accepted = |client: TcpStream, from: Option<IpAddr>, permit| {
            let streams = self.clone();
            async move {
                let closing = streams.connections.closing();
                if let Some(from) = from
                    && let Some(Err(error)) =
                        closing.run_until_cancelled(streams.relay(port, client, from)).await
                {
                    tracing::debug!(%port, %from, %error, "closed");
                }
                drop(permit);
            }
        };
        self.connections.accept(&listener, &self.limits, accepted).await
    }

    /// One connection, to its end.
    async fn relay(&self, port: Port, client: TcpStream, from: IpAddr) -> io::Result<()> {
        let refused = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
        let route = self.reach.forwarder.routes.port(port);
        let route = route.ok_or_else(|| refused("no service has this port"))?;
        if !route.listener.admits(from) {
            return Err(refused("its address may not use this port"));
        }
        let permit = route.service.upgrades.clone().try_acquire_owned();
        let permit = permit.map_err(|_| refused("the port has as many connections as it may"))?;
        client.set_nodelay(true)?;
        let Reached { stream: mut replica, in_flight, .. } = self.reach.connect(&route).await?;
        if route.listener.proxy_protocol {
            let header = proxy_header(client.peer_addr()?, client.local_addr()?);
            replica.write_all(&header).await?;
        }
        let idle = route.listener.idle_seconds_max;
        let idle = idle.map_or(LAYER4_IDLE_TIME_MAX, |idle| Duration::from_secs(idle.into()));
        Tunnel::new(replica, idle, (in_flight, permit)).run(&[], client).await;
        Ok(())
    }
}
