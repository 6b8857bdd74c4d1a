mod learned; // the role that a run needed

use std::{
    collections::HashSet,
    convert::Infallible,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use node::{
    AttachOptions, Attachment, Mounted, Note, PrivateNetwork, PublishRange, RunRequest, Started,
    tasks::RestartPolicy,
};
use spec::{Capability, LimitOverrides, OutboundGrant, SecretName, Transport};

use crate::{
    failure::{Advice, HOST_ERROR, USAGE_ERROR},
    flags::{self, Environment},
    given::{Given, unless_empty},
    home::Home,
    images::{self, Fetch},
    output::{Paint, line, notice, printable},
    preparing::Preparing,
    settings::SettingsFlags,
    terminal,
    transfer::Remote,
    verbs::attach,
};
use learned::LearnedRole;

/// Run an image here, without any server
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "margay run [OPTIONS] IMAGE [ARG]...",
    // As in Docker, -h names the host.
    disable_help_flag = true,
    after_help = "IMAGE is a name from `margay images`, REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST (fetched when it is
missing), a .wasm file, an OCI layout (folder or tar), or an archive of `docker save`.

A guest reaches nothing except its ports, variables, secrets and volumes from these flags, and what --allow grants.
Exits with the guest's code, with 128 + N when signal N ended it, with 126 or 127 when a Linux
program cannot run or is not there, and with 125 when margay failed.

Examples:
  margay run -p 8080:80 cats
  margay run ./hello.wasm a b
  margay run -d --name book -p 8080:80 -v book:/data adopt
  margay run --allow net.out:https://api.example.com ./fetch.wasm
  margay run --learn ./fetch.wasm"
)]
pub struct Args {
    /// Run in the background and print the task's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    keys: attach::Keys,
    #[command(flatten)]
    signals: attach::Signals,
    /// Let a Wasm program reach every host but internal ones, and print the role that it needed
    #[arg(long)]
    learn: bool,
    #[command(flatten)]
    task: TaskArgs,
}

/// What `run` and `create` take.
#[derive(Debug, clap::Args)]
pub struct TaskArgs {
    /// Keep stdin open to the guest
    #[arg(short, long)]
    interactive: bool,
    /// Give the guest a terminal
    #[arg(short, long)]
    tty: bool,
    /// Publish a port of the guest on this machine
    #[arg(short, long, value_name = "[[ADDRESS:]PORT:]PORT[-PORT][/udp]")]
    publish: Vec<PublishRange>,
    #[command(flatten)]
    environment: Environment,
    /// Mount a volume, or a folder of this machine
    #[arg(short, long, value_name = "SOURCE:PATH[:ro]")]
    volume: Vec<Mounted>,
    /// The most memory the guest may have [default: 128m]
    #[arg(short, long, value_name = "BYTES", value_parser = memory)]
    memory: Option<u64>,
    /// Grant a capability, as in `fs:/data#rw;volume=book;max=1g`
    #[arg(long, value_name = "CAPABILITY")]
    allow: Vec<Capability>,
    /// Open an internal network to grants with `;private`: the second of the two keys
    #[arg(long, value_name = "ADDRESS/BITS")]
    private_network: Vec<PrivateNetwork>,
    /// End each request, or the command, after this time
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    timeout: Option<Duration>,
    /// End each request, or the command, after this much time on a processor
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    cpu_time: Option<Duration>,
    /// Change another limit: handles, concurrency, request-body, writable or log
    #[arg(long, value_name = "NAME=VALUE", value_parser = limit)]
    limit: Vec<String>,
    /// Give the task a name
    #[arg(long, value_parser = unless_empty(name))]
    name: Option<Given<String>>,
    /// Remove the task and its log when it ends
    #[arg(long)]
    rm: bool,
    /// Start the program again when it has ended: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = restart)]
    restart: RestartPolicy,
    /// Write the task's id into a new file
    #[arg(long, value_name = "FILE", value_parser = unless_empty(path))]
    cidfile: Option<Given<PathBuf>>,
    /// Let a Linux program write only to memory, to /tmp, and to what its grants name
    #[arg(long)]
    read_only: bool,
    /// Replace the image's program
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// When to ask a registry for the image
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pull: Fetch,
    /// How long the guest may take to end once asked to, in seconds; -1 for as long as it takes
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = flags::grace
    )]
    stop_timeout: Duration,
    #[command(flatten)]
    settings: SettingsFlags,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    remote: Remote,
    /// What to run, and arguments instead of the image's own: all that follows the image is for the
    /// guest
    // One argument for both: clap would take a flag of ours between two.
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE", "ARG"])]
    image_and_arguments: Vec<String>,
}

/// One page of guest memory needs a multiple of this for the instance around it; and a bare number
/// is a slip of the pen.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

