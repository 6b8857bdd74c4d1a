use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::{Exit, frame};
use rustix::{
    net::{SocketFlags, accept_with, sockopt},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal,
        set_child_subreaper, waitid,
    },
    termios::{Winsize, tcsetwinsize},
    thread::CapabilitySet,
};
use spec::{Limits, Usage};

use crate::limits::{
    GRACE_MAX, NETWORK_DRAIN_TIME_MAX, OOM_TIME_MAX, ORPHAN_GRACE, OUTPUT_DRAIN_TIME_MAX,
    REQUEST_TIME_MAX, REQUESTS_MAX, SAMPLE_INTERVAL, WAITERS_MAX,
};
use crate::{
    Assignment, Error, Layer,
    bundle::signal,
    bundle::stage,
    client::sweep::{self, Ended, Traces},
    client::task::{Reply, Request, SOCKET, Status},
    host::cgroup,
    owner::poller::{EventFlags, Poller, Token},
    owner::relay::Relay,
    owner::runner::{self, Created},
    owner::streams::Streams,
    privileges::drop_privileges,
};

/// One container and everything that happens to it, in one loop.
struct Owner<'a> {
    order: &'a Assignment,
    id: String,
    pid: Pid,
    pidfd: OwnedFd,
    poller: Poller,
    door: OwnedFd,
    visitors: HashMap<u32, Visitor>,
    next_visitor: u32,
    streams: Streams,
    master: Option<OwnedFd>,
    relay: Relay,
    started: Instant,
    sampled: Instant,
    usage: Usage,
    stop_signal: Signal,
    stop: Option<Stop>,
    /// We sent the signal that cannot be ignored, for a reason of somebody's own.
    killed: bool,
    oom_kills: u64,
    /// When the kernel killed one of its processes for want of memory, the last time.
    oom_at: Option<Instant>,
    /// A limit that it has broken, and that ends it.
    limit: Option<Exit>,
    died: Option<(Instant, Died)>,
}

/// A supervisor that came in.
struct Visitor {
    stream: OwnedFd,
    /// For the end of the container; it has nothing more to say.
    waits: bool,
}

/// Somebody asked it to end.
struct Stop {
    kill_at: Instant,
    killed: bool,
}

/// How its first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Died {
    Code(u8),
    Signal(u8),
}

/// Runs the container of `order` to its end. `supervisor` hears when it started; an error means
/// that nothing of it is left.
pub(crate) fn run(supervisor: &OwnedFd, mut order: Assignment) -> Result<(), Error> {
    check_ports(&order)?;
    let (layers, adoptable) = (order.program.layers.clone(), order.adoptable);
    let folder = &order.folder.clone();
    let runtime = order.program.runtime.clone();
    let traces = Traces { version: sweep::VERSION, id: identify(&order), runtime };
    let door = frame::listen(folder, SOCKET)
        .map_err(Error::io(format!("listen in `{}`", folder.display())))?;
    sweep::write_traces(folder, &traces)?;
    let mut owner = match Owner::start(&mut order, &traces, door) {
        Ok(owner) => owner,
        Err(error) => {
            sweep::clear(folder, &traces)?;
            return Err(error);
        }
    };
    let heard = frame::send(supervisor, &Reply::Started, &[]);
    if !adoptable {
        let watched = owner.poller.add(supervisor, Token::Supervisor, EventFlags::RDHUP);
        if heard.is_err() || watched.is_err() {
            owner.stop(ORPHAN_GRACE);
        }
    }
    let ended = owner.serve(supervisor);
    layers.iter().for_each(Layer::touch);
    owner.leave(&ended, &traces)
}

/// Unique on the machine, for it also names the cgroup: tasks of two platforms on one machine
/// differ by their folder.
fn identify(order: &Assignment) -> String {
    let place = spec::Digest::of(order.folder.as_os_str().as_encoded_bytes()).to_string();
    let place: String = place.chars().skip_while(|c| *c != ':').skip(1).take(12).collect();
    format!("margay-{}-{}-{place}", order.task, order.container)
}

fn check_ports(order: &Assignment) -> Result<(), Error> {
    for port in order.listeners.container_ports() {
        if !order.grants.has_port(port) {
            let why = format!("needs the grant `net.in:http/{port}`");
            return Err(Error::Config { what: format!("port {port}"), why });
        }
    }
    Ok(())
}

