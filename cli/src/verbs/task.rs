mod foreign; // definitions of other orchestrators, told by their keys

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use orchestrator::{Client, RegisteredDefinition, RunTask};
use spec::{
    Capability, ClusterName, ContainerName, LaunchType, Role, ServiceName, Task, TaskDefinition,
    TaskDefinitionId, TaskId, TaskOverrides, TaskPhase,
};

use crate::{
    control::Control,
    failure::Advice,
    flags,
    home::Home,
    output::{Format, Output, ago, json, line, notice, now, print_table},
    platform::record::Record,
    serve::block_on,
};

/// What one run may have, in place of what its definition says.
#[derive(Debug, clap::Args)]
pub struct Size {
    /// Reserve this much of the processors for the container
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    cpus: Option<u32>,
    /// The most memory the container may have
    #[arg(short, long, value_name = "BYTES", value_parser = spec::parse_bytes)]
    memory: Option<u64>,
    /// Reserve this much memory for the container
    #[arg(long, value_name = "BYTES", value_parser = spec::parse_bytes)]
    memory_reservation: Option<u64>,
    /// Reserve this much of the processors for the task as a whole
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    task_cpus: Option<u32>,
    /// Reserve this much memory for the task as a whole, which its containers never exceed
    #[arg(long, value_name = "BYTES", value_parser = spec::parse_bytes)]
    task_memory: Option<u64>,
}

fn cpus(text: &str) -> Result<u32, &'static str> {
    let millis = crate::settings::cpu_millis(text).filter(|millis| *millis > 0);
    millis.ok_or("use a number of processors, as in 0.5")
}

