//! The worker's side of the control socket: the events that it reports to its present supervisor,
//! and the connections that it requests.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use engine::{Ended, Event, Exit, Listeners, frame};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{denials::Denials, output::Log};
use crate::limits::{AGENT_TIME_MAX, BROKER_ANSWER_TIME_MAX, ORPHAN_TIME_MAX};
use crate::{
    denied,
    frame::{Refusal, Target, ToSupervisor, ToWorker},
    socket::Socket,
};

type Reply = Result<OwnedFd, Refusal>;

/// The present supervisor, and the connection requests that it has not answered.
pub(crate) struct Control {
    supervisor: Mutex<Option<Arc<Socket>>>,
    arrived: Notify,
    pending: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next: AtomicU64,
    stop: watch::Sender<Option<Duration>>,
    started: AtomicBool,
    /// Whether a later agent can adopt this worker.
    adoptable: AtomicBool,
    /// Copies of what was handed over, for the next agent.
    listeners: Listeners,
    denials: Denials,
    log: Arc<Log>,
}

impl Control {
    pub fn new(listeners: Listeners, log: Arc<Log>) -> Self {
        Self {
            supervisor: Mutex::new(None),
            arrived: Notify::new(),
            pending: Mutex::default(),
            next: AtomicU64::new(0),
            stop: watch::Sender::new(None),
            started: AtomicBool::new(false),
            adoptable: AtomicBool::new(false),
            listeners,
            denials: Denials::default(),
            log,
        }
    }

    /// Makes the peer of `socket` the supervisor.
    pub fn obey(self: &Arc<Self>, socket: OwnedFd) -> io::Result<()> {
        let socket = Arc::new(Socket::new(socket)?);
        *locked(&self.supervisor) = Some(socket.clone());
        // Requests that the one before has not answered go to the new one.
        locked(&self.pending).clear();
        self.arrived.notify_waiters();
        tokio::spawn(self.clone().follow(socket));
        Ok(())
    }

    /// Reads `socket` until its peer is gone.
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
            }
        }
        let mut current = locked(&self.supervisor);
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, &socket)) {
            *current = None;
            // Requests without an answer go to the next one.
            locked(&self.pending).clear();
            if !self.adoptable.load(Ordering::Acquire) {
                self.stop.send_replace(Some(ORPHAN_TIME_MAX));
            }
        }
    }

    /// From here on the worker outlives its supervisor.
    pub fn allow_adoption(&self) {
        self.adoptable.store(true, Ordering::Release);
    }

    /// Lets later agents adopt this worker, each in place of the one before.
    pub async fn accept_adoptions(self: Arc<Self>, listener: OwnedFd) {
        let Ok(listener) = Socket::new(listener) else { return };
        while let Ok(socket) = listener.accept().await {
            if self.introduce(&socket).is_ok() {
                // An agent whose socket cannot be watched connects again.
                let _ = self.obey(socket);
            }
        }
    }

    fn introduce(&self, socket: &OwnedFd) -> io::Result<()> {
        let message = ToSupervisor::Adopted {
            started: self.started.load(Ordering::Acquire),
            listeners: self.listeners.message(),
        };
        let fds: Vec<_> = self.listeners.sockets().collect();
        frame::send(socket, &message, &fds)
    }

    fn answer(&self, id: u64, reply: Reply) {
        if let Some(request) = locked(&self.pending).remove(&id) {
            // The request may have been dropped meanwhile.
            let _ = request.send(reply);
        }
    }

    /// Reports an event, if there is a supervisor. One that cannot be sent now is not sent later.
    pub fn report(&self, event: Event) {
        if event == Event::Started {
            self.started.store(true, Ordering::Release);
        }
        let supervisor = locked(&self.supervisor).clone();
        if let Some(socket) = supervisor {
            let _ = socket.send_now(&ToSupervisor::Event(event));
        }
    }

    /// Reports how it ended, and tries for a moment when the socket is full.
    pub fn report_exit(&self, exit: Exit) {
        let Some(socket) = locked(&self.supervisor).clone() else { return };
        let message = ToSupervisor::Event(Event::Exited(Ended::of(exit)));
        for _ in 0..100 {
            match socket.send_now(&message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                _ => return,
            }
        }
    }

    /// Counts a denial, and reports the line that would grant it.
    pub fn deny(&self, line: &str) {
        self.deny_saying(line, |count| denied::line(line, count));
    }

    /// The same for an address that takes two keys: the line, which may be `granted`, and the
    /// network, which the owner of the node opens.
    pub fn deny_address(&self, line: &str, why: &str, granted: bool) {
        self.deny_saying(line, |count| denied::address(line, count, why, granted));
    }

    fn deny_saying(&self, line: &str, message: impl FnOnce(u64) -> String) {
        if let Some(count) = self.denials.count(line) {
            self.log.say(&message(count));
            self.report(Event::Denied { line: line.to_owned(), count });
        }
    }

    /// Writes a line of the worker's own into the log.
    pub fn log(&self, line: &str) {
        self.log.say(line);
    }

    /// The grace, once the worker is to stop.
    pub fn stopping(&self) -> watch::Receiver<Option<Duration>> {
        self.stop.subscribe()
    }

    /// Requests a connection of the broker. Waits for an agent that is being replaced.
    pub async fn connect(&self, target: &Target) -> Reply {
        let deadline = Instant::now() + AGENT_TIME_MAX;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let supervisor = locked(&self.supervisor).clone();
            if let Some(socket) = supervisor {
                match self.request(&socket, target).await {
                    Some(reply) => return reply,
                    None => tokio::task::yield_now().await,
                }
            }
            if timeout_at(deadline, arrived).await.is_err() {
                return Err(Refusal::NoBroker);
            }
        }
    }

    /// `None` when this supervisor will not answer any more.
    async fn request(&self, socket: &Socket, target: &Target) -> Option<Reply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        locked(&self.pending).insert(id, sender);
        let pending = Pending { control: self, id };
        let message = ToSupervisor::Connect { id, target: target.clone() };
        socket.send(&message, &[]).await.ok()?;
        let answered = timeout_at(Instant::now() + BROKER_ANSWER_TIME_MAX, reply).await;
        drop(pending);
        match answered {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(_gone)) => None,
            Err(_) => Some(Err(Refusal::NoBroker)),
        }
    }
}

/// A request, which is forgotten when its guest gives up.
struct Pending<'a> {
    control: &'a Control,
    id: u64,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        locked(&self.control.pending).remove(&self.id);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
