use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
};

use engine::{Ended, Event, Exit, LimitCode, Stdio, cgroup, frame, prefer_short_turns};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::CapabilitySet,
};
use wasmtime::{
    Engine,
    component::{InstancePre, Linker},
};

use super::{
    capability::{self, inbound, outbound::Outbound},
    command,
    container::Container,
    control::Control,
    exec::{CodeArea, CodeMemory, Execs},
    files::Volume,
    guest::{Guest, linker},
    http,
    loaded::{Loaded, load},
    meter::Meter,
    output::{Log, Output},
    stdin::Input,
    ticker::Ticker,
};
use crate::limits::{
    EXEC_INSTANCES_MAX, FILE_BYTES_MAX, FILE_BYTES_SLACK, SERVING_THREADS_MAX, heap_bytes_max,
};
use crate::{
    Assignment, World,
    assignment::{FolderFiles, WorkerMessage, join},
    engine::pooled,
    frame::ToSupervisor,
    inherited::{self, inherited},
    own_user::{self, FilesOf, Taken},
    sandbox::{self, Filter, OpenFolder, Strictness},
    supervisor::{CONTROL_FD, EMPTY_FD, INSTANCES_MAX},
    usage::{self, UsagePage},
};

/// Code that runs in the sandbox before the guest does: the tests use it to try the sandbox.
#[doc(hidden)]
pub type Intruder = fn(&[BorrowedFd<'_>]);

/// A worker's `main`. To be called before the process has any thread, and never with arguments of
/// a user.
pub fn main() -> ExitCode {
    run(None)
}

/// Like [`main`], with hostile code inside.
#[doc(hidden)]
pub fn main_with_intruder(intruder: Intruder) -> ExitCode {
    run(Some(intruder))
}

fn run(intruder: Option<Intruder>) -> ExitCode {
    sandbox::read_auxiliary_vector();
    // SAFETY: the supervisor has put them there, and nothing else in this process uses them.
    let (control, empty) = unsafe { (inherited(CONTROL_FD), inherited(EMPTY_FD)) };
    let worker = match Unassigned::make(intruder, empty) {
        Ok(worker) => worker,
        Err(why) => return not_started(&control, why),
    };
    let own_user = match own_user::take(&control) {
        Ok(own_user) => own_user,
        Err(error) => {
            return not_started(&control, format!("it cannot be a user of its own: {error}"));
        }
    };
    let assigned = match frame::receive_document::<WorkerMessage>(&control) {
        Ok(Some((message, fds))) => join(message, fds).map_err(|e| e.to_string()),
        // The supervisor does not need this worker.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => Err(error.to_string()),
    };
    // While there is one thread.
    let assigned = assigned.and_then(|(assignment, files)| {
        let entered = cgroup::enter(&files.cgroups);
        entered.map_err(|error| format!("its cgroup cannot be entered: {error}"))?;
        if assignment.program.world == World::Http {
            // Where the kernel refuses, it waits a little longer.
            let _ = prefer_short_turns();
        }
        Ok((assignment, files))
    });
    match assigned.and_then(|(assignment, files)| worker.take(assignment, files, own_user)) {
        Ok(assigned) => assigned.run(control),
        Err(why) => not_started(&control, why),
    }
}

fn not_started(control: &OwnedFd, why: String) -> ExitCode {
    let _ = writeln!(io::stderr(), "margay worker: {why}");
    let event = Event::Exited(Ended::of(Exit::NotStarted(why)));
    let _ = frame::send(control, &ToSupervisor::Event(event), &[]);
    ExitCode::FAILURE
}

/// A spare worker: without an assignment.
struct Unassigned {
    engine: Engine,
    linker: Linker<Guest>,
    /// Without volumes, and with.
    filters: [Filter; 2],
    threads: usize,
    instances: u32,
    code_memory: Arc<CodeMemory>,
    /// Its root folder once it needs no path any more.
    empty: OwnedFd,
    intruder: Option<Intruder>,
}

impl Unassigned {
    fn make(intruder: Option<Intruder>, empty: OwnedFd) -> Result<Self, String> {
        let instances: u32 =
            std::env::var(INSTANCES_MAX).ok().and_then(|text| text.parse().ok()).unwrap_or(128);
        let code_memory = Arc::new(CodeMemory::default());
        let engine =
            pooled(instances.saturating_add(EXEC_INSTANCES_MAX), Some(code_memory.clone()))
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
        // Read now: it lies in files.
        let threads =
            std::thread::available_parallelism().map_or(1, usize::from).min(SERVING_THREADS_MAX);
        Ok(Self { engine, linker, filters, threads, instances, code_memory, empty, intruder })
    }

    /// Takes everything over and enters the sandbox. What a preparer wrote is read only after
    /// Landlock holds: the image may have taken that preparer over.
    fn take(
        self,
        mut assignment: Assignment,
        folder: FolderFiles,
        own_user: Taken,
    ) -> Result<Assigned, String> {
        let cannot = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let page =
            UsagePage::map(&folder.usage).map_err(cannot("the usage page cannot be mapped"))?;
        let log = Arc::new(Log::new(folder.log, assignment.limits.log_bytes_max));
        let (stdin, stdout, stderr) = stdio(std::mem::take(&mut assignment.stdio), &log)
            .map_err(cannot("stdio cannot be set up"))?;
        let listeners =
            assignment.listeners.try_clone().map_err(cannot("a listener cannot be copied"))?;
        let area = CodeArea::map(folder.code_area, self.code_memory)
            .map_err(cannot("the code area cannot be mapped"))?;
        let mut denied = Vec::new();
        let mounts = std::mem::take(&mut assignment.volumes);
        let volumes = capability::files::mount(mounts, &assignment.grants.files, &mut denied)?;
        let filter = &self.filters[usize::from(!volumes.is_empty())];
        let sandboxed = cannot("the sandbox cannot be set up");
        limit_files(&assignment.limits, &volumes, [&stdout, &stderr])
            .and_then(|()| own_user.enter(files_of(&volumes)))
            .and_then(|()| sandbox::keep_capabilities(CapabilitySet::SYS_CHROOT))
            .and_then(|()| sandbox::hide())
            .and_then(|()| restrict_files(assignment.program.code.as_fd(), &volumes))
            .map_err(sandboxed)?;
        let Loaded { pre, lines, files, environment } =
            load(&self.engine, &self.linker, &mut assignment, volumes, &mut denied)?;
        sandbox::leave_files(self.empty.as_fd())
            .and_then(|()| sandbox::keep_capabilities(CapabilitySet::empty()))
            .and_then(|()| filter.apply())
            .map_err(sandboxed)?;
        if let Some(intruder) = self.intruder {
            intruder(&files.volumes());
        }
        let control = Arc::new(Control::new(listeners, log.clone()));
        let meter = Arc::new(Meter::new(page, assignment.limits.memory_bytes_max));
        let heap_max = heap_bytes_max(&assignment.limits);
        let outgrown = outgrown(control.clone(), log.clone(), &folder.usage, heap_max);
        let ticker = Ticker::start(&self.engine, heap_max, outgrown)
            .map_err(cannot("no thread can be started"))?;
        let limits = limited(&assignment.limits, self.instances);
        let container = Arc::new(Container {
            engine: self.engine,
            lines,
            environment,
            limits,
            clock: assignment.grants.clock(),
            random: assignment.grants.random(),
            files,
            meter: meter.clone(),
            outbound: Arc::new(Outbound::new(
                (!assignment.program.learns).then(|| assignment.grants.outbound.clone()),
                control.clone(),
                meter,
            )),
            control,
            log,
            stdin,
            stdout,
            stderr,
            ticker,
        });
        let execs = Arc::new(Execs::new(container.clone(), self.linker, area));
        Ok(Assigned {
            execs,
            exec: folder.exec,
            container,
            pre,
            assignment,
            usage: folder.usage,
            adoption: folder.adoption,
            denied,
            threads: self.threads,
        })
    }
}

/// Whose files a worker with these volumes works on.
fn files_of(volumes: &[(String, Volume)]) -> FilesOf {
    match volumes.is_empty() {
        true => FilesOf::Itself,
        false => FilesOf::Supervisor,
    }
}

/// Landlock: nothing but the machine code and the volumes can be opened.
fn restrict_files(code: BorrowedFd<'_>, volumes: &[(String, Volume)]) -> io::Result<()> {
    let folders = volumes.iter().filter_map(|(_, volume)| {
        Some(OpenFolder { folder: volume.folder()?, writable: volume.is_writable() })
    });
    let folders: Vec<_> = folders.collect();
    sandbox::restrict_files(Some(code), &folders)
}

/// No more at once than there are places for.
fn limited(limits: &spec::Limits, instances: u32) -> spec::Limits {
    spec::Limits { concurrency_max: limits.concurrency_max.min(instances), ..limits.clone() }
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
        let exit = Exit::Limit { code: LimitCode::Memory, message };
        if let Ok(usage) = usage {
            let _ = usage::write_exit(&usage, &exit);
        }
        control.report_exit(exit);
        std::process::exit(0)
    }
}

/// The log and the usage page are files of the host, and so is a volume: none grows past what this
/// worker may use. The kernel has one such limit for all files of a process, so there is none where
/// the caller has redirected the output into a file.
fn limit_files(
    limits: &spec::Limits,
    volumes: &[(String, Volume)],
    output: [&Output; 2],
) -> io::Result<()> {
    // The limit is an error of the call that exceeds it (`EFBIG`), also where it was inherited: the
    // signal that comes with it would end all guests for what one of them wrote.
    // SAFETY: to ignore a signal runs no code.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    if output.into_iter().any(Output::is_file) {
        return Ok(());
    }
    let own = spec::LogIndex::file_max(limits.log_bytes_max).max(usage::PAGE_BYTES);
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
    let (open, terminal) = (stdio.stdin.is_some(), stdio.terminal.is_some());
    inherited::replace(0, stdio.stdin.as_ref().map_or(null.as_fd(), AsFd::as_fd))?;
    inherited::replace(1, null.as_fd())?;
    // The supervisor's own error stream must not be kept open by a worker that outlives it.
    inherited::replace(2, null.as_fd())?;
    let output =
        |which, fd: Option<OwnedFd>| Output::new(which, fd.map(File::from), log.clone(), terminal);
    let (stdout, stderr) = (
        output(spec::LogSource::Stdout, stdio.stdout),
        output(spec::LogSource::Stderr, stdio.stderr),
    );
    let panics = log.clone();
    std::panic::set_hook(Box::new(move |panic| panics.say(&format!("margay: E_WORKER: {panic}"))));
    Ok((Input { open, terminal }, stdout, stderr))
}

