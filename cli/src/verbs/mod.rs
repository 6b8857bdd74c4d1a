//! One file per verb: its arguments, and what it does about them.

pub mod build;
pub mod images;
pub mod import;
pub mod prune;
pub mod rmi;
pub mod save;
pub mod tag;

pub mod login;
pub mod logout;
pub mod pull;
pub mod push;

pub mod inspect;
pub mod logs;
pub mod ps;
pub mod rm;
pub mod run;
pub mod stats;
pub mod stop;

pub mod cluster;
pub mod demo;
pub mod invoke;
pub mod secret;
pub mod service;
pub mod task;
pub mod up;
pub mod usage;

pub mod ingress;
pub mod node;
pub mod registry;
pub mod server;
pub mod token;

pub mod completions;
pub mod doctor;
pub mod version;

use std::{fmt::Display, process::ExitCode};

use crate::{
    args::{Cli, Verb},
    failure,
    home::Home,
    output::line,
};

/// Does what was asked, and says with what to exit.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // These two touch no home.
    match cli.verb {
        Verb::Completions(args) => return args.run().map(done),
        Verb::Version(args) => return args.run().map(done),
        _ => {}
    }
    let home = Home::open(cli.home)?;
    match cli.verb {
        Verb::Build(args) => args.run(&home).map(done),
        Verb::Images(args) => args.run(&home).map(done),
        Verb::Tag(args) => args.run(&home).map(done),
        Verb::Rmi(args) => args.run(&home).map(done),
        Verb::Prune(args) => args.run(&home).map(done),
        Verb::Import(args) => args.run(&home).map(done),
        Verb::Save(args) => args.run(&home).map(done),
        Verb::Login(args) => args.run(&home).map(done),
        Verb::Logout(args) => args.run(&home).map(done),
        Verb::Push(args) => args.run(&home).map(done),
        Verb::Pull(args) => args.run(&home).map(done),
        Verb::Run(args) => args.run(&home),
        Verb::Ps(args) => args.run(&home).map(done),
        Verb::Logs(args) => args.run(&home).map(done),
        Verb::Inspect(args) => args.run(&home).map(done),
        Verb::Stop(args) => args.run(&home).map(done),
        Verb::Rm(args) => args.run(&home).map(done),
        Verb::Stats(args) => args.run(&home).map(done),
        Verb::Up(args) => args.run(&home).map(done),
        Verb::Demo(args) => args.run(&home).map(done),
        Verb::Cluster(verb) => verb.run(&home).map(done),
        Verb::Task(verb) => verb.run(&home).map(done),
        Verb::Service(verb) => verb.run(&home).map(done),
        Verb::Secret(verb) => verb.run(&home).map(done),
        Verb::Invoke(args) => args.run(&home),
        Verb::Usage(args) => args.run(&home).map(done),
        Verb::Token(verb) => verb.run(&home).map(done),
        Verb::Server(args) => args.run(&home).map(done),
        Verb::Registry(args) => args.run(&home).map(done),
        Verb::Ingress(args) => args.run(&home).map(done),
        Verb::Node(args) => args.run(&home).map(done),
        Verb::Doctor(args) => args.run(&home),
        Verb::Completions(_) | Verb::Version(_) => Ok(ExitCode::SUCCESS),
    }
}

fn done(_: ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Does `work` for each of several things. One that fails does not keep the others from it; the
/// last failure is the verb's, those before it are told on the way.
pub fn each<'a, T>(
    things: &'a [T],
    mut work: impl FnMut(&'a T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failed: Option<anyhow::Error> = None;
    for thing in things {
        if let Err(error) = work(thing)
            && let Some(earlier) = failed.replace(error)
        {
            failure::report(&earlier);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Asks the control plane to do something with each of several things, and prints each with which
/// that is done.
pub fn ask_for_each<'a, T: Display, R, F: Future<Output = Result<R, orchestrator::Error>>>(
    things: &'a [T],
    ask: impl Fn(&'a T) -> F,
) -> anyhow::Result<()> {
    each(things, |thing| {
        block_on(async { Ok(ask(thing).await?) })?;
        line(format_args!("{thing}"));
        Ok(())
    })
}

/// Runs a future on this thread: verbs that talk to one peer need no more.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The word that an enum has in JSON, for tables.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
