//! What could stand next on a command line: verbs, flags, values, and the names of tasks, images
//! and services that there are.
//!
//! [`candidates`] decides from the parser alone; the names come from outside. Absent on purpose:
//! files, which every shell completes itself where there is no candidate.

use clap::{Arg, ArgAction, Command};

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    Task,
    /// A task that runs.
    RunningTask,
    /// A task and a `:`, behind which a path in it stands.
    TaskPath,
    Image,
    Volume,
    Cluster,
    Service,
    Definition,
    Secret,
    Node,
}

/// A word that could stand next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    pub word: String,
    pub help: String,
}

/// More than a screen shows is not chosen from.
const CANDIDATES_MAX: usize = 1000;

/// The words that begin with `current` and could follow `words`, which do not include the program.
pub fn candidates(
    parser: &Command,
    words: &[String],
    current: &str,
    names: impl Fn(Named) -> Vec<String>,
) -> Vec<Candidate> {
    let state = State::after(parser, words);
    let mut all = match state.expected {
        Expected::Value(argument) => values(&state.path, argument, &names),
        Expected::Guest => Vec::new(),
        Expected::Any if current.starts_with('-') => match current.split_once('=') {
            Some((flag, _)) => state
                .find(flag)
                .map(|argument| values(&state.path, argument, &names))
                .unwrap_or_default()
                .into_iter()
                .map(|found| Candidate { word: format!("{flag}={}", found.word), ..found })
                .collect(),
            None => flags(state.command),
        },
        Expected::Any => {
            // A verb stands first.
            let mut all = match state.positionals {
                0 => verbs(state.command),
                _ => Vec::new(),
            };
            if let Some(argument) = state.positional() {
                all.extend(values(&state.path, argument, &names));
            }
            all
        }
    };
    all.retain(|candidate| candidate.word.starts_with(current));
    all.sort();
    all.dedup_by(|one, other| one.word == other.word);
    all.truncate(CANDIDATES_MAX);
    all
}

/// Where a command line has got to.
struct State<'a> {
    command: &'a Command,
    path: Vec<&'a str>,
    /// How many words without a dash stand behind the verb.
    positionals: usize,
    expected: Expected<'a>,
}

enum Expected<'a> {
    /// Of the flag before.
    Value(&'a Arg),
    /// All that follows is for the guest.
    Guest,
    Any,
}

impl<'a> State<'a> {
    fn after(parser: &'a Command, words: &[String]) -> Self {
        let mut state =
            State { command: parser, path: Vec::new(), positionals: 0, expected: Expected::Any };
        for word in words {
            state.read(word);
        }
        state
    }

    fn read(&mut self, word: &str) {
        match self.expected {
            Expected::Value(_) => self.expected = Expected::Any,
            Expected::Guest => {}
            Expected::Any if word.starts_with('-') && word.len() > 1 => self.read_flag(word),
            Expected::Any => match self.command.find_subcommand(word) {
                Some(command) if self.positionals == 0 => {
                    self.command = command;
                    self.path.push(command.get_name());
                }
                _ => {
                    let is_last = |argument: &Arg| argument.is_trailing_var_arg_set();
                    if self.command.get_positionals().any(is_last) {
                        self.expected = Expected::Guest;
                    }
                    self.positionals += 1;
                }
            },
        }
    }

    fn read_flag(&mut self, word: &str) {
        let flag = match word.strip_prefix("--") {
            Some(_) if word.contains('=') => None,
            Some(_) => self.find(word),
            // Of `-itp` the last one, unless its value is attached.
            None => {
                let letters = word.char_indices().skip(1);
                let taking = letters
                    .map(|(at, letter)| (at + letter.len_utf8(), self.find(&format!("-{letter}"))))
                    .find(|(_, argument)| argument.is_some_and(takes_value));
                taking.filter(|(end, _)| *end == word.len()).and_then(|(_, argument)| argument)
            }
        };
        if let Some(argument) = flag.filter(|argument| takes_value(argument)) {
            self.expected = Expected::Value(argument);
        }
    }

    fn find(&self, flag: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|argument| match flag.strip_prefix("--") {
            Some(name) => {
                argument.get_long_and_visible_aliases().is_some_and(|all| all.contains(&name))
            }
            None => argument.get_short().is_some_and(|short| flag == format!("-{short}")),
        })
    }

    /// The argument that the next word without a dash belongs to.
    fn positional(&self) -> Option<&'a Arg> {
        let all: Vec<&Arg> = self.command.get_positionals().collect();
        let takes_more =
            |argument: &&&Arg| argument.get_num_args().is_some_and(|count| count.max_values() > 1);
        let last = all.last().filter(takes_more);
        all.get(self.positionals).or(last).copied()
    }
}

