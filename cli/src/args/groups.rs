//! Docker's groups of verbs: `margay image ls` is `margay images`, said in another way.

use std::process::ExitCode;

use clap::Subcommand;

use super::Verb;
use crate::{home::Home, verbs};

/// Work with images; the same verbs as without `image`
#[derive(Debug, Subcommand)]
pub enum Image {
    Build(verbs::build::Args),
    History(verbs::history::Args),
    #[command(visible_alias = "load")]
    Import(verbs::import::Args),
    Inspect(verbs::inspect::Args),
    #[command(visible_alias = "list")]
    Ls(verbs::images::Args),
    Prune(verbs::prune::ImageArgs),
    Pull(verbs::pull::Args),
    Push(verbs::push::Args),
    #[command(visible_alias = "remove")]
    Rm(verbs::rmi::Args),
    Save(verbs::save::Args),
    Tag(verbs::tag::Args),
}

/// Work with tasks; the same verbs as without `container`
#[derive(Debug, Subcommand)]
pub enum Container {
    Attach(verbs::attach::Args),
    Cp(verbs::cp::Args),
    Create(Box<verbs::create::Args>),
    Exec(verbs::exec::Args),
    Inspect(verbs::inspect::Args),
    Kill(verbs::kill::Args),
    Logs(verbs::logs::Args),
    Port(verbs::port::Args),
    #[command(visible_alias = "list")]
    Ps(verbs::ps::Args),
    Prune(verbs::prune::TaskArgs),
    Rename(verbs::rename::Args),
    Restart(verbs::restart::Args),
    #[command(visible_alias = "remove")]
    Rm(verbs::rm::Args),
    Run(Box<verbs::run::Args>),
    Start(verbs::start::Args),
    Stats(verbs::stats::Args),
    Stop(verbs::stop::Args),
    Top(verbs::top::Args),
    Wait(verbs::wait::Args),
}

/// Look at this home as a whole
#[derive(Debug, Subcommand)]
pub enum System {
    Df(verbs::df::Args),
    Events(verbs::events::Args),
    Info(verbs::info::Args),
    Prune(verbs::prune::SystemArgs),
}

impl Image {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        match self {
            Self::Prune(args) => args.run(home).map(|()| ExitCode::SUCCESS),
            verb => verb.flat().run(home),
        }
    }

    /// What it is without the group, or the function of its own.
    fn flat(self) -> Verb {
        match self {
            Self::Build(args) => Verb::Build(args),
            Self::History(args) => Verb::History(args),
            Self::Import(args) => Verb::Import(args),
            Self::Inspect(args) => Verb::Inspect(args.of(verbs::inspect::Kind::Image)),
            Self::Ls(args) => Verb::Images(args),
            Self::Prune(args) => Verb::Image(Self::Prune(args)),
            Self::Pull(args) => Verb::Pull(args),
            Self::Push(args) => Verb::Push(args),
            Self::Rm(args) => Verb::Rmi(args),
            Self::Save(args) => Verb::Save(args),
            Self::Tag(args) => Verb::Tag(args),
        }
    }
}

impl Container {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        match self {
            Self::Prune(args) => args.run(home).map(|()| ExitCode::SUCCESS),
            verb => verb.flat().run(home),
        }
    }

    fn flat(self) -> Verb {
        match self {
            Self::Attach(args) => Verb::Attach(args),
            Self::Cp(args) => Verb::Cp(args),
            Self::Create(args) => Verb::Create(args),
            Self::Exec(args) => Verb::Exec(args),
            Self::Inspect(args) => Verb::Inspect(args.of(verbs::inspect::Kind::Task)),
            Self::Kill(args) => Verb::Kill(args),
            Self::Port(args) => Verb::Port(args),
            Self::Rename(args) => Verb::Rename(args),
            Self::Restart(args) => Verb::Restart(args),
            Self::Start(args) => Verb::Start(args),
            Self::Wait(args) => Verb::Wait(args),
            Self::Logs(args) => Verb::Logs(args),
            Self::Ps(args) => Verb::Ps(args),
            Self::Prune(args) => Verb::Container(Self::Prune(args)),
            Self::Rm(args) => Verb::Rm(args),
            Self::Run(args) => Verb::Run(args),
            Self::Stats(args) => Verb::Stats(args),
            Self::Stop(args) => Verb::Stop(args),
            Self::Top(args) => Verb::Top(args),
        }
    }
}

impl System {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        match self {
            Self::Df(args) => args.run(home).map(|()| ExitCode::SUCCESS),
            Self::Prune(args) => args.run(home).map(|()| ExitCode::SUCCESS),
            verb => verb.flat().run(home),
        }
    }

    fn flat(self) -> Verb {
        match self {
            Self::Df(args) => Verb::System(Self::Df(args)),
            Self::Events(args) => Verb::Events(args),
            Self::Info(args) => Verb::Info(args),
            Self::Prune(args) => Verb::System(Self::Prune(args)),
        }
    }
}
