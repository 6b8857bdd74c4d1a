use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
};

use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::CapabilitySet,
};
use spec::InboundGrant;
use wasmtime::{
    Engine,
    component::{InstancePre, Linker},
};

use super::{
    command,
    container::Container,
    control::{Control, Listeners},
    files::Volume,
    guest::{Guest, linker},
    http,
    loaded::{self, Loaded, load},
    meter::Meter,
    outgoing::Ways,
    output::{Log, Output, Which},
    stdin::Input,
    ticker::Ticker,
};
use crate::{
    Assignment, Event, Exit, Stdio, World,
    assignment::Order,
    engine,
    frame::{self, ToSupervisor},
    inherited::{self, inherited},
    supervisor::{CONTROL_FD, EMPTY_FD, INSTANCES_MAX, read_order},
    usage::{self, Page},
    walls::{self, Filter, Place, Strictness},
};

/// Threads that serve. More would only wait for the same sockets: one core answers tens of
/// thousands of requests.
const THREADS_MAX: usize = 4;
/// The largest file that a worker may write, where no smaller quota holds.
const FILE_BYTES_MAX: u64 = 1 << 40;
/// What a file may be longer than its own limit says before the kernel ends the worker: a line, or
/// a page.
const FILE_BYTES_SLACK: u64 = 1 << 20;

/// What a worker's own heap may have beyond the memory and the writable layer of its container.
const HEAP_BYTES_SLACK: u64 = 64 << 20;

