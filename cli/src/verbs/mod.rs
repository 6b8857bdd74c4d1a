//! One file per verb: its arguments, and what it does about them.

pub mod init;
pub mod build;
pub mod diff;
pub mod dev;
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
pub mod sign;
pub mod verify;

pub mod attach;
pub mod cp;
pub mod create;
pub mod exec;
pub mod inspect;
pub mod kill;
pub mod logs;
pub mod port;
pub mod port_forward;
pub mod ps;
pub mod rename;
pub mod restart;
pub mod rm;
pub mod run;
pub mod start;
pub mod stats;
pub mod stop;
pub mod top;
pub mod wait;

pub mod df;
pub mod events;
pub mod history;
pub mod info;
pub mod volume;

pub mod audit;
pub mod cluster;
pub mod credential;
pub mod demo;
pub mod down;
pub mod explain;
pub mod grants;
pub mod invoke;
pub mod secret;
pub mod certificate;
pub mod service;
pub mod task;
pub mod tenant;
pub mod up;
pub mod usage;

pub mod ingress;
pub mod node;
pub mod node_group;
pub mod registry;
pub mod server;
pub mod token;

pub mod completions;
pub mod doctor;
pub mod help;
pub mod version;

use std::fmt::Display;

use crate::{failure, output::line, serve::block_on};

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

/// Asks a server to do something with each of several things, and prints each with which that is
/// done.
pub fn ask_for_each<'a, T, R, E, F>(things: &'a [T], ask: impl Fn(&'a T) -> F) -> anyhow::Result<()>
where
    T: Display,
    anyhow::Error: From<E>,
    F: Future<Output = Result<R, E>>,
{
    each(things, |thing| {
        block_on(ask(thing))?;
        line(format_args!("{thing}"));
        Ok(())
    })
}

/// The word that an enum has in JSON, for tables.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