/// Register task definitions, and run, list and stop tasks on a platform
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Register the next revision of a task definition, and pin its images by digest
    Register {
        /// The definition, TOML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    /// Run a task once, with arguments, variables, a size and a role of its own if need be
    #[command(after_help = "Examples:
  margay task run report:3 --cluster demo -e DAY=2026-11-27 -- --full
  margay task run report:3 --cluster demo -m 2g --cpus 1.5
  margay task run report:3 --cluster demo --allow net.out:https://api.example.com")]
    Run {
        /// What to run, as in cats:1
        #[arg(value_name = "FAMILY:REVISION")]
        definition: TaskDefinitionId,
        /// Where
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        /// On nodes of your own, or on the shared pool
        #[arg(long, value_name = "node|pool", default_value = "node")]
        launch_type: LaunchType,
        /// How many tasks
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10))]
        count: u32,
        /// Set a variable for this run; without a value, as it is here
        #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
        env: Vec<(String, String)>,
        /// The container that arguments, variables, memory and processors are for, where there are
        /// several
        #[arg(long, value_name = "NAME")]
        container: Option<ContainerName>,
        #[command(flatten)]
        size: Size,
        /// Grant this capability in this run, in place of all that the definition's role grants
        #[arg(long, value_name = "CAPABILITY")]
        allow: Vec<Capability>,
        #[command(flatten)]
        control: Control,
        /// Arguments for this run, in place of the definition's `command`
        #[arg(last = true, value_name = "ARG")]
        args: Vec<String>,
    },
    /// List tasks
    #[command(alias = "list")]
    Ls {
        /// Only those of this cluster
        #[arg(long, value_name = "NAME")]
        cluster: Option<ClusterName>,
        /// Only replicas of this service
        #[arg(long, value_name = "NAME")]
        service: Option<ServiceName>,
        /// Show ended ones as well
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    /// Show all that is known of tasks, as JSON
    Inspect {
        /// Their ids
        #[arg(required = true, value_name = "TASK", value_parser = task_id)]
        tasks: Vec<TaskId>,
        #[command(flatten)]
        control: Control,
    },
    /// Ask tasks to end; a replica of a service is replaced
    Stop {
        /// Their ids
        #[arg(required = true, value_name = "TASK", value_parser = task_id)]
        tasks: Vec<TaskId>,
        #[command(flatten)]
        control: Control,
    },
    /// Let no new task or service use a revision; what runs keeps running
    Deregister {
        /// Which revisions
        #[arg(required = true, value_name = "FAMILY:REVISION")]
        definitions: Vec<TaskDefinitionId>,
        #[command(flatten)]
        control: Control,
    },
    /// List task definitions, and what each container may really reach
    Definitions {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Register { file, output, control } => {
                let definition = read_definition(&file)?;
                let client = control.client(home)?;
                let registered = block_on(client.register(&definition))?;
                tell_grants(&registered);
                block_on(tell_secrets(&client, &registered.definition))?;
                output.record(&registered, |registered| registered.id.to_string())
            }
            Self::Run {
                definition,
                cluster,
                launch_type,
                count,
                env,
                container,
                size,
                allow,
                control,
                args,
            } => {
                let overrides = TaskOverrides {
                    container,
                    command: (!args.is_empty()).then_some(args),
                    env: BTreeMap::from_iter(env),
                    role: (!allow.is_empty()).then_some(Role { allow }),
                    cpu_millis: size.cpus,
                    memory_soft_bytes: size.memory_reservation,
                    memory_hard_bytes: size.memory,
                    task_cpu_millis: size.task_cpus,
                    task_memory_bytes: size.task_memory,
                };
                let overrides = (overrides != TaskOverrides::default()).then_some(overrides);
                let wanted = RunTask { task_definition: definition, launch_type, count, overrides };
                let tasks = block_on(control.client(home)?.run(&cluster, &wanted))?;
                tasks.iter().for_each(|task| line(format_args!("{}", task.id)));
                if control.is_elsewhere() { Ok(()) } else { tell_hosts(home, &tasks) }
            }
            Self::Ls { cluster, service, all, output, control } => {
                let mut tasks = block_on(control.client(home)?.tasks())?;
                tasks.retain(|task| {
                    (all || task.status.phase != TaskPhase::Stopped)
                        && cluster.as_ref().is_none_or(|name| task.spec.cluster == *name)
                        && (service.is_none() || task.spec.service == service)
                });
                output.records(&tasks, &HEADINGS, row)
            }
            Self::Inspect { tasks, control } => {
                let client = control.client(home)?;
                let tasks = tasks.iter().map(|id| block_on(client.task(id)));
                json(&tasks.collect::<Result<Vec<Task>, _>>()?)
            }
            Self::Stop { tasks, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&tasks, |id| client.stop(id))
            }
            Self::Deregister { definitions, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&definitions, |id| client.deregister(id))
            }
            Self::Definitions { output, control } => {
                let definitions = block_on(control.client(home)?.definitions())?;
                match output.output {
                    Format::Table => print_definitions(&definitions),
                    Format::Json => json(&definitions)?,
                }
                Ok(())
            }
        }
    }
}

/// Says where tasks of the platform of `home` are reached.
fn tell_hosts(home: &Home, tasks: &[Task]) -> anyhow::Result<()> {
    let Some(record) = Record::read(home)? else { return Ok(()) };
    for host in tasks.iter().filter_map(|task| task.status.host.as_ref()) {
        notice(format_args!("Reach it at {}", record.url(host)));
    }
    Ok(())
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("it has no name".to_owned()),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => {
            let value = std::env::var(text).map_err(|_| format!("`{text}` is not set here"))?;
            Ok((text.to_owned(), value))
        }
    }
}

/// A task's id, or that of one of its containers as `margay ps` shows it: TENANT.TASK.CONTAINER.
fn task_id(text: &str) -> Result<TaskId, spec::ParseError> {
    let task = match text.split('.').collect::<Vec<_>>().as_slice() {
        [_tenant, task, _container] => task,
        _ => text,
    };
    task.parse()
}