impl<'a> Owner<'a> {
    fn start(order: &'a mut Assignment, traces: &Traces, door: OwnedFd) -> Result<Self, Error> {
        let starting = |what: &str| format!("start a container ({what})");
        // Whatever the runtime leaves behind becomes our child, the container's first process above
        // all.
        set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(Error::io(starting("subreaper")))?;
        let stop_signal = stop_signal(order)?;
        let stage = stage::build(order, &traces.id)?;
        let log = match &order.log {
            Some(path) => Some(
                crate::owner::log::Log::open(path, order.limits.log_bytes_max)
                    .map_err(Error::io(format!("open the log `{}`", path.display())))?,
            ),
            None => None,
        };
        let stdio = order.stdio.take();
        let Created { pid, streams, master } = runner::create(order, traces, &stage, stdio, log)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::io(starting("pidfd")))?;
        enter_network(pid).map_err(Error::io(starting("its network namespace")))?;
        let relay = Relay::new(std::mem::take(&mut order.listeners));
        let poller = Poller::new().map_err(Error::io(starting("epoll")))?;
        let watch = || -> io::Result<()> {
            poller.add(&pidfd, Token::Exit, EventFlags::IN)?;
            rustix::io::ioctl_fionbio(&door, true)?;
            poller.add(&door, Token::Door, EventFlags::IN)?;
            relay.open(&poller)
        };
        watch().map_err(Error::io(starting("epoll")))?;
        runner::start(order, traces)?;
        drop_privileges(POWERS).map_err(Error::io(starting("dropping what it needs no more")))?;
        let now = Instant::now();
        Ok(Self {
            order,
            id: traces.id.clone(),
            pid,
            pidfd,
            poller,
            door,
            visitors: HashMap::new(),
            next_visitor: 0,
            streams,
            master,
            relay,
            started: now,
            sampled: now,
            usage: Usage { runs: 1, ..Usage::default() },
            stop_signal,
            stop: None,
            killed: false,
            oom_kills: 0,
            oom_at: None,
            limit: None,
            died: None,
        })
    }

    /// The loop.
    fn serve(&mut self, supervisor: &OwnedFd) -> Ended {
        let mut happened = VecDeque::new();
        let mut stream_turn = true;
        loop {
            if stream_turn {
                stream_turn = self.streams.pump(&self.poller);
            }
            self.relay.turn(&self.poller);
            if let Some((at, died)) = self.died
                && self.drained(at.elapsed())
            {
                return self.end(died);
            }
            self.keep_time();
            let patience = if stream_turn { Duration::ZERO } else { self.patience() };
            if self.poller.wait(patience, &mut happened).is_err() {
                // Without a poller nobody would ever be heard again.
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
            for (token, flags) in happened.drain(..) {
                match token {
                    Token::Exit => self.reap(),
                    Token::Stream(_) => stream_turn = true,
                    Token::Port(index) => self.relay.accept(&self.poller, index),
                    Token::Relay(id) => self.relay.touch(id),
                    Token::Door => self.open_door(),
                    Token::Visitor(number) => self.listen_to(number),
                    Token::Supervisor => {
                        if flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR) {
                            self.poller.remove(supervisor);
                            self.stop(ORPHAN_GRACE);
                        }
                    }
                }
            }
        }
    }

    /// Whether nothing of a program that ended so long ago is on its way any more.
    fn drained(&self, since: Duration) -> bool {
        let sent = self.relay.is_empty() || since > NETWORK_DRAIN_TIME_MAX;
        // Whoever stops it waits for us.
        let read_time_max =
            if self.stop.is_some() { NETWORK_DRAIN_TIME_MAX } else { OUTPUT_DRAIN_TIME_MAX };
        (sent && self.streams.finished()) || since > read_time_max
    }

    fn patience(&self) -> Duration {
        let mut patience =
            self.relay.patience().min(SAMPLE_INTERVAL.saturating_sub(self.sampled.elapsed()));
        if let Some(stop) = self.stop.as_ref().filter(|stop| !stop.killed) {
            patience = patience.min(stop.kill_at.saturating_duration_since(Instant::now()));
        }
        // Rounded up: waking a moment too early would only mean waking again.
        patience + Duration::from_millis(1)
    }

    fn keep_time(&mut self) {
        if self.sampled.elapsed() >= SAMPLE_INTERVAL {
            self.sample();
            self.enforce();
        }
        if let Some(stop) = &mut self.stop
            && !stop.killed
            && stop.kill_at <= Instant::now()
        {
            stop.killed = true;
            self.killed = true;
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    fn sample(&mut self) {
        let reading = cgroup::read(&self.id);
        let held = u64::try_from(self.sampled.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.sampled = Instant::now();
        self.usage.cpu_ns = self.usage.cpu_ns.max(reading.cpu_ns);
        self.usage.memory_bytes_peak = self.usage.memory_bytes_peak.max(reading.memory_bytes_peak);
        if reading.oom_kills > self.oom_kills {
            self.oom_kills = reading.oom_kills;
            self.oom_at = Some(self.sampled);
        }
        let more = reading.memory_bytes.saturating_mul(held);
        self.usage.memory_byte_ms = self.usage.memory_byte_ms.saturating_add(more);
        self.usage.bytes_in = self.relay.bytes_in;
        self.usage.bytes_out = self.relay.bytes_out;
    }

    fn enforce(&mut self) {
        let Limits { cpu_time_max, wall_time_max, .. } = &self.order.limits;
        let broken = match (cpu_time_max, wall_time_max) {
            (Some(max), _) if self.usage.cpu_ns > nanos(*max) => Some(Exit::out_of_cpu(*max)),
            (_, Some(max)) if self.started.elapsed() > *max => Some(Exit::out_of_time(*max)),
            _ => None,
        };
        if let Some(broken) = broken.filter(|_| self.limit.is_none()) {
            self.limit = Some(broken);
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    fn stop(&mut self, grace: Duration) {
        let kill_at = Instant::now() + grace.min(GRACE_MAX);
        match &mut self.stop {
            // A second, more impatient one counts.
            Some(stop) => stop.kill_at = stop.kill_at.min(kill_at),
            None => {
                self.stop = Some(Stop { kill_at, killed: false });
                let _ = pidfd_send_signal(&self.pidfd, self.stop_signal);
            }
        }
    }

    fn reap(&mut self) {
        if self.died.is_some() {
            return;
        }
        let died =
            match waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(None) => return,
                Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Died::Code(code as u8),
                    (None, signal) => Died::Signal(signal.unwrap_or(9) as u8),
                },
                // It is not our child, which a subreaper rules out.
                Err(_) => Died::Signal(9),
            };
        // The kernel counts before it kills, so what this end has to do with is counted by now.
        self.sample();
        self.poller.remove(&self.pidfd);
        self.relay.drain(&self.poller);
        self.died = Some((Instant::now(), died));
    }

    fn end(&mut self, died: Died) -> Ended {
        let died_at = self.died.map_or_else(Instant::now, |(at, _)| at);
        let oom = !self.killed
            && self.oom_at.is_some_and(|at| at + OOM_TIME_MAX >= died_at && at <= died_at);
        self.sample();
        let exit = judge(died, self.stop.is_some(), self.limit.take(), oom, &self.order.limits);
        if !matches!(exit, Exit::Code(0) | Exit::Stopped(_)) {
            self.usage.failed_runs = 1;
        }
        Ended::new(exit, self.usage)
    }

    /// Clears everything away, and tells those who wait for that.
    fn leave(self, ended: &Ended, traces: &Traces) -> Result<(), Error> {
        let folder = &self.order.folder;
        // In this order: who finds no socket finds the exit status. Where that cannot be kept,
        // because the disk is full or somebody removed the folder, the machine is still left clean,
        // and who waits is told.
        let kept = sweep::write_ended(folder, ended);
        let cleared = sweep::clear_dead(folder, traces);
        for visitor in self.visitors.into_values().filter(|visitor| visitor.waits) {
            let _ = frame::send(&visitor.stream, &Reply::Exited(ended.clone()), &[]);
        }
        cleared.and(kept)
    }

    fn open_door(&mut self) {
        while let Ok(visitor) = accept_with(&self.door, SocketFlags::CLOEXEC) {
            if self.visitors.values().filter(|visitor| !visitor.waits).count() >= REQUESTS_MAX {
                continue;
            }
            let time_max =
                |which| sockopt::set_socket_timeout(&visitor, which, Some(REQUEST_TIME_MAX));
            let times =
                time_max(sockopt::Timeout::Recv).and_then(|()| time_max(sockopt::Timeout::Send));
            let number = self.next_visitor;
            self.next_visitor = self.next_visitor.wrapping_add(1);
            if times.is_ok()
                && self.poller.add(&visitor, Token::Visitor(number), EventFlags::IN).is_ok()
            {
                self.visitors.insert(number, Visitor { stream: visitor, waits: false });
            }
        }
    }

    fn listen_to(&mut self, number: u32) {
        // Gone, unless it asks for something: whoever waits and speaks again has left, or makes no
        // sense.
        let Some(Visitor { stream: visitor, waits: false }) = self.visitors.remove(&number) else {
            return;
        };
        let Ok(Some((request, _))) = frame::receive::<Request>(&visitor) else { return };
        let reply = match request {
            Request::Wait => {
                if self.visitors.values().filter(|visitor| visitor.waits).count() >= WAITERS_MAX {
                    // It will come again.
                    return;
                }
                self.visitors.insert(number, Visitor { stream: visitor, waits: true });
                return;
            }
            Request::Status => Reply::Status(self.status()),
            Request::Listeners => {
                let (listeners, fds) = self.relay.listeners();
                let _ = frame::send(&visitor, &Reply::Listeners(listeners), &fds);
                return;
            }
            Request::Stop { grace } => {
                self.stop(grace);
                Reply::Done
            }
            Request::Kill { signal } => {
                if let Some(signal) = signal::from_number(signal) {
                    self.killed |= signal == Signal::KILL;
                    let _ = pidfd_send_signal(&self.pidfd, signal);
                }
                Reply::Done
            }
            Request::Resize { rows, columns } => {
                if let Some(master) = &self.master {
                    let _ = tcsetwinsize(master, winsize(rows, columns));
                }
                Reply::Done
            }
        };
        let _ = frame::send(&visitor, &reply, &[]);
    }

    fn status(&mut self) -> Status {
        self.sample();
        Status {
            pid: self.pid.as_raw_nonzero().get(),
            shim_pid: std::process::id(),
            ports: self.relay.ports(),
            stopping: self.stop.is_some(),
            usage: self.usage,
        }
    }
}

pub(crate) fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// From here on, sockets that we make are the container's. Those that we were handed stay where
/// they were made.
fn enter_network(pid: Pid) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{}/ns/net", pid.as_raw_nonzero()))?;
    let kind = rustix::thread::LinkNameSpaceType::Network;
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

/// What the loop needs of root's powers: to signal the container's users, and to write into folders
/// of whoever owns `MARGAY_HOME`. What relays bytes from the network needs no more.
const POWERS: CapabilitySet = CapabilitySet::KILL.union(CapabilitySet::DAC_OVERRIDE);

/// What the image's STOPSIGNAL says, or SIGTERM.
fn stop_signal(order: &Assignment) -> Result<Signal, Error> {
    let text = order
        .program
        .config
        .config
        .as_ref()
        .and_then(|config| config.stop_signal.as_deref())
        .unwrap_or("");
    if text.is_empty() {
        return Ok(Signal::TERM);
    }
    signal::from_name(text).ok_or_else(|| Error::Config {
        what: format!("STOPSIGNAL `{}`", text.escape_debug()),
        why: "it is no signal, such as `SIGTERM`, `SIGRTMIN+3` or `15`".to_owned(),
    })
}

/// Why it ended, from all that is known. A limit explains a kill better than a signal does.
fn judge(died: Died, stopped: bool, limit: Option<Exit>, oom: bool, limits: &Limits) -> Exit {
    match (died, limit) {
        (_, Some(limit)) => limit,
        // A shell reports the death of its child by signal 9 as 137.
        (Died::Signal(9) | Died::Code(137), None) if oom => {
            Exit::out_of_memory(limits.memory_bytes_max)
        }
        (Died::Code(code), None) if stopped => Exit::Stopped(code),
        (Died::Signal(signal), None) if stopped => Exit::Stopped(128u8.saturating_add(signal)),
        (Died::Code(code), None) => Exit::Code(code),
        (Died::Signal(signal), None) => Exit::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_explanation_of_an_end_wins() {
        let limits = Limits::for_commands();
        let limit = || Some(Exit::out_of_time(Duration::from_secs(1)));
        for (died, stopped, limit, oom, code, reason) in [
            (Died::Code(0), false, None, false, 0, None),
            (Died::Code(3), false, None, false, 3, None),
            (Died::Code(3), false, None, true, 3, None),
            (Died::Signal(11), false, None, false, 139, Some("signal")),
            (Died::Signal(9), false, None, true, 137, Some("oom")),
            (Died::Code(137), false, None, true, 137, Some("oom")),
            (Died::Signal(9), true, None, true, 137, Some("oom")),
            (Died::Signal(9), false, limit(), false, 137, Some("wall-time")),
            (Died::Signal(15), true, None, false, 143, Some("stopped")),
            (Died::Code(0), true, None, false, 0, Some("stopped")),
        ] {
            let exit = judge(died, stopped, limit, oom, &limits);
            assert_eq!((exit.code(), exit.reason()), (code, reason), "{died:?} {stopped} {oom}");
        }
    }
}
