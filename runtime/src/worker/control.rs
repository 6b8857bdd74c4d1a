//! The worker's side of the control socket: what it says to whoever supervises it at the moment,
//! and what it asks.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{denials::Denials, output::Log};
use crate::{
    Event, Exit,
    frame::{self, Refusal, Target, ToSupervisor, ToWorker},
    socket::Socket,
};

/// How long a guest's connection waits for a new agent when the old one is gone.
const AGENT_TIME_MAX: Duration = Duration::from_secs(5);
/// The broker's own limits, and some time for the way.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// A worker that nobody can find again ends with its supervisor, and has this long for what it is
/// in the middle of.
const FORSAKEN_TIME_MAX: Duration = Duration::from_secs(2);

/// What a connection request comes back with.
type Reply = Result<OwnedFd, Refusal>;

/// Who supervises, and what was asked.
pub(crate) struct Control {
    supervisor: Mutex<Option<Arc<Socket>>>,
    arrived: Notify,
    asked: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next: AtomicU64,
    stop: watch::Sender<Option<Duration>>,
    started: AtomicBool,
    /// Whether a later agent can find us.
    adoptable: AtomicBool,
    listeners: Listeners,
    denials: Denials,
    log: Arc<Log>,
}

/// Copies of what was handed over, for the next agent.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub tcp: Vec<(u16, OwnedFd)>,
    pub ingress: Option<(u16, OwnedFd)>,
}

impl Control {
    pub fn new(listeners: Listeners, log: Arc<Log>) -> Self {
        Self {
            supervisor: Mutex::new(None),
            arrived: Notify::new(),
            asked: Mutex::default(),
            next: AtomicU64::new(0),
            stop: watch::Sender::new(None),
            started: AtomicBool::new(false),
            adoptable: AtomicBool::new(false),
            listeners,
            denials: Denials::default(),
            log,
        }
    }

    /// From here on, whoever is at the other side of `socket` supervises.
    pub fn obey(self: &Arc<Self>, socket: OwnedFd) -> io::Result<()> {
        let socket = Arc::new(Socket::new(socket)?);
        *locked(&self.supervisor) = Some(socket.clone());
        // Whoever waits for an answer of the one before asks the new one.
        locked(&self.asked).clear();
        self.arrived.notify_waiters();
        tokio::spawn(self.clone().follow(socket));
        Ok(())
    }

    /// Listens to `socket` until the other side is gone.
    async fn follow(self: Arc<Self>, socket: Arc<Socket>) {
        while let Ok(Some((message, fds))) = socket.receive::<ToWorker>().await {
            match message {
                ToWorker::Stop { grace_ms } => {
                    self.stop.send_replace(Some(Duration::from_millis(grace_ms)));
                }
                ToWorker::Connected { id } => {
                    let reply = fds.into_iter().next().ok_or(Refusal::NoBroker);
                    self.answer(id, reply);
                }
                ToWorker::Refused { id, refusal } => self.answer(id, Err(refusal)),
                ToWorker::Assign => break,
            }
        }
        let mut current = locked(&self.supervisor);
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, &socket)) {
            *current = None;
            // Whoever waits for an answer asks the next one.
            locked(&self.asked).clear();
            if !self.adoptable.load(Ordering::Acquire) {
                self.stop.send_replace(Some(FORSAKEN_TIME_MAX));
            }
        }
    }

    /// From here on, we outlive our supervisor: a later one can find us.
    pub fn may_be_adopted(&self) {
        self.adoptable.store(true, Ordering::Release);
    }

    /// Lets later agents find us, each in place of the one before.
    pub async fn welcome(self: Arc<Self>, listener: OwnedFd) {
        let Ok(listener) = Socket::new(listener) else { return };
        while let Ok(socket) = listener.accept().await {
            if self.introduce(&socket).is_ok() {
                // One that cannot be watched goes away, and its agent comes back.
                let _ = self.obey(socket);
            }
        }
    }

    fn introduce(&self, socket: &OwnedFd) -> io::Result<()> {
        let Listeners { tcp, ingress } = &self.listeners;
        let message = ToSupervisor::Adopted {
            started: self.started.load(Ordering::Acquire),
            ports: tcp.iter().map(|(port, _)| *port).collect(),
            ingress: ingress.as_ref().map(|(port, _)| *port),
        };
        let fds: Vec<BorrowedFd<'_>> =
            tcp.iter().chain(ingress).map(|(_, fd)| fd.as_fd()).collect();
        frame::send(socket, &message, &fds)
    }

    fn answer(&self, id: u64, reply: Reply) {
        if let Some(asker) = locked(&self.asked).remove(&id) {
            // Whoever asked may have gone away meanwhile.
            let _ = asker.send(reply);
        }
    }

    /// Tells the supervisor, if there is one and it listens. An event that cannot be sent now is
    /// not sent later.
    pub fn tell(&self, event: Event) {
        if event == Event::Started {
            self.started.store(true, Ordering::Release);
        }
        let supervisor = locked(&self.supervisor).clone();
        if let Some(socket) = supervisor {
            let _ = socket.send_now(&ToSupervisor::Event(event));
        }
    }

    /// Tells how it ended, and tries for a moment when the socket is full.
    pub fn last_word(&self, exit: Exit) {
        let Some(socket) = locked(&self.supervisor).clone() else { return };
        let message = ToSupervisor::Event(Event::Exited(exit));
        for _ in 0..100 {
            match socket.send_now(&message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                _ => return,
            }
        }
    }

    /// Counts a denial, and says which line would grant it.
    pub fn deny(&self, line: &str) {
        if let Some(count) = self.denials.count(line) {
            self.log.say(&format!("margay: denied {line} ({count}x); grant it: --allow {line}"));
            self.tell(Event::Denied { line: line.to_owned(), count });
        }
    }

    /// A line of ours among the guest's.
    pub fn say(&self, line: &str) {
        self.log.say(line);
    }

    /// When and how fast to stop.
    pub fn stopping(&self) -> watch::Receiver<Option<Duration>> {
        self.stop.subscribe()
    }

    /// Asks the broker for a connection. Waits a while for an agent that is being replaced.
    pub async fn connect(&self, target: &Target) -> Reply {
        let patience = Instant::now() + AGENT_TIME_MAX;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let supervisor = locked(&self.supervisor).clone();
            if let Some(socket) = supervisor {
                match self.ask(&socket, target).await {
                    Some(reply) => return reply,
                    None => tokio::task::yield_now().await,
                }
            }
            if timeout_at(patience, arrived).await.is_err() {
                return Err(Refusal::NoBroker);
            }
        }
    }

    /// `None` when this supervisor will not answer any more.
    async fn ask(&self, socket: &Socket, target: &Target) -> Option<Reply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        locked(&self.asked).insert(id, sender);
        let asked = Asked { control: self, id };
        let message = ToSupervisor::Connect { id, target: target.clone() };
        socket.send(&message, &[]).await.ok()?;
        let answered = timeout_at(Instant::now() + ANSWER_TIME_MAX, reply).await;
        drop(asked);
        match answered {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(_gone)) => None,
            Err(_) => Some(Err(Refusal::NoBroker)),
        }
    }
}

/// A question whose asker may lose interest.
struct Asked<'a> {
    control: &'a Control,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        locked(&self.control.asked).remove(&self.id);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
