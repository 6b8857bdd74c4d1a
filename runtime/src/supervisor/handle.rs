use std::{
    os::fd::{AsFd, OwnedFd},
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::{Ended, Event, Exit, cgroup::Place};
use rustix::process::{Pid, PidfdFlags, Signal};
use spec::OutboundGrant;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    Broker, Error,
    frame::{Refusal, Target, ToSupervisor, ToWorker},
    limits::CONNECTING_PER_WORKER_MAX,
    socket::Socket,
};

/// A consumer that is further behind than this loses denials (they are counted) and delays the
/// rest.
const EVENTS_WAITING_MAX: usize = 64;
/// A worker reads what it is told at once. One that does not is broken, or does so on purpose.
const HEARING_TIME_MAX: Duration = Duration::from_secs(1);
/// From a worker's question for a connection to our last try to answer: more than the broker takes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Denials that one worker may have told of at once, and how long one more takes: each is a line of
/// the audit log.
const DENIALS_AT_ONCE: u32 = 64;
const DENIAL_PAUSE: Duration = Duration::from_secs(1);
/// Longer than any capability.
const DENIAL_BYTES_MAX: usize = 1 << 10;
/// A worker that has said its last word is given this long to be gone before it is killed.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

/// An assigned worker, as its supervisor sees it. It keeps running when this is dropped.
#[derive(Debug)]
pub struct Worker {
    process: Arc<OwnedFd>,
    pid: u32,
    socket: Arc<Socket>,
    events: mpsc::Receiver<Event>,
}

impl Worker {
    pub(crate) fn watch(
        control: OwnedFd,
        pid: Pid,
        child: Option<Child>,
        place: Option<Place>,
        grants: Vec<OutboundGrant>,
        broker: Broker,
    ) -> Result<Self, Error> {
        let cannot = "watch a worker";
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| Error::os(cannot)(e.into()))?;
        let socket = Arc::new(Socket::new(control).map_err(Error::os(cannot))?);
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let process = Arc::new(process);
        let life = Life {
            socket: socket.clone(),
            process: process.clone(),
            events: sender,
            grants: grants.into(),
            broker,
            connects: Arc::new(tokio::sync::Semaphore::new(2 * CONNECTING_PER_WORKER_MAX)),
        };
        tokio::spawn(follow(life, child, place, process.clone()));
        Ok(Self { process, pid: pid.as_raw_nonzero().get().unsigned_abs(), socket, events })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What happens next; `None` after [`Event::Exited`].
    pub async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> Exit {
        while let Some(event) = self.next_event().await {
            if let Event::Exited(ended) = event {
                return ended.exit;
            }
        }
        lost()
    }

    /// Asks it to take no more work, finish what runs within `grace`, and end. Its end arrives as
    /// an event.
    ///
    /// One that does not even listen is killed.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn stop(&self, grace: Duration) -> Result<(), Error> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let message = ToWorker::Stop { grace_ms };
        match timeout(HEARING_TIME_MAX, self.socket.send(&message, &[])).await {
            Ok(sent) => sent.map_err(|_| Error::WorkerLost("being stopped")),
            Err(_) => {
                self.kill();
                Ok(())
            }
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        // One that is gone already is what was asked for.
        let _ = rustix::process::pidfd_send_signal(&*self.process, Signal::KILL);
    }
}

/// What the task that follows a worker holds.
struct Life {
    socket: Arc<Socket>,
    process: Arc<OwnedFd>,
    events: mpsc::Sender<Event>,
    grants: Arc<[OutboundGrant]>,
    broker: Broker,
    connects: Arc<tokio::sync::Semaphore>,
}

/// Reads what a worker says until it ends, then sees it off.
async fn follow(life: Life, child: Option<Child>, place: Option<Place>, process: Arc<OwnedFd>) {
    let exit = life.listen().await;
    see_off(child, &process).await;
    let exit = match place {
        Some(place) => exit.or(leave(place).await),
        None => exit,
    };
    // The receiver may be gone.
    let _ = life.events.send(Event::Exited(Ended::of(exit.unwrap_or_else(lost)))).await;
}