fn takes_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

fn verbs(command: &Command) -> Vec<Candidate> {
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    shown.map(|verb| candidate(verb.get_name(), verb.get_about())).collect()
}

fn flags(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    shown
        .filter_map(|argument| Some((argument.get_long()?, argument)))
        .map(|(long, argument)| candidate(&format!("--{long}"), argument.get_help()))
        .collect()
}

fn candidate(word: &str, help: Option<&clap::builder::StyledStr>) -> Candidate {
    let help = help.map(ToString::to_string).unwrap_or_default();
    Candidate { word: word.to_owned(), help: help.lines().next().unwrap_or("").to_owned() }
}

fn values(path: &[&str], argument: &Arg, names: &impl Fn(Named) -> Vec<String>) -> Vec<Candidate> {
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        let shown = possible.iter().filter(|value| !value.is_hide_set());
        return shown.map(|value| candidate(value.get_name(), value.get_help())).collect();
    }
    let words = named(path, argument).into_iter().flat_map(names);
    words.map(|word| Candidate { word, help: String::new() }).collect()
}

/// What the value of `argument` names, by the group that its verb is in and by its own name.
fn named(path: &[&str], argument: &Arg) -> Vec<Named> {
    let (group, verb) = (path.first().copied().unwrap_or(""), path.last().copied().unwrap_or(""));
    let shown = argument.get_value_names().unwrap_or_default();
    let shown = shown.first().map_or("", |name| name.as_str());
    let is_flag = argument.get_long().is_some();
    match (group, argument.get_id().as_str()) {
        (_, "cluster") => return vec![Named::Cluster],
        ("service", "task") => return vec![Named::Definition],
        ("service", _) if !is_flag && verb != "create" => return vec![Named::Service],
        ("cluster", _) if !is_flag && verb != "create" => return vec![Named::Cluster],
        ("secret", _) if !is_flag && verb != "create" => return vec![Named::Secret],
        ("volume", _) if !is_flag && verb != "create" => return vec![Named::Volume],
        ("node", "node" | "nodes") => return vec![Named::Node],
        // Those of the platform have ids that are not typed.
        ("task", _) => return Vec::new(),
        (_, "source" | "dest") if verb == "cp" => return vec![Named::TaskPath],
        _ => {}
    }
    let running = ["attach", "exec", "kill", "port", "stop"].contains(&verb);
    let task = if running { Named::RunningTask } else { Named::Task };
    let mut kinds = Vec::new();
    if shown.contains("TASK") || argument.get_id() == "task" {
        kinds.push(task);
    }
    let is_image = shown.contains("IMAGE")
        || shown.starts_with("REGISTRY/NAME")
        || ["image", "images", "source"].contains(&argument.get_id().as_str());
    if is_image {
        kinds.push(Named::Image);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// What is offered for `line`, whose last word is not finished.
    fn offered(line: &str) -> Vec<String> {
        let mut parser = crate::args::Cli::command();
        parser.build();
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let current = words.pop().unwrap();
        let names = |named| vec![format!("{named:?}").to_lowercase(), "cats:latest".to_owned()];
        candidates(&parser, &words, &current, names).into_iter().map(|found| found.word).collect()
    }

    #[test]
    fn names_are_offered_where_they_belong() {
        for (line, want) in [
            ("stop ", "cats:latest runningtask"),
            ("stop runningtask ", "cats:latest runningtask"),
            ("rm ta", "task"),
            ("logs -f ", "cats:latest task"),
            ("inspect ", "cats:latest image task"),
            ("run ", "cats:latest image"),
            ("run --rm -e A=1 ", "cats:latest image"),
            ("run -itp 80 c", "cats:latest"),
            ("run -e ", ""),
            ("run cats ", ""),
            ("run cats --", ""),
            ("run --pull ", "always missing never"),
            ("run --pull=a", "--pull=always"),
            ("run --all", "--allow"),
            ("push c", "cats:latest"),
            ("tag ", "cats:latest image"),
            ("cp ", "cats:latest taskpath"),
            ("container cp ./f task", "taskpath"),
            ("service rm ", "cats:latest service"),
            ("service update --cluster ", "cats:latest cluster"),
            ("service update --task d", "definition"),
            ("service create ", ""),
            ("secret rm s", "secret"),
            ("logou", "logout"),
            ("sec", "secret"),
            ("frobnicate ", ""),
        ] {
            assert_eq!(offered(line).join(" "), want, "margay {line}");
        }
        assert!(offered("").contains(&"run".to_owned()));
        assert!(!offered("").contains(&"complete".to_owned()), "it is hidden");
    }
}
