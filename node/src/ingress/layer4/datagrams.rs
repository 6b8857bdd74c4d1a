use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use engine::{DATAGRAM_BYTES_MAX, FrameSplitter, framed};
use spec::Port;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf},
    net::UdpSocket,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
    },
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    reach::{Reach, Reached},
    sessions::Sessions,
};
use crate::ingress::{
    limits::{
        LAYER4_ANSWER_BYTES, LAYER4_ANSWERS_TIME_MAX, LAYER4_BYTES_WAITING_MAX,
        LAYER4_DATAGRAMS_WAITING_MAX, LAYER4_LOOK_EVERY, LAYER4_SESSION_IDLE_TIME_MAX,
        LAYER4_SESSIONS_MAX, LAYER4_SESSIONS_PER_ADDRESS_MAX, LAYER4_TAKEN_TIME_MAX,
    },
    table::PortRoute,
};

/// How many clients of datagrams there may be, and how much of theirs may wait.
pub(super) struct DatagramLimits {
    sessions: Arc<Semaphore>,
    of_address_max: usize,
    bytes: Arc<Semaphore>,
}

impl DatagramLimits {
    pub fn new(share: impl Fn(usize) -> usize) -> Self {
        Self {
            sessions: Arc::new(Semaphore::new(share(LAYER4_SESSIONS_MAX))),
            of_address_max: share(LAYER4_SESSIONS_PER_ADDRESS_MAX),
            bytes: Arc::new(Semaphore::new(LAYER4_BYTES_WAITING_MAX)),
        }
    }
}

/// A datagram on its way to a replica, with its part of the bytes that may wait.
struct Waiting {
    frame: Vec<u8>,
    _bytes: OwnedSemaphorePermit,
}

/// A client, as the port knows it.
struct Known {
    datagrams: mpsc::Sender<Waiting>,
    /// The replica that answers it, once one was reached.
    replica: Arc<OnceLock<Arc<str>>>,
    /// As it was when that was last looked at.
    route: Arc<PortRoute>,
    task: AbortHandle,
    _permit: OwnedSemaphorePermit,
}

/// A client, as its task knows it.
struct Session {
    reach: Arc<Reach>,
    route: Arc<PortRoute>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    datagrams: mpsc::Receiver<Waiting>,
    replica: Arc<OnceLock<Arc<str>>>,
}

/// Passes on the datagrams of `port`, until it is aborted.
pub(super) async fn relay(
    reach: Arc<Reach>,
    limits: Arc<DatagramLimits>,
    port: Port,
    socket: UdpSocket,
) -> Infallible {
    let socket = Arc::new(socket);
    let mut clients = Clients {
        port,
        sessions: Sessions::new(limits.of_address_max),
        tasks: JoinSet::new(),
        reach,
        limits,
        socket: socket.clone(),
    };
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        tokio::select! {
            Some(ended) = clients.tasks.join_next() => {
                if let Ok((client, id)) = ended {
                    clients.sessions.ended(client, id);
                }
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) => clients.pass_on(&buffer[..length], from),
                Err(error) => {
                    tracing::debug!(%port, %error, "a datagram was not received");
                    sleep(LAYER4_LOOK_EVERY).await;
                }
            },
        }
    }
}

/// The clients of one port.
struct Clients {
    reach: Arc<Reach>,
    limits: Arc<DatagramLimits>,
    port: Port,
    socket: Arc<UdpSocket>,
    sessions: Sessions<Known>,
    tasks: JoinSet<(SocketAddr, u64)>,
}

impl Clients {
    /// What has no room is lost, as on any network.
    fn pass_on(&mut self, datagram: &[u8], from: SocketAddr) {
        let Some(route) = self.reach.forwarder.routes.port(self.port) else { return };
        let Some(frame) = framed(datagram) else { return };
        let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let waiting = self.limits.bytes.clone().try_acquire_many_owned(bytes);
        let Ok(permit) = waiting else { return };
        if !route.listener.admits(from.ip()) {
            return;
        }
        let waiting = Waiting { frame, _bytes: permit };
        if let Some(waiting) = self.pass_to_known(waiting, from, &route)
            && let Some(known) = self.open(from, route)
        {
            let _ = known.datagrams.try_send(waiting);
        }
    }

