use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::{Exit, Stop, frame};
use rustix::{
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, pidfd_open,
        pidfd_send_signal, set_child_subreaper, setrlimit, waitid,
    },
    termios::tcsetwinsize,
    thread::CapabilitySet,
};

use crate::{
    Assignment, Error, Layer, RootAccess, Settings,
    bundle::{
        signal,
        stage::{self, Stage},
    },
    limits::{
        NETWORK_DRAIN_TIME_MAX, ORPHAN_GRACE, OUTPUT_DRAIN_TIME_MAX, PIDS_MAX, RUNTIME_THREADS_MAX,
    },
    namespace::Numbers,
    owner::{
        control::ControlSocket,
        disk_quota::DiskQuotas,
        exec::Execs,
        log::Log,
        members::Members,
        meter::Meter,
        outcome::{Circumstances, Death, explain},
        poller::{EventFlags, Poller, Token},
        program::wait_for_program,
        relay::{Outbound, Relay},
        runner::{self, Begin, Created, window_size},
        streams::Streams,
    },
    privileges::keep_capabilities,
    protocol::{Reply, Request, Status},
    record::{self, Ended, SOCKET, Traces},
};

/// One container and everything that happens to it, in one loop.
struct Owner<'a> {
    assignment: &'a Assignment,
    pid: Pid,
    pidfd: OwnedFd,
    numbers: Numbers,
    poller: Poller,
    control: ControlSocket,
    execs: Execs,
    streams: Streams,
    /// The controlling side of its terminal, if it has one.
    terminal: Option<OwnedFd>,
    relay: Relay,
    members: Members,
    meter: Meter,
    /// Where its root is writable on disk.
    quotas: DiskQuotas,
    stop_signal: Signal,
    stop: Option<Stopping>,
    /// The stop signal, where a kill did what it does to any other process.
    ended_by: Option<Signal>,
    /// A supervisor had it killed, or the grace period of a stop is over.
    killed: bool,
    /// The limit that the shim killed it for.
    exceeded: Option<Exit>,
    died: Option<(Instant, Death)>,
}

/// A supervisor asked the container to end.
struct Stopping {
    kill_at: Instant,
    killed: bool,
}

/// Runs the container of `assignment` to its end. `supervisor` is told when it has started; an
/// error means that nothing of it is left.
pub(crate) fn run(
    supervisor: &OwnedFd,
    mut assignment: Assignment,
    numbers: Numbers,
) -> Result<(), Error> {
    check_ports(&assignment)?;
    let (layers, adoptable) = (assignment.program.layers.clone(), assignment.adoptable);
    let folder = &assignment.folder.clone();
    let runtime = assignment.program.runtime.clone();
    let listen = |name| {
        frame::listen(folder, name).map_err(Error::io(format!("listen in `{}`", folder.display())))
    };
    let listeners = (listen(SOCKET)?, listen(engine::exec::SOCKET)?);
    let id = container_id(&assignment);
    let mut traces = match numbers.are_of_namespace() {
        true => Traces::of_namespace(folder, id, runtime, &assignment.program.owner)?,
        false => Traces::claim(folder, id, runtime)?,
    };
    let mut owner = match Owner::start(&mut assignment, &mut traces, listeners, numbers) {
        Ok(owner) => owner,
        Err(error) => {
            record::clear(folder, &traces)?;
            return Err(error);
        }
    };
    let told = frame::send(supervisor, &Reply::Started, &[]);
    if !adoptable {
        let watched = owner.poller.add(supervisor, Token::Supervisor, EventFlags::RDHUP);
        if told.is_err() || watched.is_err() {
            owner.stop(ORPHAN_GRACE);
        }
    }
    let ended = owner.serve(supervisor);
    layers.iter().for_each(Layer::touch);
    owner.finish(&ended, &traces, layers)
}

/// Unique on the machine, because it also names the cgroup: tasks of two platforms on one machine
/// differ by their folder.
fn container_id(assignment: &Assignment) -> String {
    let folder = spec::Digest::of(assignment.folder.as_os_str().as_encoded_bytes()).short();
    format!("margay-{}-{}-{folder}", assignment.task, assignment.container)
}