/// Larger than any definition of ten containers.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a definition from TOML, or from JSON when the file's name says so.
pub fn read_definition(path: &std::path::Path) -> anyhow::Result<TaskDefinition> {
    let named = || format!("cannot read the task definition `{}`", path.display());
    let text = flags::read_text(path, FILE_BYTES_MAX, named, "no task definition")?;
    if let Some(foreign) = foreign::recognise(&text) {
        bail!(foreign.refusal(path));
    }
    let definition: TaskDefinition = if path.extension().is_some_and(|ending| ending == "json") {
        spec::json::from_slice(text.as_bytes()).with_context(named)?
    } else {
        let hint = "a task definition is TOML, or JSON in a file whose name ends with .json";
        toml::from_str(&text).map_err(|error| misread(path, &text, &error).hint(hint))?
    };
    definition.check()?;
    Ok(definition)
}

/// What is wrong with the TOML in a file, and where.
pub fn misread(path: &std::path::Path, text: &str, error: &toml::de::Error) -> Advice {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let at = error.span().map(|span| format!(", line {}", line(span.start)));
    let (path, at) = (path.display(), at.unwrap_or_default());
    let why = error.message().trim().replace('\n', ", ");
    Advice::new(format!("`{path}`{at}: {why}"))
}

/// Says what the role grants and the image does not use, and the other way round: the diff that an
/// operator reviews.
fn tell_grants(registered: &RegisteredDefinition) {
    for grants in &registered.grants {
        let name = &grants.container;
        for capability in &grants.cut {
            notice(format_args!("{name}: granted and not asked for: {capability}"));
        }
        for capability in &grants.denied {
            notice(format_args!("{name}: optional, and not granted: {capability}"));
        }
    }
}

/// Its tasks would wait for secrets that do not exist yet.
async fn tell_secrets(client: &Client, definition: &TaskDefinition) -> anyhow::Result<()> {
    let mut wanted = definition.secrets();
    if !wanted.is_empty() {
        let there = client.secrets().await?;
        wanted.retain(|name| there.iter().all(|secret| secret.name != *name));
    }
    for name in wanted {
        notice(format_args!("Secret `{name}` is not there yet: margay secret create {name} FILE"));
    }
    Ok(())
}

pub const HEADINGS: [&str; 8] =
    ["TASK", "DEFINITION", "CLUSTER", "SERVICE", "NODE", "CREATED", "EXIT", "STATUS"];

pub fn row(task: &Task) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let phase = super::word(&task.status.phase);
    [
        task.id.to_string(),
        task.spec.task_definition.to_string(),
        task.spec.cluster.to_string(),
        or_dash(task.spec.service.as_ref().map(ToString::to_string)),
        or_dash(task.spec.node.as_ref().map(ToString::to_string)),
        ago(task.created, now()),
        exit_codes(task),
        match &task.status.reason {
            Some(reason) => format!("{phase}: {reason}"),
            None => phase,
        },
    ]
}

/// Those of its containers that have ended, in the order of its definition.
fn exit_codes(task: &Task) -> String {
    let codes = task.status.containers.iter().filter_map(|container| container.exit_code);
    let codes: Vec<String> = codes.map(|code| code.to_string()).collect();
    if codes.is_empty() { "-".to_owned() } else { codes.join(",") }
}

fn print_definitions(definitions: &[RegisteredDefinition]) {
    let rows = definitions.iter().flat_map(|registered| {
        let containers = registered.definition.containers.iter().zip(&registered.grants);
        containers.map(move |(container, grants)| {
            let reach: Vec<String> = grants.effective.iter().map(ToString::to_string).collect();
            [
                registered.id.to_string(),
                container.name.to_string(),
                container.image.clone(),
                ago(registered.registered, now()),
                if reach.is_empty() { "nothing".to_owned() } else { reach.join(" ") },
            ]
        })
    });
    print_table(&["DEFINITION", "CONTAINER", "IMAGE", "REGISTERED", "MAY REACH"], rows);
}