fn memory(text: &str) -> Result<u64, String> {
    match spec::parse_bytes(text).map_err(|error| error.to_string())? {
        0..MEMORY_BYTES_MIN => {
            let least = spec::print_bytes(MEMORY_BYTES_MIN);
            Err(format!("a task always has a limit: use {least} or more, as in 64m"))
        }
        bytes => Ok(bytes),
    }
}

fn limit(text: &str) -> Result<String, spec::ParseError> {
    LimitOverrides::default().set(text)?;
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<String, node::Error> {
    node::tasks::check_name(text)?;
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<PathBuf, Infallible> {
    Ok(text.into())
}

/// An empty one is Docker's default.
fn restart(text: &str) -> Result<RestartPolicy, String> {
    let text = if text.is_empty() { "no" } else { text };
    text.parse().map_err(|error: node::Error| error.to_string())
}

/// Which terminal a program gets that is to have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Ours.
    Ours,
    /// That of a later `start`.
    Later,
}

impl Args {
    /// Runs to the end, or until it runs with `-d`.
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        ensure!(
            !self.detach || !self.task.settings.attaches(),
            Advice::new("-d and -a contradict each other")
                .hint("leave one of them out")
                .code(USAGE_ERROR)
        );
        let in_foreground = !self.detach && !self.runs_in_keeper();
        ensure!(
            in_foreground || !self.learn,
            Advice::new("--learn prints what it has learned when the run ends in the foreground")
                .hint("leave out -d, -it and --sig-proxy=false")
                .code(USAGE_ERROR)
        );
        let terminal = if self.detach { Terminal::Later } else { Terminal::Ours };
        let mut request = self.task.request(home, terminal)?;
        request.learn = self.learn;
        let mut talk = Talk::new(&self.task);
        if self.detach {
            let started = self.task.with_cidfile(|| {
                let started = node::detach(home.node(), &request, |note| talk.hear(&note))?;
                Ok((started.id.clone(), started))
            })?;
            line(format_args!("{}", started.id));
            tell_started(&started);
            return Ok(ExitCode::SUCCESS);
        }
        let mut ids = CidFile::open(self.task.cidfile())?;
        let mut name = String::new();
        let watch = |note| {
            talk.hear(&note);
            if let Note::Created { id, name: given } = note {
                ids.write(&id);
                name = given;
            }
        };
        if self.runs_in_keeper() {
            let options = AttachOptions {
                input: self.task.interactive,
                input_ends: true,
                signals: self.signals.sig_proxy,
                keys: self.keys.detach_keys.unwrap_or_default(),
                ..AttachOptions::default()
            };
            let mut screen = attach::Screen::default();
            let show = |attachment: Attachment<'_>| screen.show(&attachment);
            let end = node::run_attached(home.node(), &request, &options, watch, show);
            return Ok(screen.exit(end?, &name));
        }
        exit(&node::run_local(home.node(), request, watch)?)
    }

    /// A terminal can be left, so that the task needs a keeper from the start.
    fn runs_in_keeper(&self) -> bool {
        self.task.tty && self.task.interactive || !self.signals.sig_proxy
    }
}

/// Says why a task ended, and exits as it did.
pub fn exit(outcome: &node::RunOutcome) -> anyhow::Result<ExitCode> {
    if let Some(reason) = &outcome.reason {
        notice(format_args!("{} {}", Paint::on_stderr().error("error:"), printable(reason)));
    }
    // A process can only say 0 to 255.
    Ok(ExitCode::from(u8::try_from(outcome.exit_code).unwrap_or(HOST_ERROR)))
}

impl TaskArgs {
    fn cidfile(&self) -> Option<&Path> {
        self.cidfile.as_ref().and_then(Given::get).map(PathBuf::as_path)
    }

    /// Makes a task, and writes its id into the file of `--cidfile`, which must be new.
    pub fn with_cidfile<T>(
        &self,
        make: impl FnOnce() -> anyhow::Result<(String, T)>,
    ) -> anyhow::Result<T> {
        let mut ids = CidFile::open(self.cidfile())?;
        let (id, made) = make()?;
        ids.write(&id);
        Ok(made)
    }

