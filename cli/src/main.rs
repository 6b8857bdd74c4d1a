//! The one binary: arguments become one value, the rooms are wired together, words and an exit code
//! come out.
//!
//! Enter at [`args`] for what can be said, and at [`verbs`] for what is done about it, one file per
//! verb. Nothing below this room prints. Absent on purpose: decisions; every verb asks a room for
//! them.

mod args; // every verb, and what carries it out
mod docker; // Docker's verbs and flags, and what each is here
mod complete; // what could stand next on a command line
mod nearest; // what a misspelled word was meant to be
mod misuse; // words for arguments that are not understood
mod failure; // the message, hint and exit code of an error
mod output; // tables, JSON, sizes, times, colours
mod template; // Go templates, as `--format` takes them
mod listing; // records as columns, JSON, or through a template
mod filter; // `--filter KEY=VALUE`
mod progress; // bars on a terminal, lines elsewhere

mod home; // MARGAY_HOME
mod machine; // what this machine can do
mod credentials; // registry logins
mod docker_logins; // those that docker and podman keep
mod authorities; // whose certificates of registries are trusted
mod control; // the client of a control plane
mod remote; // tasks of a platform, on whichever node
mod transfer; // push and pull
mod image_events; // what happens to images
mod watch; // changes of the files in a folder
mod images; // the argument of a verb -> an image of this machine
mod preparing; // what takes long at a first run
mod program; // what the program in an image imports
mod mount; // a mount written as keys
mod health; // how a run is asked whether it is well
mod log_flags; // how much of its log is kept
mod settings; // what a run chooses beyond its image
mod terminal; // raw while a program has it
mod given; // flags of which an empty value counts as none
mod flags; // durations, sizes, variables, secrets
mod text_file; // what a user named, up to a limit
mod views; // tasks and images as lists and `inspect` show them

mod platform; // the four processes of `margay up`
mod rights; // what root becomes: users of servers, capabilities of an agent
mod serve; // what each of them shares
mod unfinished; // what a signal removes
mod resolver; // the registry's client, plugged into the control plane

mod verbs; // one file per verb

use std::process::ExitCode;

use clap::CommandFactory as _;

fn main() -> ExitCode {
    // Before any thread, any argument parsing and any allocation that matters: these become walled
    // processes.
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("worker") => return runtime::worker::main(),
        Some("prepare") => return runtime::prepare::main(),
        Some("shim") => shim::main(),
        Some("keeper") => return verbs::run::keep(),
        Some("probe") => machine::probe_main(),
        _ => {}
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    // clap counts MARGAY_HOME as an argument, and would say that a verb is missing.
    if arguments.len() == 1 {
        output::notice(format_args!("{}", args::Cli::command().render_help()));
        return ExitCode::from(failure::USAGE_ERROR);
    }
    let cli = match misuse::parse(&arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let ours = cli.verb.failure_code();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            failure::report(&error);
            ExitCode::from(failure::code(&error).unwrap_or(ours))
        }
    }
}