/// Removes the cgroup of a worker that is gone; how it ended, when the kernel has ended it there.
async fn leave(place: Place) -> Option<Exit> {
    let left = tokio::task::spawn_blocking(move || {
        let oom = place.oom_bytes_max();
        place.remove();
        oom.map(Exit::out_of_memory)
    });
    left.await.ok().flatten()
}

pub(super) fn lost() -> Exit {
    Exit::Lost("E_WORKER_LOST: the worker's process was killed or broke".to_owned())
}

impl Life {
    /// Until the socket closes; the worker's last word, if it had one. What it says may be a
    /// guest's that has broken out, so it costs us little and is never taken at its word.
    async fn listen(&self) -> Option<Exit> {
        let (mut started, mut denials) = (false, Allowance::new());
        loop {
            let (message, fds) = self.socket.receive::<ToSupervisor>().await.ok()??;
            if !fds.is_empty() {
                // No message that is listened to carries any, and closing unexpected ones
                // may take its time.
                drop(tokio::task::spawn_blocking(move || drop(fds)));
                let _ = rustix::process::pidfd_send_signal(&*self.process, Signal::KILL);
                return None;
            }
            match message {
                ToSupervisor::Event(Event::Exited(ended)) => return Some(ended.exit),
                ToSupervisor::Event(event @ Event::Started) if !started => {
                    started = true;
                    let _ = self.events.send(event).await;
                }
                ToSupervisor::Event(Event::Denied { line, count }) => {
                    // A denial that finds no room is still in the worker's log.
                    if denials.take() && presentable(&line) {
                        let _ = self.events.try_send(Event::Denied { line, count });
                    }
                }
                ToSupervisor::Connect { id, target } => self.connect(id, target),
                ToSupervisor::Event(Event::Started) | ToSupervisor::Adopted { .. } => {}
            }
        }
    }

    /// Connects beside listening, so that one slow name delays nothing else. A worker keeps to its
    /// limit; one that is at twice of it is hostile, or has just had its answers.
    fn connect(&self, id: u64, target: Target) {
        let Ok(permit) = self.connects.clone().try_acquire_owned() else {
            let _ = self.socket.send_now(&ToWorker::Refused { id, refusal: Refusal::Busy });
            return;
        };
        let (socket, grants, broker) =
            (self.socket.clone(), self.grants.clone(), self.broker.clone());
        tokio::spawn(async move {
            let answer = async {
                match broker.connect(&grants, &target).await {
                    Ok(stream) => socket.send(&ToWorker::Connected { id }, &[stream.as_fd()]).await,
                    Err(refusal) => socket.send(&ToWorker::Refused { id, refusal }, &[]).await,
                }
            };
            // A worker that is gone by now, or reads nothing, wants no answer.
            let _ = timeout(ANSWER_TIME_MAX, answer).await;
            drop(permit);
        });
    }
}

/// Whether a line can be a capability's, and can stand in a log as it is.
fn presentable(line: &str) -> bool {
    line.len() <= DENIAL_BYTES_MAX && !line.chars().any(char::is_control)
}

/// How many denials may still be told of: some at once, and one more with each [`DENIAL_PAUSE`].
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: DENIALS_AT_ONCE, since: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let earned = (self.since.elapsed().as_millis() / DENIAL_PAUSE.as_millis()) as u32;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(DENIALS_AT_ONCE);
            self.since = Instant::now();
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

/// Waits for the process to be gone, and makes it so when it lingers.
async fn see_off(child: Option<Child>, process: &OwnedFd) {
    let gone = match process.try_clone().and_then(Socket::watching) {
        Ok(process) => timeout(FAREWELL_TIME_MAX, process.readable()).await.is_ok(),
        Err(_) => false,
    };
    if !gone {
        let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
    }
    if let Some(mut child) = child {
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    }
}