    /// What to run.
    pub fn request(&self, home: &Home, terminal: Terminal) -> anyhow::Result<RunRequest> {
        let (image, arguments) =
            self.image_and_arguments.split_first().expect("clap asks for one at least");
        self.check()?;
        // All that can be wrong with the arguments, before anything is fetched.
        let settings = self.settings.settings()?;
        let (env, limits) = (self.environment.variables()?, self.limits()?);
        let secrets = self.environment.secrets()?;
        let secret_files = self.environment.secret_files()?;
        let choice = self.settings.choice();
        let found = images::find_for(home, image, self.pull, &self.remote, choice)?;
        Ok(RunRequest {
            name: Given::of(self.name.as_ref()),
            // An empty one takes the image's away.
            entrypoint: self.entrypoint.clone().map(|program| match program.is_empty() {
                true => Vec::new(),
                false => vec![program],
            }),
            command: arguments.to_vec(),
            env,
            secrets,
            secret_files,
            ports: self.publish.iter().flat_map(|range| range.0.iter().copied()).collect(),
            mounts: self.volume.iter().cloned().chain(self.settings.mounts()).collect(),
            allow: self.allow.clone(),
            private_networks: self.private_network.clone(),
            memory_bytes_max: self.memory,
            cpu_time_max: self.cpu_time,
            wall_time_max: self.timeout,
            limits,
            interactive: self.interactive || self.settings.attaches_stdin(),
            terminal: self.terminal(terminal)?,
            remove_at_end: self.rm,
            restart: self.restart,
            read_only: self.read_only,
            grace: self.stop_timeout,
            settings,
            ..RunRequest::of(found.image.clone())
        })
    }

    fn limits(&self) -> anyhow::Result<LimitOverrides> {
        let mut limits = LimitOverrides::default();
        for line in &self.limit {
            limits.set(line)?;
        }
        if let Some(bytes) = self.settings.log_bytes_max()? {
            ensure!(
                limits.log_bytes_max.is_none(),
                Advice::new("--log-opt and --limit log=BYTES say the same")
                    .hint("leave one of them out")
                    .code(USAGE_ERROR)
            );
            limits.set(&format!("log={bytes}"))?;
        }
        Ok(limits)
    }

    /// What no single flag can know, before anything is fetched or prepared.
    fn check(&self) -> anyhow::Result<()> {
        if self.rm && self.restart != RestartPolicy::No {
            let message =
                "--rm and --restart contradict each other: a removed task has no next start";
            bail!(Advice::new(message).hint("leave one of them out"));
        }
        let mut paths = HashSet::new();
        let mounts = self.volume.iter().cloned().chain(self.settings.mounts());
        let memory = self.settings.tmpfs_paths().map(str::to_owned);
        let mut mounted = mounts.map(|mounted| mounted.path).chain(memory);
        if let Some(twice) = mounted.find(|path| !paths.insert(path.clone())) {
            let message = format!("something is mounted at `{twice}` twice");
            let hint = "mount one thing at each path";
            bail!(Advice::new(message).hint(hint).code(USAGE_ERROR));
        }
        let reaches_out = |grant: &Capability| matches!(grant, Capability::Outbound(_));
        let is_open = !self.publish.is_empty() || self.allow.iter().any(reaches_out);
        self.settings.check(self.memory, is_open)
    }

    fn terminal(&self, terminal: Terminal) -> anyhow::Result<Option<(u16, u16)>> {
        match (self.tty, terminal) {
            (false, _) => return Ok(None),
            (true, Terminal::Later) => return Ok(Some(terminal::UNSEEN)),
            (true, Terminal::Ours) => {}
        }
        terminal::size(self.interactive).map(Some)
    }
}

/// `margay keeper`: what stays of `margay run -d`, with a request on stdin.
pub fn keep() -> ExitCode {
    let home =
        std::env::var_os("MARGAY_HOME").map(PathBuf::from).context("`MARGAY_HOME` is not set");
    let kept = home.and_then(|home| Ok(node::keep(&node::Home::at(home)?)?));
    match kept {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::failure::report(&error);
            ExitCode::from(HOST_ERROR)
        }
    }
}

/// The file of `--cidfile`.
struct CidFile(Option<(PathBuf, std::fs::File)>);

impl CidFile {
    /// Before the task is made: a file that exists holds the id of another.
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = std::fs::File::create_new(path).map_err(|error| {
            let message =
                format!("cannot make the file of --cidfile, `{}`: {error}", path.display());
            Advice::new(message).hint("remove it, or name a new file")
        })?;
        Ok(Self(Some((path.to_owned(), file))))
    }

    fn write(&mut self, id: &str) {
        if let Some((path, mut file)) = self.0.take()
            && let Err(error) = file.write_all(id.as_bytes())
        {
            notice(format_args!("cannot write the task's id to `{}`: {error}", path.display()));
        }
    }
}

impl Drop for CidFile {
    /// No task was made.
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What is said on stderr while a task starts and runs.
#[derive(Default)]
pub struct Talk {
    quiet: bool,
    /// While its image is made ready.
    slow: Option<Preparing>,
    /// What the task is granted.
    allowed: Vec<Capability>,
    secrets: Vec<SecretName>,
}

impl Talk {
    pub fn new(task: &TaskArgs) -> Self {
        Self {
            quiet: task.settings.is_quiet(),
            slow: None,
            allowed: task.allow.clone(),
            secrets: task.environment.secret_names(),
        }
    }