    /// Hands it to the session of its client; back where there is none, or none that goes on.
    fn pass_to_known(
        &mut self,
        waiting: Waiting,
        from: SocketAddr,
        route: &Arc<PortRoute>,
    ) -> Option<Waiting> {
        let Some(known) = self.sessions.of(from) else { return Some(waiting) };
        if !Arc::ptr_eq(&known.route, route) {
            known.route = route.clone();
            let has_left = known.replica.get().is_some_and(|name| {
                !route.service.replicas.iter().any(|replica| replica.name == *name)
            });
            if has_left {
                // Its task hands on what the replica still answers.
                self.sessions.remove(from);
                return Some(waiting);
            }
        }
        match known.datagrams.try_send(waiting) {
            Ok(()) | Err(TrySendError::Full(_)) => None,
            Err(TrySendError::Closed(waiting)) => Some(waiting),
        }
    }

    fn open(&mut self, client: SocketAddr, route: Arc<PortRoute>) -> Option<&mut Known> {
        let limit = self.limits.sessions.clone();
        let mut permit = match self.sessions.is_share_taken(client) {
            true => None,
            false => limit.clone().try_acquire_owned().ok(),
        };
        if permit.is_none() {
            let evicted = self.sessions.make_room_for(client)?;
            evicted.task.abort();
            drop(evicted);
            permit = limit.try_acquire_owned().ok();
        }
        let permit = permit?;
        let (sender, receiver) = mpsc::channel(LAYER4_DATAGRAMS_WAITING_MAX);
        let replica = Arc::new(OnceLock::new());
        let session = Session {
            reach: self.reach.clone(),
            route: route.clone(),
            socket: self.socket.clone(),
            client,
            datagrams: receiver,
            replica: replica.clone(),
        };
        let (tasks, port) = (&mut self.tasks, self.port);
        let known = self.sessions.insert(client, |id| {
            let task = tasks.spawn(async move {
                if let Err(error) = session.run().await {
                    tracing::debug!(%port, %client, %error, "closed");
                }
                (client, id)
            });
            Known { datagrams: sender, replica, route, task, _permit: permit }
        });
        Some(known)
    }
}

impl Session {
    /// One client, until it is silent, or its replica ends.
    async fn run(mut self) -> io::Result<()> {
        let Reached { replica, stream, in_flight } = self.reach.connect(&self.route).await?;
        let _ = self.replica.set(replica.name.clone());
        let (mut read, mut write) = tokio::io::split(stream);
        let (mut frames, mut buffer) = (FrameSplitter::default(), vec![0; LAYER4_ANSWER_BYTES]);
        let idle = self.route.listener.idle_seconds_max;
        let idle =
            idle.map_or(LAYER4_SESSION_IDLE_TIME_MAX, |idle| Duration::from_secs(idle.into()));
        let (mut is_open, mut is_answered) = (true, false);
        let ended = loop {
            let silent = sleep(if is_open { idle } else { LAYER4_ANSWERS_TIME_MAX });
            tokio::select! {
                waiting = self.datagrams.recv(), if is_open => match waiting {
                    None => is_open = false, // the port has gone over to another replica
                    Some(waiting) => {
                        if let Err(error) = take(&mut write, &waiting.frame).await {
                            break Err(error);
                        }
                    }
                },
                length = read.read(&mut buffer) => match length {
                    Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => {
                        is_answered = true;
                        self.answer(&mut frames, &buffer[..length]).await;
                    }
                    Err(error) => break Err(error),
                },
                () = silent => break Ok(()),
            }
        };
        if let Err(error) = &ended
            && !is_answered
        {
            self.reach.leave_out(&replica, error);
        }
        drop(in_flight);
        ended
    }

    async fn answer(&self, frames: &mut FrameSplitter, bytes: &[u8]) {
        let mut answers = Vec::new();
        frames.split(bytes, |datagram| answers.push(datagram.to_vec()));
        for answer in answers {
            // An error is of one datagram: the client may have gone.
            let _ = self.socket.send_to(&answer, self.client).await;
        }
    }
}

async fn take<W>(write: &mut WriteHalf<W>, frame: &[u8]) -> io::Result<()>
where
    WriteHalf<W>: tokio::io::AsyncWrite + Unpin,
{
    match timeout(LAYER4_TAKEN_TIME_MAX, write.write_all(frame)).await {
        Ok(taken) => taken,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the replica took no datagram")),
    }
}
