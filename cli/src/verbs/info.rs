use node::tasks::{self, State};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    home::Home,
    images,
    listing::Single,
    machine,
    output::{Output, size},
};

/// Show what is in this home, and on what machine
#[derive(Debug, clap::Args)]
#[command(after_help = "What this machine can do, and what is missing: margay doctor

Fields: .ServerVersion .Containers .ContainersRunning .ContainersStopped .ContainersPaused .Images
        .Driver .DockerRootDir .KernelVersion .OperatingSystem .OSType .Architecture .NCPU
        .MemTotal .Name .CgroupVersion .SecurityOptions .Plugins .Runtimes .Warnings")]
pub struct Args {
    #[command(flatten)]
    form: Single,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    home: String,
    tasks: usize,
    running: usize,
    stopped: usize,
    images: usize,
    volumes: usize,
    os: String,
    kernel: String,
    architecture: &'static str,
    cpus: usize,
    memory_bytes: u64,
    host: String,
    cgroup_version: u8,
    rootless: bool,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let template = self.form.template()?;
        let info = Info::of(home)?;
        match template {
            Some(lines) => lines.print(&info.docker()),
            None => self.output.record(&info, Info::words),
        }
    }
}

impl Info {
    fn of(home: &Home) -> anyhow::Result<Self> {
        let states = tasks::list(home.node())?
            .iter()
            .map(tasks::TaskFolder::state)
            .collect::<Result<Vec<State>, _>>()?;
        let running = states.iter().filter(|state| state.is_alive()).count();
        let mut digests: Vec<_> =
            images::layout(home)?.list()?.iter().map(|local| local.descriptor.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        let uname = rustix::system::uname();
        let memory = rustix::system::sysinfo();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            home: home.path().display().to_string(),
            tasks: states.len(),
            running,
            stopped: states.len() - running,
            images: digests.len(),
            volumes: node::volumes::list(home.node())?.len(),
            os: os_name(),
            kernel: machine::kernel().0,
            architecture: std::env::consts::ARCH,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: u64::from(memory.mem_unit).saturating_mul(memory.totalram),
            host: uname.nodename().to_string_lossy().into_owned(),
            cgroup_version: match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
            {
                true => 2,
                false => 1,
            },
            rootless: !rustix::process::geteuid().is_root(),
        })
    }

    fn words(&self) -> String {
        [
            format!("Version:          {}", self.version),
            format!("Home:             {}", self.home),
            format!(
                "Tasks:            {} ({} running, {} stopped)",
                self.tasks, self.running, self.stopped
            ),
            format!("Images:           {}", self.images),
            format!("Volumes:          {}", self.volumes),
            format!("Operating system: {}", self.os),
            format!("Kernel:           {}", self.kernel),
            format!("Architecture:     {}", self.architecture),
            format!("CPUs:             {}", self.cpus),
            format!("Memory:           {}", size(self.memory_bytes)),
            format!("Host:             {}", self.host),
            format!("Cgroups:          v{}", self.cgroup_version),
            format!("Rootless:         {}", self.rootless),
        ]
        .join("\n")
    }

    /// The structure of Docker's `info`, as far as it has a meaning.
    fn docker(&self) -> Value {
        let mut security =
            vec!["name=seccomp,profile=builtin".to_owned(), "name=userns".to_owned()];
        security.extend(self.rootless.then(|| "name=rootless".to_owned()));
        json!({
            "ID": self.host,
            "Name": self.host,
            "ServerVersion": self.version,
            "Containers": self.tasks,
            "ContainersRunning": self.running,
            "ContainersPaused": 0,
            "ContainersStopped": self.stopped,
            "Images": self.images,
            "Driver": "margay",
            "LoggingDriver": "json-file",
            "CgroupVersion": self.cgroup_version.to_string(),
            "DockerRootDir": self.home,
            "KernelVersion": self.kernel,
            "OperatingSystem": self.os,
            "OSType": std::env::consts::OS,
            "Architecture": self.architecture,
            "NCPU": self.cpus,
            "MemTotal": self.memory_bytes,
            "SecurityOptions": security,
            "Plugins": {"Volume": ["local"], "Network": [], "Log": []},
            "Runtimes": {"wasm": {}, "native": {}},
            "DefaultRuntime": "wasm",
            "Warnings": null,
        })
    }
}

/// As the distribution calls itself.
fn os_name() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| std::env::consts::OS.to_owned(), |name| name.trim_matches('"').to_owned())
}