    pub fn hear(&mut self, note: &Note) {
        self.slow = match note {
            Note::Preparing { bytes } if !self.quiet => Some(Preparing::of(*bytes)),
            _ => None,
        };
        match note {
            Note::Learned { lines } => {
                let reached = lines.iter().filter_map(|line| line.parse().ok());
                let reached: Vec<Capability> = reached.collect();
                let role = LearnedRole::of(&self.allowed, &self.secrets, &reached);
                notice(format_args!("{}", role.told()));
            }
            note => tell(note, &self.allowed),
        }
    }
}

fn tell(note: &Note, allowed: &[Capability]) {
    match note {
        Note::Started(started) => {
            tell_started(started);
            for capability in &started.cut {
                notice(format_args!("Granted and not asked for by the image: {capability}"));
            }
        }
        Note::Interrupted => {
            notice(format_args!("The task still runs: Ctrl-C again kills it at once"))
        }
        Note::Warning { text } => {
            notice(format_args!(
                "The OCI runtime of this machine: {text}. This is said once; margay doctor says it \
                 again"
            ));
        }
        Note::Denied { line, count } => notice(format_args!("{}", denial(line, *count, allowed))),
        _ => {}
    }
}

/// The message of a denial. The line comes from a worker, which is not trusted, and a terminal
/// obeys control characters.
fn denial(line: &str, count: u64, allowed: &[Capability]) -> String {
    let line = printable(line);
    match count {
        1 => format!(
            "Denied: {line}\n{} {}",
            Paint::on_stderr().hint("hint:"),
            to_grant(&line, allowed)
        ),
        _ => format!("Denied: {line} ({count} times)"),
    }
}

/// What would grant `line` beside what is `allowed`. An internal address takes two keys.
fn to_grant(line: &str, allowed: &[Capability]) -> String {
    match line.parse() {
        Ok(Capability::Outbound(denied @ OutboundGrant { private: true, .. })) => {
            let network = match &denied.host {
                spec::Host::Address(address) => address.to_string(),
                _ => "ADDRESS/BITS".to_owned(),
            };
            let is_it = |line: &Capability| match line {
                Capability::Outbound(grant) => {
                    grant.private && grant.allows(denied.scheme, &denied.host, denied.port)
                }
                _ => false,
            };
            match allowed.iter().any(is_it) {
                true => format!(
                    "it is an internal address, and its network is not opened: \
                     --private-network {network}"
                ),
                false => format!(
                    "it is an internal address, which takes two keys: --allow '{line}' \
                     --private-network {network}"
                ),
            }
        }
        _ => format!("grant it: --allow '{line}'"),
    }
}

fn tell_started(started: &Started) {
    if let Some(port) = started.unserved.first() {
        notice(format_args!(
            "Port {port} is not published: the program runs once, and answers no requests"
        ));
    }
    if let Some(port) = started.unpublished.first() {
        notice(format_args!(
            "The image serves on port {port}, and no port is published\n{} publish it: -p 8080:{port}",
            Paint::on_stderr().hint("hint:")
        ));
    }
    for port in &started.ports {
        if let Some(host_port) = port.host_port {
            match port.transport {
                Transport::Tcp => notice(format_args!(
                    "Listening on http://localhost:{host_port} (port {} of the task)",
                    port.container_port
                )),
                Transport::Udp => notice(format_args!(
                    "Listening on {host_port}/udp (port {} of the task)",
                    port.port()
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_moves_no_cursor() {
        assert_eq!(denial("net.out:\x1b[2J", 2, &[]), "Denied: net.out:\\u{1b}[2J (2 times)");
        assert!(!denial("env:A\n\x1b]0;x\x07", 1, &[]).contains(['\x07', '\u{9b}']));
    }

    #[test]
    fn an_internal_address_names_the_keys_that_are_missing() {
        let line = "net.out:http://10.0.0.7:80;private";
        let both = to_grant(line, &[]);
        assert!(both.contains("--allow 'net.out") && both.contains("--private-network 10.0.0.7"));
        for allowed in [line, "net.out:http://10.0.0.0/8:80;private"] {
            let one = to_grant(line, &[allowed.parse().unwrap()]);
            assert!(
                !one.contains("--allow") && one.contains("--private-network 10.0.0.7"),
                "{one}"
            );
        }
        let open = to_grant(line, &["net.out:http://10.0.0.7:80".parse().unwrap()]);
        assert!(open.contains("--allow"), "the first key is `;private`: {open}");
    }
}