/// Where files cannot be shown with ids of its own, a container has those that they have on disk.
fn build_stage(assignment: &Assignment, traces: &mut Traces) -> Result<Stage, Error> {
    match stage::build(assignment, &traces.id, traces.ids) {
        Err(Error::NoIdMap { path }) => {
            traces.share(&assignment.folder, &assignment.program.owner, &path)?;
            stage::build(assignment, &traces.id, traces.ids)
        }
        built => built,
    }
}

fn check_ports(assignment: &Assignment) -> Result<(), Error> {
    for port in assignment.listeners.container_ports() {
        if !assignment.grants.has_port(port) {
            let why = format!("needs the grant `{}`", spec::InboundGrant { port });
            return Err(Error::Config { what: format!("port {port}"), why });
        }
    }
    Ok(())
}

impl<'a> Owner<'a> {
    fn start(
        assignment: &'a mut Assignment,
        traces: &mut Traces,
        (listener, exec_listener): (OwnedFd, OwnedFd),
        numbers: Numbers,
    ) -> Result<Self, Error> {
        let starting = |what: &str| format!("start a container ({what})");
        // Processes that the runtime leaves behind become children of the shim, the container's
        // first process above all.
        set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(Error::io(starting("subreaper")))?;
        let stop_signal = stop_signal(assignment)?;
        let stage = build_stage(assignment, traces)?;
        let members = Members::of(&traces.id, traces.ids);
        if !members.are_limited() {
            limit_processes(&assignment.program.settings).map_err(Error::io(starting("limits")))?;
        }
        // The caller holds them until nothing of the container is left.
        assignment.program.layers.clear();
        let log = match &assignment.log {
            Some(path) => Some(
                Log::open(path, assignment.limits.log_bytes_max)
                    .map_err(Error::io(format!("open the log `{}`", path.display())))?,
            ),
            None => None,
        };
        let begin = begin(assignment);
        let stdio = assignment.stdio.take();
        let created = runner::create(assignment, traces, &stage, begin, stdio, log)?;
        let Created { pid, streams, terminal } = created;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::io(starting("pidfd")))?;
        let processes = namespace(pid, "pid").map_err(Error::io(starting("its namespaces")))?;
        let mut outbound = open_outbound(assignment, pid)?;
        match enter_network(pid) {
            // It has ended already, and let go of its namespaces; nothing is relayed to it.
            Err(error) if begin == Begin::Now && error.kind() == io::ErrorKind::NotFound => {}
            entered => entered.map_err(Error::io(starting("its namespaces")))?,
        }
        if let Some(outbound) = &mut outbound {
            let listening = outbound.listen_locally(&assignment.program.local_ports);
            listening.map_err(Error::io(starting("ports of its task")))?;
        }
        let relay = Relay::new(std::mem::take(&mut assignment.listeners), outbound);
        let poller = Poller::new().map_err(Error::io(starting("epoll")))?;
        let watch = || -> io::Result<ControlSocket> {
            poller.add(&pidfd, Token::Exit, EventFlags::IN)?;
            relay.open(&poller)?;
            ControlSocket::open(listener, &poller)
        };
        let control = watch().map_err(Error::io(starting("epoll")))?;
        let execs = Execs::open(exec_listener, &poller, &stage.bundle, members.clone())
            .map_err(Error::io(starting("epoll")))?;
        if begin == Begin::Later {
            runner::start(assignment, traces)?;
        }
        // Not before: the runtime would end with a program that ends at once.
        enter_processes(&processes).map_err(Error::io(starting("its namespaces")))?;
        keep_capabilities(PRIVILEGES).map_err(Error::io(starting("dropping privileges")))?;
        Ok(Self {
            assignment,
            pid,
            pidfd,
            poller,
            control,
            execs,
            streams,
            terminal,
            relay,
            meter: Meter::new(members.clone()),
            quotas: DiskQuotas::of(assignment, &members),
            members,
            numbers,
            stop_signal,
            stop: None,
            ended_by: None,
            killed: false,
            exceeded: None,
            died: None,
        })
    }

    /// The loop.
    fn serve(&mut self, supervisor: &OwnedFd) -> Ended {
        let mut events = VecDeque::new();
        let mut streams_ready = true;
        loop {
            if streams_ready {
                streams_ready = self.streams.pump(&self.poller);
            }
            self.relay.pump(&self.poller);
            for text in self.relay.news() {
                self.streams.say(&text);
                streams_ready = true;
            }
            if let Some((at, death)) = self.died
                && self.drained(at.elapsed())
            {
                return self.end(at, death);
            }
            self.check_time();
            let timeout = if streams_ready { Duration::ZERO } else { self.timeout() };
            if self.poller.wait(timeout, &mut events).is_err() {
                // Without a poller no event would ever arrive again.
                self.signal(Signal::KILL);
            }
            for (token, flags) in events.drain(..) {
                match token {
                    Token::Exit => self.reap(),
                    Token::Stream(_) => streams_ready = true,
                    Token::Port(index) => self.relay.accept(&self.poller, index),
                    Token::Connection(id) => self.relay.wake(id),
                    Token::Datagrams(index) => self.relay.receive(&self.poller, index),
                    Token::Session(id) => self.relay.reply(id),
                    Token::FramedPort(index) => self.relay.accept_framed(&self.poller, index),
                    Token::FramedSession(id) => self.relay.pump_framed(&self.poller, id),
                    Token::ControlSocket => self.control.accept(&self.poller),
                    Token::Control(id) => self.answer(id),
                    Token::ExecSocket
                    | Token::ExecClient(_)
                    | Token::ExecReport(_)
                    | Token::ExecExit(_)
                    | Token::ExecOutput(_) => {
                        self.execs.handle(token, &self.poller, self.pidfd.as_fd());
                    }
                    Token::Outbound(_)
                    | Token::OutboundConnection(_)
                    | Token::Resolver
                    | Token::Broker => self.handle_outbound(token),
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

    fn handle_outbound(&mut self, token: Token) {
        let Some(outbound) = self.relay.outbound() else { return };
        match token {
            Token::Outbound(index) => outbound.accept(&self.poller, index),
            Token::OutboundConnection(id) => outbound.wake(id),
            Token::Resolver => outbound.resolve(),
            _ => outbound.hear(&self.poller),
        }
    }

    /// Whether everything is delivered of a program that ended `since` ago.
    fn drained(&self, since: Duration) -> bool {
        let sent = self.relay.is_empty() || since > NETWORK_DRAIN_TIME_MAX;
        // A supervisor that stops it waits for the shim.
        let output_time_max = match self.stop {
            Some(_) => NETWORK_DRAIN_TIME_MAX,
            None => OUTPUT_DRAIN_TIME_MAX,
        };
        (sent && self.streams.finished()) || since > output_time_max
    }

    fn timeout(&self) -> Duration {
        let mut timeout = self.relay.timeout().min(self.meter.timeout());
        timeout = timeout.min(self.quotas.timeout().unwrap_or(timeout));
        if let Some(stop) = self.stop.as_ref().filter(|stop| !stop.killed) {
            timeout = timeout.min(stop.kill_at.saturating_duration_since(Instant::now()));
        }
        // Rounded up: waking a moment too early would only mean waking again.
        timeout + Duration::from_millis(1)
    }

    /// Enforces what depends on the time: limits, and the grace period of a stop.
    fn check_time(&mut self) {
        if self.meter.timeout().is_zero() {
            self.meter.sample(&self.relay);
            self.enforce(self.meter.exceeded(&self.assignment.limits));
        }
        let disk = self.quotas.exceeded();
        self.enforce(disk);
        if let Some(stop) = &mut self.stop
            && !stop.killed
            && stop.kill_at <= Instant::now()
        {
            stop.killed = true;
            self.killed = true;
            self.signal(Signal::KILL);
        }
    }

    /// Ends the container for a limit, if it is the first that it exceeds.
    fn enforce(&mut self, limit: Option<Exit>) {
        if self.exceeded.is_none() && limit.is_some() {
            self.exceeded = limit;
            self.signal(Signal::KILL);
        }
    }

    fn wait_for_program(&self) {
        let runtime = self.assignment.program.runtime.kind;
        wait_for_program(self.pid, self.pidfd.as_fd(), runtime);
    }

    fn signal(&self, signal: Signal) {
        if signal != Signal::KILL {
            self.wait_for_program();
        }
        // It fails when the process has ended, which the poller reports.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    fn stop(&mut self, asked: impl Into<Stop>) {
        let Stop { grace, signal } = asked.into();
        let kill_at = Instant::now() + grace.min(Stop::GRACE_MAX);
        match &mut self.stop {
            // Of several grace periods the one that ends first counts.
            Some(stop) => stop.kill_at = stop.kill_at.min(kill_at),
            None => {
                self.stop = Some(Stopping { kill_at, killed: false });
                let signal = signal.and_then(signal::from_number).unwrap_or(self.stop_signal);
                self.wait_for_program();
                if self.is_deaf_to(signal) {
                    self.ended_by = Some(signal);
                    self.signal(Signal::KILL);
                } else {
                    self.signal(signal);
                }
            }
        }
    }

    /// Whether the container is one process that a signal would end, were it not the first of its
    /// namespace: the kernel drops what such a process does not handle.
    fn is_deaf_to(&self, signal: Signal) -> bool {
        let handles = |line: &str| {
            let mask = line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigIgn:"))?;
            let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
            Some(mask & (1 << (signal.as_raw() - 1)) != 0)
        };
        let status = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let masks: Vec<bool> = status.lines().filter_map(handles).collect();
        let is_alone = self.members.processes().len() == 1;
        masks == [false, false] && is_alone && ENDING_SIGNALS.contains(&signal)
    }

    fn reap(&mut self) {
        if self.died.is_some() {
            return;
        }
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let death = match waitid(WaitId::Pid(self.pid), exited) {
            Ok(None) => return,
            Ok(Some(status)) => match (Death::of(&status), self.ended_by) {
                (Death::Signal(_), Some(signal)) => Death::Signal(signal.as_raw() as u8),
                (death, _) => death,
            },
            Err(_) => Death::UNKNOWN,
        };
        // The kernel counts before it kills, so the kill that explains this end is counted.
        self.meter.sample(&self.relay);
        self.poller.remove(&self.pidfd);
        self.relay.drain(&self.poller);
        self.died = Some((Instant::now(), death));
    }

    fn end(&mut self, died_at: Instant, death: Death) -> Ended {
        let circumstances = Circumstances {
            stopped: self.stop.is_some(),
            exceeded: self.exceeded.take(),
            out_of_memory: !self.killed && self.meter.ran_out_of_memory(died_at),
            lost_output: self.streams.lost_output(),
        };
        let mut usage = self.meter.sample(&self.relay);
        let exit = explain(death, circumstances, &self.assignment.limits);
        if !matches!(exit, Exit::Code(0) | Exit::Stopped(_)) {
            usage.failed_runs = 1;
        }
        Ended::new(exit, usage)
    }

    /// Clears everything away, and tells the supervisors that wait for it.
    fn finish(self, ended: &Ended, traces: &Traces, layers: Vec<Layer>) -> Result<(), Error> {
        let folder = &self.assignment.folder;
        self.execs.finish();
        // In this order: a supervisor that finds no socket finds the exit status. Where that
        // cannot be written, because the disk is full or the folder was removed, the machine is
        // still left clean, and the supervisors that wait are told.
        let written = record::write_ended(folder, ended, self.assignment.adoptable);
        let cleared = record::clear_dead(folder, traces);
        // A supervisor that hears of the end finds that nothing holds them any more.
        drop(layers);
        self.control.report(ended);
        cleared.and(written)
    }

    fn answer(&mut self, id: u32) {
        let Some((request, answer)) = self.control.receive(id) else { return };
        let reply = match request {
            Request::Wait => return,
            Request::Connect => return self.relay.set_broker(&self.poller, answer.into_stream()),
            Request::Status => Reply::Status(self.status()),
            Request::Listeners => {
                let (listeners, fds) = self.relay.listeners();
                return answer.send(&Reply::Listeners(listeners), &fds);
            }
            Request::Stop(stop) => {
                self.stop(stop);
                Reply::Done
            }
            Request::Kill { signal } => {
                if let Some(signal) = signal::from_number(signal) {
                    self.killed |= signal == Signal::KILL;
                    self.signal(signal);
                }
                Reply::Done
            }
            Request::Resize { rows, columns } => {
                if let Some(terminal) = &self.terminal {
                    let _ = tcsetwinsize(terminal, window_size(rows, columns));
                }
                Reply::Done
            }
        };
        answer.send(&reply, &[]);
    }

    fn status(&mut self) -> Status {
        Status {
            pid: self.numbers.of(self.pid, &self.pidfd),
            shim_pid: self.numbers.own(),
            ports: self.relay.container_ports(),
            stopping: self.stop.is_some(),
            usage: self.meter.sample(&self.relay),
        }
    }
}

/// Without a cgroup the kernel counts the processes of the namespace that is about to be made, for
/// the user that makes it. The shim and the runtime count as well.
fn limit_processes(settings: &Settings) -> io::Result<()> {
    let asked = settings.processes_max.unwrap_or(PIDS_MAX);
    let most = u64::from(asked) + RUNTIME_THREADS_MAX;
    // A limit of each of its users that is asked for is not to be above it.
    let asked = settings.ulimits.iter().filter(|ulimit| ulimit.name == "nproc");
    let most = asked.fold(most, |most, ulimit| most.max(ulimit.hard));
    let own = getrlimit(Resource::Nproc).maximum;
    let most = own.map_or(most, |own| own.min(most));
    Ok(setrlimit(Resource::Nproc, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Ports are relayed, and a terminal has its size, before the program's first step. One that writes
/// to memory could fill it before the runtime has written down its number beside.
fn begin(assignment: &Assignment) -> Begin {
    let is_alone = assignment.listeners.is_empty()
        && assignment.grants.outbound.is_empty()
        && assignment.program.local_ports.is_empty()
        && assignment.stdio.terminal.is_none();
    match is_alone && assignment.program.root == RootAccess::Writable {
        true => Begin::Now,
        false => Begin::Later,
    }
}

/// The way out, where any connection is granted. A kernel that offers none is named.
fn open_outbound(assignment: &Assignment, pid: Pid) -> Result<Option<Outbound>, Error> {
    let grants = &assignment.grants.outbound;
    if grants.is_empty() && assignment.program.local_ports.is_empty() {
        return Ok(None);
    }
    let open = || Outbound::open(namespace(pid, "user")?, namespace(pid, "net")?, grants.clone());
    open().map(Some).map_err(Error::NoWayOut)
}

/// From here on, new sockets of this process are in the container's namespace. Those that it was
/// handed stay where they were made.
fn enter_network(pid: Pid) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let network = namespace(pid, "net")?;
    Ok(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// From here on, children of this process are among the container's processes, and the kernel
/// refuses to start a thread.
fn enter_processes(namespace: &File) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?)
}

fn namespace(pid: Pid, name: &str) -> io::Result<File> {
    File::open(format!("/proc/{}/ns/{name}", pid.as_raw_nonzero()))
}

/// What the loop needs of root: to signal the container's users, and to write into folders of the
/// owner of `MARGAY_HOME`. A process that relays bytes from the network gets no more.
const PRIVILEGES: CapabilitySet = CapabilitySet::KILL.union(CapabilitySet::DAC_OVERRIDE);

/// Signals that end a process which does not handle them, and that STOPSIGNAL names.
const ENDING_SIGNALS: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2];

/// The image's STOPSIGNAL, or SIGTERM.
fn stop_signal(assignment: &Assignment) -> Result<Signal, Error> {
    let config = assignment.program.config.config.as_ref();
    let text = config.and_then(|config| config.stop_signal.as_deref()).unwrap_or("");
    if text.is_empty() {
        return Ok(Signal::TERM);
    }
    signal::from_name(text).ok_or_else(|| Error::Config {
        what: format!("STOPSIGNAL `{}`", text.escape_debug()),
        why: "it is no signal, such as `SIGTERM`, `SIGRTMIN+3` or `15`".to_owned(),
    })
}
