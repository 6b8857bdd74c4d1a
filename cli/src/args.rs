//! The command line: every verb, and the function that carries it out. The arguments of a verb
//! stand with the verb.

mod groups; // `image ls`, `container ps`: Docker's second way to say a verb

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{
    ArgAction, Args as _, Command, CommandFactory as _, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser as _},
};

use crate::{
    failure::{HOST_ERROR, USAGE_ERROR},
    home::Home,
    verbs,
};

/// Run apps that reach nothing except what they were granted
#[derive(Debug, Parser)]
#[command(
    name = "margay",
    version,
    about,
    disable_help_subcommand = true,
    disable_version_flag = true,
    max_term_width = 120,
    after_help = "Start here:
  margay run ./hello.wasm                        a program, in a box
  margay build -t cats samples/cats              an image from a Dockerfile
  margay run -p 8080:80 cats                     the image, on a port
  margay up                                      a registry, an orchestrator, an ingress and a node
  margay doctor                                  what this machine can do"
)]
pub struct Cli {
    #[command(flatten)]
    everywhere: Everywhere,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What may stand before and behind every verb.
#[derive(Debug, clap::Args)]
struct Everywhere {
    /// Keep images, tasks and volumes in this folder [default: the XDG data folder, /var/lib/margay
    /// for root]
    #[arg(
        long,
        global = true,
        env = "MARGAY_HOME",
        hide_env_values = true,
        value_name = "DIR",
        // An empty variable is none.
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        help_heading = "Everywhere"
    )]
    home: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The verbs, in the order of an app's life.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Init(verbs::init::Args),
    Build(verbs::build::Args),
    Dev(verbs::dev::Args),
    Images(verbs::images::Args),
    Tag(verbs::tag::Args),
    Rmi(verbs::rmi::Args),
    Prune(verbs::prune::Args),
    Diff(verbs::diff::Args),
    #[command(visible_alias = "load")]
    Import(verbs::import::Args),
    Save(verbs::save::Args),

    Login(verbs::login::Args),
    Logout(verbs::logout::Args),
    Push(verbs::push::Args),
    Pull(verbs::pull::Args),
    Sign(verbs::sign::Args),
    Verify(verbs::verify::Args),

    Run(Box<verbs::run::Args>),
    Create(Box<verbs::create::Args>),
    Start(verbs::start::Args),
    Attach(verbs::attach::Args),
    Exec(verbs::exec::Args),
    Cp(verbs::cp::Args),
    Ps(verbs::ps::Args),
    Logs(verbs::logs::Args),
    Inspect(verbs::inspect::Args),
    Stop(verbs::stop::Args),
    Restart(verbs::restart::Args),
    Kill(verbs::kill::Args),
    Wait(verbs::wait::Args),
    Rename(verbs::rename::Args),
    Port(verbs::port::Args),
    PortForward(verbs::port_forward::Args),
    Rm(verbs::rm::Args),
    Stats(verbs::stats::Args),
    Top(verbs::top::Args),

    #[command(subcommand)]
    Volume(verbs::volume::Verb),
    History(verbs::history::Args),
    Events(verbs::events::Args),
    Info(verbs::info::Args),
    #[command(subcommand)]
    System(groups::System),
    #[command(subcommand)]
    Image(groups::Image),
    #[command(subcommand)]
    Container(groups::Container),

    Up(verbs::up::Args),
    Down(verbs::down::Args),
    Demo(verbs::demo::Args),
    #[command(subcommand)]
    Cluster(verbs::cluster::Verb),
    #[command(subcommand)]
    Task(verbs::task::Verb),
    #[command(subcommand)]
    Service(Box<verbs::service::Verb>),
    #[command(subcommand)]
    Explain(verbs::explain::Verb),
    #[command(subcommand)]
    Grants(Box<verbs::grants::Verb>),
    #[command(subcommand)]
    Secret(verbs::secret::Verb),
    #[command(subcommand)]
    Certificate(verbs::certificate::Verb),
    #[command(subcommand)]
    Tenant(verbs::tenant::Verb),
    Invoke(verbs::invoke::Args),
    Usage(verbs::usage::Args),
    Audit(verbs::audit::Args),

    /// Another way to say `node token`
    #[command(subcommand, hide = true)]
    Token(verbs::token::Verb),
    #[command(subcommand)]
    Credential(verbs::credential::Verb),
    Server(verbs::server::Args),
    Registry(verbs::registry::Args),
    Ingress(verbs::ingress::Args),
    #[command(flatten)]
    Nodes(Nodes),

    Doctor(verbs::doctor::Args),
    Completions(verbs::completions::Args),
    Complete(verbs::completions::Complete),
    Version(verbs::version::Args),
    Help(verbs::help::Args),
}

/// The parser of the verb that `arguments` begin with, where that is one whose time of start
/// counts: making those of all verbs takes longer than all else that happens before a start.
pub fn parser_of_one_verb(arguments: &[OsString]) -> Option<Command> {
    let name = arguments.get(1)?.to_str()?;
    let with = |augment: fn(Command) -> Command| augment(Command::new(name.to_owned()));
    let verb = match name {
        "run" => with(verbs::run::Args::augment_args),
        "exec" => with(verbs::exec::Args::augment_args),
        "invoke" => with(verbs::invoke::Args::augment_args),
        "ps" => with(verbs::ps::Args::augment_args),
        "logs" => with(verbs::logs::Args::augment_args),
        "stop" => with(verbs::stop::Args::augment_args),
        _ => return None,
    };
    let root = Everywhere::augment_args(Command::new("margay"));
    Some(root.disable_version_flag(true).disable_help_subcommand(true).subcommand(verb))
}

