use anyhow::bail;
use clap::Command;

use crate::{
    failure::{Advice, USAGE_ERROR},
    output,
};

/// Explain a verb
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The verb, as in `help volume ls`; all of them when left out
    #[arg(value_name = "VERB")]
    verbs: Vec<String>,
}

impl Args {
    /// Prints what `margay VERB --help` prints.
    pub fn run(self, command: Command) -> anyhow::Result<()> {
        let mut found = &command;
        let mut line = vec!["margay"];
        for verb in &self.verbs {
            let names = names(found);
            match found.find_subcommand(verb) {
                Some(next) => found = next,
                None if found.has_subcommands() => {
                    let asked: String = verb.chars().take(60).collect();
                    let (message, hint) = match line[1..].join(" ") {
                        path if path.is_empty() => (
                            format!("there is no verb `{asked}`"),
                            "see them all: margay help".to_owned(),
                        ),
                        path => (
                            format!("`{path}` has no verb `{asked}`"),
                            format!("it has {}", names.join(", ")),
                        ),
                    };
                    bail!(Advice::new(message).hint(hint).code(USAGE_ERROR));
                }
                // What follows are its arguments.
                None => break,
            }
            line.push(verb);
        }
        line.push("--help");
        // The parser prints help as an error.
        let help = command.clone().try_get_matches_from(line);
        if let Err(help) = help {
            help.print().unwrap_or_else(|error| output::exit_unwritable(&error));
        }
        Ok(())
    }
}

fn names(command: &Command) -> Vec<String> {
    command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}