/// In the sandbox, with everything it will ever have.
struct Assigned {
    container: Arc<Container>,
    execs: Arc<Execs>,
    /// The socket on which their clients connect.
    exec: OwnedFd,
    pre: InstancePre<Guest>,
    assignment: Assignment,
    usage: File,
    adoption: Option<OwnedFd>,
    denied: Vec<String>,
    threads: usize,
}

impl Assigned {
    fn run(self, control: OwnedFd) -> ExitCode {
        let mut builder = match self.assignment.program.world {
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
        let usage = self.usage.try_clone();
        let files_only = self.assignment.program.files_only;
        let exit = runtime.block_on(self.serve(control));
        container.log.finish();
        // No program has ended.
        if let Ok(usage) = usage
            && !files_only
        {
            // For an agent that was not there for the event.
            let _ = usage::write_exit(&usage, &exit);
        }
        container.control.report_exit(exit);
        // Threads that still read or sleep end with the process.
        std::process::exit(0)
    }

    async fn serve(mut self, supervisor: OwnedFd) -> Exit {
        let control = self.container.control.clone();
        if self.adoption.is_some() {
            control.allow_adoption();
        }
        if let Err(error) = control.obey(supervisor) {
            return Exit::NotStarted(format!("the supervisor cannot be listened to: {error}"));
        }
        if let Some(adoption) = self.adoption.take() {
            tokio::spawn(control.clone().accept_adoptions(adoption));
        }
        tokio::spawn(self.execs.accept(self.exec, self.assignment.program.files_only));
        for line in &self.denied {
            control.deny(line);
        }
        if self.assignment.program.files_only {
            control.report(Event::Started);
            let mut stopping = control.stopping();
            let _ = stopping.wait_for(Option::is_some).await;
            return Exit::Code(0);
        }
        match self.assignment.program.world {
            World::Command => command::run(self.container, self.pre).await,
            World::Http => {
                let listeners = inbound::granted(&mut self.assignment, &control);
                http::serve(self.container, self.pre, listeners).await
            }
        }
    }
}