impl Cli {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let home = self.everywhere.home.filter(|path| !path.as_os_str().is_empty());
        // These touch no home, or make none.
        match self.verb {
            Verb::Completions(args) => args.run(Self::command())?,
            Verb::Complete(args) => args.run(home, Self::command()),
            Verb::Version(args) => args.run()?,
            Verb::Help(args) => args.run(Self::command())?,
            Verb::Init(args) => args.run()?,
            verb => return verb.run(&Home::open(home)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Machines, one by one and in groups.
#[derive(Debug, Subcommand)]
pub enum Nodes {
    Node(Box<verbs::node::Args>),
    #[command(subcommand)]
    NodeGroup(verbs::node_group::Verb),
}

impl Nodes {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Node(args) => args.run(home),
            Self::NodeGroup(verb) => verb.run(home),
        }
    }
}

impl Verb {
    /// The exit code of a failure that is margay's. `run` keeps 1 for the guest, as Docker does.
    pub fn failure_code(&self) -> u8 {
        match self {
            Self::Run(_)
            | Self::Create(_)
            | Self::Exec(_)
            | Self::Container(
                groups::Container::Run(_)
                | groups::Container::Create(_)
                | groups::Container::Exec(_),
            ) => HOST_ERROR,
            // As diff(1): 1 says that they differ.
            Self::Diff(args) if args.exit_code => USAGE_ERROR,
            Self::Grants(verb) if verb.compares_with_code() => USAGE_ERROR,
            _ => 1,
        }
    }

    fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        match self {
            Self::Build(args) => args.run(home)?,
            Self::Dev(args) => args.run(home)?,
            Self::Images(args) => args.run(home)?,
            Self::Tag(args) => args.run(home)?,
            Self::Rmi(args) => args.run(home)?,
            Self::Prune(args) => args.run(home)?,
            Self::Diff(args) => return args.run(home),
            Self::Import(args) => args.run(home)?,
            Self::Save(args) => args.run(home)?,
            Self::Login(args) => args.run(home)?,
            Self::Logout(args) => args.run(home)?,
            Self::Push(args) => args.run(home)?,
            Self::Pull(args) => args.run(home)?,
            Self::Sign(args) => args.run(home)?,
            Self::Verify(args) => args.run(home)?,
            Self::Run(args) => return args.run(home),
            Self::Create(args) => return args.run(home),
            Self::Start(args) => return args.run(home),
            Self::Attach(args) => return args.run(home),
            Self::Exec(args) => return args.run(home),
            Self::Cp(args) => return args.run(home),
            Self::Ps(args) => args.run(home)?,
            Self::Logs(args) => args.run(home)?,
            Self::Inspect(args) => args.run(home)?,
            Self::Stop(args) => args.run(home)?,
            Self::Restart(args) => args.run(home)?,
            Self::Kill(args) => args.run(home)?,
            Self::Wait(args) => args.run(home)?,
            Self::Rename(args) => args.run(home)?,
            Self::Port(args) => args.run(home)?,
            Self::PortForward(args) => args.run(home)?,
            Self::Rm(args) => args.run(home)?,
            Self::Stats(args) => args.run(home)?,
            Self::Top(args) => args.run(home)?,
            Self::Volume(verb) => verb.run(home)?,
            Self::History(args) => args.run(home)?,
            Self::Events(args) => args.run(home)?,
            Self::Info(args) => args.run(home)?,
            Self::System(group) => return group.run(home),
            Self::Image(group) => return group.run(home),
            Self::Container(group) => return group.run(home),
            Self::Up(args) => return args.run(home),
            Self::Down(args) => args.run(home)?,
            Self::Demo(args) => args.run(home)?,
            Self::Cluster(verb) => verb.run(home)?,
            Self::Task(verb) => verb.run(home)?,
            Self::Service(verb) => verb.run(home)?,
            Self::Explain(verb) => verb.run(home)?,
            Self::Grants(verb) => return verb.run(home),
            Self::Secret(verb) => verb.run(home)?,
            Self::Certificate(verb) => verb.run(home)?,
            Self::Tenant(verb) => verb.run(home)?,
            Self::Invoke(args) => return args.run(home),
            Self::Usage(args) => args.run(home)?,
            Self::Audit(args) => args.run(home)?,
            Self::Token(verb) => verb.run(home)?,
            Self::Credential(verb) => verb.run(home)?,
            Self::Server(args) => args.run(home)?,
            Self::Registry(args) => args.run(home)?,
            Self::Ingress(args) => args.run(home)?,
            Self::Nodes(verb) => verb.run(home)?,
            Self::Doctor(args) => return args.run(home),
            Self::Completions(_)
            | Self::Complete(_)
            | Self::Version(_)
            | Self::Help(_)
            | Self::Init(_) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_well_formed_and_says_what_it_does() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "`margay {}` has no help text", verb.get_name());
            for argument in verb.get_arguments() {
                let named = format!("`margay {}`: {}", verb.get_name(), argument.get_id());
                let help = argument
                    .get_help()
                    .unwrap_or_else(|| panic!("{named} has no help text"))
                    .to_string();
                assert!(!help.ends_with('.'), "{named}: help ends with a full stop");
            }
        }
    }
}
