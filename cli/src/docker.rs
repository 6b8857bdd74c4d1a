//! What Docker has and what it is here: `docs/docker.md`, which the binary carries, so that the
//! page and the messages are one table.

/// The page. A test holds it against the parser, in both directions.
const PAGE: &str = include_str!("../../docs/docker.md");

/// The heading of the table of verbs.
const VERBS: &str = "Verbs";
/// The heading of the table of flags that no verb owns.
const GLOBAL_FLAGS: &str = "Flags before or after any verb";
/// What begins the heading of a table of flags; the verbs follow.
const FLAGS_OF: &str = "Flags of ";

/// What a verb or flag of Docker is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    Same,
    Differs,
    Absent,
    /// A flag that Docker does not have.
    Ours,
}

/// A row of the page: one or more names with one explanation.
#[derive(Debug)]
pub struct Row {
    pub names: Vec<&'static str>,
    pub here: Here,
    /// The difference, or why it is absent.
    pub how: String,
    /// What to use instead; empty where there is nothing.
    pub instead: String,
}

/// The row of the verb at `path`, as in `["volume", "ls"]`. A group stands for its verbs.
pub fn verb(path: &[&str]) -> Option<Row> {
    let name = path.join(" ");
    let of_group = |row: &Row| {
        row.here == Here::Absent && row.names.iter().any(|verb| is_in_group(verb, &name))
    };
    find(VERBS, &name).or_else(|| rows(VERBS).find(of_group))
}

/// The row of `flag` in the verb at `path`.
pub fn flag(path: &[&str], flag: &str) -> Option<Row> {
    let of_verb = flags_heading(&path.join(" ")).and_then(|heading| find(heading, flag));
    of_verb.or_else(|| find(GLOBAL_FLAGS, flag))
}

fn is_in_group(verb: &str, group: &str) -> bool {
    verb.strip_prefix(group).is_some_and(|rest| rest.starts_with(' '))
}

fn find(heading: &str, name: &str) -> Option<Row> {
    rows(heading).find(|row| row.names.contains(&name))
}

fn headings() -> impl Iterator<Item = &'static str> {
    PAGE.lines().filter_map(|line| line.strip_prefix("## "))
}

/// The heading of the table with the flags of `verb`.
fn flags_heading(verb: &str) -> Option<&'static str> {
    headings().find(|heading| heading.starts_with(FLAGS_OF) && names(heading).contains(&verb))
}

/// The rows of the table below `heading`.
fn rows(heading: &str) -> impl Iterator<Item = Row> {
    let below = PAGE.lines().skip_while(move |line| line.strip_prefix("## ") != Some(heading));
    below.skip(1).take_while(|line| !line.starts_with("## ")).filter_map(row)
}

/// `None` for lines that are no row: prose, and the two lines above the rows.
fn row(line: &'static str) -> Option<Row> {
    let line = line.strip_prefix("| `")?;
    let (first, rest) = line.split_once(" | ")?;
    let mut cells = cells(rest).into_iter();
    let here = match cells.next()?.as_str() {
        "same" => Here::Same,
        "differs" => Here::Differs,
        "absent" => Here::Absent,
        "ours" => Here::Ours,
        _ => return None,
    };
    // The quote that the prefix took is the first one.
    let names = first.split('`').step_by(2).filter(|name| !name.is_empty()).collect();
    Some(Row { names, here, how: cells.next()?, instead: cells.next()? })
}

