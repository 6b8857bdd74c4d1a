use std::{path::PathBuf, time::Duration};

use clap_complete::Shell;
use node::tasks;

use crate::{
    complete::{Named, candidates},
    control::Control,
    home::Home,
    images, output,
    serve::block_on,
};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With bash, zsh and fish it completes the names of tasks, images and services as well.

Examples:
  margay completions bash > ~/.local/share/bash-completion/completions/margay
  margay completions zsh > \"${fpath[1]}/_margay\"
  margay completions fish > ~/.config/fish/completions/margay.fish"
)]
pub struct Args {
    /// The shell to write for
    #[arg(value_enum)]
    shell: Shell,
}

impl Args {
    /// Writes the script for `command` to stdout.
    pub fn run(self, mut command: clap::Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => script.extend(include_bytes!("completions/margay.bash")),
            Shell::Zsh => script.extend(include_bytes!("completions/margay.zsh")),
            Shell::Fish => script.extend(include_bytes!("completions/margay.fish")),
            shell => clap_complete::generate(shell, &mut command, "margay", &mut script),
        }
        output::raw(&script);
        Ok(())
    }
}

/// Print what could stand next on a command line, one in each line: what the scripts ask
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Complete {
    /// The command line up to the cursor
    line: String,
}

/// A user waits between two keys.
const CONTROL_TIME_MAX: Duration = Duration::from_millis(700);

impl Complete {
    /// A completion that fails offers less, and says nothing: the user is typing.
    pub fn run(self, home: Option<PathBuf>, mut parser: clap::Command) {
        parser.build();
        let home = Home::existing(home);
        let mut words: Vec<String> = words(&self.line);
        let current = words.pop().unwrap_or_default();
        let words = words.get(1..).unwrap_or_default();
        let names = |named| home.as_ref().map(|home| names(home, named)).unwrap_or_default();
        for found in candidates(&parser, words, &current, names) {
            output::line(format_args!("{}\t{}", found.word, found.help));
        }
    }
}

/// The words of a line, with the quotes of a shell taken off. The last one is where the cursor is,
/// and empty behind a blank.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let word = words.last_mut().expect("never empty");
        match (quote, char) {
            (None, '\'' | '"') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            (None | Some('"'), '\\') => word.extend(chars.next()),
            (None, char) if char.is_whitespace() => {
                if !word.is_empty() {
                    words.push(String::new());
                }
            }
            _ => word.push(char),
        }
    }
    words
}

/// The names that there are; none where they cannot be read.
fn names(home: &Home, named: Named) -> Vec<String> {
    match named {
        Named::Task => of_tasks(home, |_| true),
        Named::RunningTask => of_tasks(home, tasks::State::is_alive),
        Named::TaskPath => {
            of_tasks(home, |_| true).into_iter().map(|name| format!("{name}:")).collect()
        }
        Named::Image => of_images(home),
        Named::Volume => of_volumes(home),
        Named::Cluster | Named::Service | Named::Definition | Named::Secret | Named::Node => {
            of_platform(home, named).unwrap_or_default()
        }
    }
}

fn of_tasks(home: &Home, wanted: impl Fn(tasks::State) -> bool) -> Vec<String> {
    let all = tasks::list(home.node()).unwrap_or_default().into_iter();
    let is_wanted = |task: &tasks::TaskFolder| task.state().is_ok_and(&wanted);
    all.filter(is_wanted).map(|task| task.record().name.clone()).collect()
}

fn of_images(home: &Home) -> Vec<String> {
    let images = images::layout(home).ok().and_then(|layout| layout.list().ok());
    let images = images.unwrap_or_default().into_iter();
    images.map(|image| image.reference.to_string()).collect()
}

fn of_volumes(home: &Home) -> Vec<String> {
    let folder = home.node().volumes(spec::OPERATOR);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn of_platform(home: &Home, named: Named) -> anyhow::Result<Vec<String>> {
    let client = Control::default().client(home)?;
    let ask = async {
        anyhow::Ok(match named {
            Named::Cluster => texts(client.clusters().await?, |cluster| cluster.name.to_string()),
            Named::Service => texts(client.services().await?, |service| service.name.to_string()),
            Named::Secret => texts(client.secrets().await?, |secret| secret.name.to_string()),
            Named::Node => texts(client.nodes().await?, |node| node.id.to_string()),
            Named::Definition => {
                texts(client.definitions().await?, |definition| definition.id.to_string())
            }
            Named::Task | Named::RunningTask | Named::TaskPath | Named::Image | Named::Volume => {
                Vec::new()
            }
        })
    };
    block_on(async { tokio::time::timeout(CONTROL_TIME_MAX, ask).await })?
}

fn texts<T>(all: Vec<T>, text: impl Fn(&T) -> String) -> Vec<String> {
    all.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does_up_to_the_cursor() {
        for (line, want) in [
            ("margay ", vec!["margay", ""]),
            ("margay st", vec!["margay", "st"]),
            ("margay run -e 'A=b c' x", vec!["margay", "run", "-e", "A=b c", "x"]),
            ("margay run a\\ b \"c d", vec!["margay", "run", "a b", "c d"]),
            ("", vec![""]),
        ] {
            assert_eq!(words(line), want, "{line}");
        }
    }
}