/// Code that runs inside the walls before the guest does: the tests use it to try them.
#[doc(hidden)]
pub type Intruder = fn(&[BorrowedFd<'_>]);

/// A worker's `main`. To be called before the process has any thread, and never with arguments that
/// a person gave.
pub fn main() -> ExitCode {
    live(None)
}

/// Like [`main`], with somebody hostile inside.
#[doc(hidden)]
pub fn main_with_intruder(intruder: Intruder) -> ExitCode {
    live(Some(intruder))
}

fn live(intruder: Option<Intruder>) -> ExitCode {
    // SAFETY: our supervisor has put it there, and nobody else in this process looks at it.
    let (control, empty) = unsafe { (inherited(CONTROL_FD), inherited(EMPTY_FD)) };
    let blank = match Blank::make(intruder, empty) {
        Ok(blank) => blank,
        Err(why) => return not_started(&control, why),
    };
    let _ = frame::send(&control, &ToSupervisor::Blank, &[]);
    let assigned = match read_order::<Order>(&control) {
        Ok((order, fds)) => order.join(fds).map_err(|e| e.to_string()),
        // Nobody needs this worker.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return ExitCode::SUCCESS,
        Err(error) => Err(error.to_string()),
    };
    match assigned.and_then(|assignment| blank.settle(assignment)) {
        Ok(settled) => settled.run(control),
        Err(why) => not_started(&control, why),
    }
}

fn not_started(control: &OwnedFd, why: String) -> ExitCode {
    let _ = writeln!(io::stderr(), "margay worker: {why}");
    let _ = frame::send(control, &ToSupervisor::Event(Event::Exited(Exit::NotStarted(why))), &[]);
    ExitCode::FAILURE
}

/// A worker before its assignment.
struct Blank {
    engine: Engine,
    linker: Linker<Guest>,
    /// Without volumes, and with.
    filters: [Filter; 2],
    threads: usize,
    instances: u32,
    /// Where it goes when it needs no path any more.
    empty: OwnedFd,
    intruder: Option<Intruder>,
}

impl Blank {
    fn make(intruder: Option<Intruder>, empty: OwnedFd) -> Result<Self, String> {
        let instances =
            std::env::var(INSTANCES_MAX).ok().and_then(|text| text.parse().ok()).unwrap_or(128);
        let engine = engine::pooled(instances)
            .map_err(|e| format!("the Wasm engine cannot start: {e:#}"))?;
        let linker = linker(&engine).map_err(|e| format!("the Wasm engine cannot link: {e:#}"))?;
        let strictness = if intruder.is_some() { Strictness::Refuse } else { Strictness::Kill };
        let filter = |volumes| {
            Filter::serving(volumes, strictness).map_err(|e| format!("no system call filter: {e}"))
        };
        let filters = [filter(false)?, filter(true)?];
        // What a guest makes in a volume is for the next task too, which has another uid; the
        // folder above is closed.
        rustix::process::umask(rustix::fs::Mode::empty());
        // Asked now: the answer lies in files.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        Ok(Self { engine, linker, filters, threads, instances, empty, intruder })
    }

    /// Takes everything over and raises the walls. Whatever a preparer wrote is touched behind the
    /// first of them only: the image may have taken that preparer over.
    fn settle(self, mut assignment: Assignment) -> Result<Settled, String> {
        let cannot = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let page =
            Page::map(&assignment.usage).map_err(cannot("the usage page cannot be mapped"))?;
        let log = Arc::new(Log::new(assignment.log.take(), assignment.limits.log_bytes_max));
        let (stdin, stdout, stderr) = stdio(std::mem::take(&mut assignment.stdio), &log)
            .map_err(cannot("stdio cannot be set up"))?;
        let listeners = copies(&assignment).map_err(cannot("a listener cannot be copied"))?;
        let mounted = loaded::mount(&mut assignment)?;
        let places: Vec<_> = mounted
            .volumes
            .iter()
            .map(|(_, v)| Place { folder: v.folder(), writable: v.is_writable() })
            .collect();
        let filter = &self.filters[usize::from(!places.is_empty())];
        let wall = cannot("a wall cannot be raised");
        limit_files(&assignment.limits, &mounted.volumes)
            .and_then(|()| walls::keep_capabilities(CapabilitySet::SYS_CHROOT))
            .and_then(|()| walls::hide())
            .and_then(|()| walls::shut_files(Some(assignment.code.as_fd()), &places))
            .map_err(wall)?;
        drop(places);
        let Loaded { pre, files, env, denied } =
            load(&self.engine, &self.linker, &mut assignment, mounted)?;
        walls::leave_files(self.empty.as_fd())
            .and_then(|()| walls::keep_capabilities(CapabilitySet::empty()))
            .and_then(|()| filter.apply())
            .map_err(wall)?;
        if let Some(intruder) = self.intruder {
            intruder(&files.volumes().iter().map(Volume::folder).collect::<Vec<_>>());
        }
        let control = Arc::new(Control::new(listeners, log.clone()));
        let meter = Arc::new(Meter::new(page, assignment.limits.memory_bytes_max));
        let limits = &assignment.limits;
        let heap_max = HEAP_BYTES_SLACK
            .saturating_add(limits.memory_bytes_max)
            .saturating_add(limits.writable_bytes_max);
        let outgrown = outgrown(control.clone(), log.clone(), &assignment.usage, heap_max);
        let ticker = Ticker::start(&self.engine, heap_max, outgrown)
            .map_err(cannot("no thread can be started"))?;
        let mut limits = assignment.limits.clone();
        limits.concurrency_max = limits.concurrency_max.min(self.instances);
        let container = Container {
            engine: self.engine,
            args: std::mem::take(&mut assignment.args),
            env,
            working_dir: assignment.working_dir.clone(),
            limits,
            clock: assignment.grants.clock(),
            random: assignment.grants.random(),
            files,
            meter: meter.clone(),
            ways: Arc::new(Ways::new(assignment.grants.outbound.clone(), control.clone(), meter)),
            control,
            log,
            stdin,
            stdout,
            stderr,
            ticker,
        };
        Ok(Settled {
            container: Arc::new(container),
            pre,
            assignment,
            denied,
            threads: self.threads,
        })
    }
}

/// How a worker ends whose own heap is over its limit.
fn outgrown(
    control: Arc<Control>,
    log: Arc<Log>,
    usage: &File,
    heap_max: u64,
) -> impl FnOnce() + Send + use<> {
    let usage = usage.try_clone();
    move || {
        let message = format!(
            "what its guests hold on the host needed more than {}",
            spec::print_bytes(heap_max)
        );
        log.say(&format!("margay: E_MEMORY: {message}"));
        log.finish();
        let exit = Exit::Limit { code: "E_MEMORY".to_owned(), message };
        if let Ok(usage) = usage {
            let _ = usage::write_exit(&usage, &exit);
        }
        control.last_word(exit);
        std::process::exit(0)
    }
}

/// The log and the usage page are files of the host, and so is a volume: none grows past what this
/// worker may use.
fn limit_files(limits: &spec::Limits, volumes: &[(String, Volume)]) -> io::Result<()> {
    let own = limits.log_bytes_max.max(usage::PAGE_BYTES);
    let writable = volumes.iter().filter(|(_, volume)| volume.is_writable());
    let most = writable
        .map(|(_, volume)| volume.max_bytes().unwrap_or(FILE_BYTES_MAX))
        .fold(own, u64::max);
    let most = Some(most.saturating_add(FILE_BYTES_SLACK).min(FILE_BYTES_MAX));
    Ok(setrlimit(Resource::Fsize, Rlimit { current: most, maximum: most })?)
}

/// Puts the handed descriptors where a program expects them. Its output also goes to the log.
fn stdio(stdio: Stdio, log: &Arc<Log>) -> io::Result<(Input, Output, Output)> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let open = stdio.stdin.is_some();
    inherited::replace(0, stdio.stdin.as_ref().map_or(null.as_fd(), AsFd::as_fd))?;
    inherited::replace(1, null.as_fd())?;
    // The supervisor's own error stream must not be kept open by a worker that outlives it.
    inherited::replace(2, null.as_fd())?;
    let output = |which, fd: Option<OwnedFd>| {
        Output::new(which, fd.map(File::from), log.clone(), stdio.terminal)
    };
    let (stdout, stderr) =
        (output(Which::Stdout, stdio.stdout), output(Which::Stderr, stdio.stderr));
    let said = log.clone();
    std::panic::set_hook(Box::new(move |panic| said.say(&format!("margay: E_WORKER: {panic}"))));
    Ok((Input { open, terminal: stdio.terminal }, stdout, stderr))
}

/// Listeners for the next agent, beside those that we accept from.
fn copies(assignment: &Assignment) -> io::Result<Listeners> {
    let tcp = assignment
        .listeners
        .iter()
        .map(|listener| Ok((listener.container_port, OwnedFd::from(listener.socket.try_clone()?))));
    let ingress = assignment.ingress.as_ref().map(|ingress| {
        Ok::<_, io::Error>((ingress.container_port, OwnedFd::from(ingress.socket.try_clone()?)))
    });
    Ok(Listeners { tcp: tcp.collect::<io::Result<_>>()?, ingress: ingress.transpose()? })
}

/// Behind its walls, with everything it will ever have.
struct Settled {
    container: Arc<Container>,
    pre: InstancePre<Guest>,
    assignment: Assignment,
    denied: Vec<String>,
    threads: usize,
}

impl Settled {
    fn run(self, control: OwnedFd) -> ExitCode {
        let mut builder = match self.assignment.world {
            World::Http => tokio::runtime::Builder::new_multi_thread(),
            World::Command => tokio::runtime::Builder::new_current_thread(),
        };
        let runtime =
            match builder.worker_threads(self.threads).max_blocking_threads(4).enable_all().build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    return not_started(&control, format!("no event loop can be made: {error}"));
                }
            };
        let container = self.container.clone();
        let usage = self.assignment.usage.try_clone();
        let exit = runtime.block_on(self.serve(control));
        container.log.finish();
        if let Ok(usage) = usage {
            // For an agent that was not there to hear it.
            let _ = usage::write_exit(&usage, &exit);
        }
        container.control.last_word(exit);
        // Threads that still read or sleep end with the process.
        std::process::exit(0)
    }

    async fn serve(mut self, control: OwnedFd) -> Exit {
        let ours = self.container.control.clone();
        if self.assignment.adoption.is_some() {
            ours.may_be_adopted();
        }
        if let Err(error) = ours.obey(control) {
            return Exit::NotStarted(format!("the supervisor cannot be listened to: {error}"));
        }
        if let Some(adoption) = self.assignment.adoption.take() {
            tokio::spawn(ours.clone().welcome(adoption));
        }
        for line in &self.denied {
            ours.deny(line);
        }
        match self.assignment.world {
            World::Command => command::run(self.container, self.pre).await,
            World::Http => {
                let (tcp, unix) = reachable(&mut self.assignment, &ours);
                http::serve(self.container, self.pre, tcp, unix).await
            }
        }
    }
}

/// The listeners whose ports were granted. The others stay closed to the guest, and that is a
/// denial.
fn reachable(
    assignment: &mut Assignment,
    control: &Control,
) -> (Vec<std::net::TcpListener>, Option<std::os::unix::net::UnixListener>) {
    let grants = std::mem::take(&mut assignment.grants);
    let granted = |port| {
        let granted = grants.has_port(port);
        if !granted {
            control.deny(&InboundGrant { port }.to_string());
        }
        granted
    };
    let tcp = std::mem::take(&mut assignment.listeners);
    let tcp = tcp
        .into_iter()
        .filter(|listener| granted(listener.container_port))
        .map(|l| l.socket)
        .collect();
    let ingress = assignment.ingress.take().filter(|ingress| granted(ingress.container_port));
    (tcp, ingress.map(|ingress| ingress.socket))
}