/// The cells of the rest of a row. A bar within a cell is escaped, as Markdown wants it.
fn cells(rest: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut chars = rest.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('\\', Some('|')) => cells.last_mut().expect("never empty").extend(chars.next()),
            ('|', _) => cells.push(String::new()),
            _ => cells.last_mut().expect("never empty").push(char),
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

/// What stands between backticks.
fn names(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory as _};

    use super::*;
    use crate::args::Cli;

    fn parser() -> Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    /// The command of `verb`, through names and aliases.
    fn find_command<'a>(parser: &'a Command, verb: &str) -> Option<&'a Command> {
        verb.split(' ').try_fold(parser, |command, name| command.find_subcommand(name))
    }

    /// Every way to write a flag of `command`; those of all verbs only where `global` is set.
    fn flags(command: &Command, global: bool) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let arguments = command.get_arguments().filter(|argument| {
            argument.is_global_set() == global
                && !["help", "version"].contains(&argument.get_id().as_str())
                && !argument.is_hide_set()
        });
        for argument in arguments {
            let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
            all.extend(shorts.iter().map(|short| format!("-{short}")));
            let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
            all.extend(longs.iter().map(|long| format!("--{long}")));
            let hidden = argument.get_all_aliases().unwrap_or_default();
            all.extend(hidden.iter().map(|long| format!("--{long}")));
            let hidden = argument.get_all_short_aliases().unwrap_or_default();
            all.extend(hidden.iter().map(|short| format!("-{short}")));
        }
        all
    }

    /// What is wrong with the table of flags below `heading`, where `there` are those of the
    /// parser.
    fn differences(heading: &str, there: &BTreeSet<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut listed = BTreeSet::new();
        for row in rows(heading) {
            for name in row.names {
                if !listed.insert(name.to_owned()) {
                    wrong.push(format!("{heading}: `{name}` stands twice"));
                }
                if there.contains(name) == (row.here == Here::Absent) {
                    let parser = if there.contains(name) { "has it" } else { "lacks it" };
                    wrong.push(format!(
                        "{heading}: `{name}` is {:?}, and the parser {parser}",
                        row.here
                    ));
                }
            }
        }
        let missing = there.difference(&listed);
        wrong.extend(missing.map(|name| format!("{heading}: `{name}` is not in docs/docker.md")));
        wrong
    }

    #[test]
    fn the_page_lists_the_flags_that_the_parser_has_and_no_other() {
        let parser = parser();
        let mut wrong = Vec::new();
        for heading in headings().filter(|heading| heading.starts_with(FLAGS_OF)) {
            let verbs = names(heading);
            let commands = verbs.iter().filter_map(|verb| find_command(&parser, verb));
            let there = commands.flat_map(|command| flags(command, false)).collect();
            wrong.extend(differences(heading, &there));
        }
        let mut everywhere = flags(&parser, true);
        everywhere.extend(["-h", "--help", "-v", "--version", "-V"].map(str::to_owned));
        wrong.extend(differences(GLOBAL_FLAGS, &everywhere));
        assert!(wrong.is_empty(), "correct docs/docker.md:\n{}", wrong.join("\n"));
    }

    #[test]
    fn the_page_lists_the_verbs_that_the_parser_has_and_no_other() {
        let parser = parser();
        for row in rows(VERBS) {
            for name in row.names {
                let there = find_command(&parser, name).is_some();
                let here = row.here;
                assert_eq!(there, here != Here::Absent, "docs/docker.md: `{name}` is {here:?}");
                assert!(
                    !there
                        || flags_heading(name).is_some()
                        || flags(find_command(&parser, name).unwrap(), false).is_empty(),
                    "docs/docker.md has no `## {FLAGS_OF}` with `{name}`"
                );
            }
        }
    }

    #[test]
    fn every_row_explains_itself() {
        for heading in headings() {
            for row in rows(heading) {
                let named = format!("docs/docker.md, {heading}: {:?}", row.names);
                assert!(!row.names.is_empty(), "{named}");
                let explained = matches!(row.here, Here::Differs | Here::Absent);
                assert_eq!(!row.how.is_empty(), explained, "{named}");
                assert!(row.instead.is_empty() || row.here == Here::Absent, "{named}");
                let tables = PAGE.lines().filter(|line| line.starts_with("| `")).count();
                assert!(tables > 300, "rows are not read");
            }
        }
        let total: usize = headings().map(|heading| rows(heading).count()).sum();
        let lines = PAGE.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(total, lines, "a line of docs/docker.md is no row");
    }
}
