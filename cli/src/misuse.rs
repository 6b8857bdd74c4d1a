//! From arguments to a verb, with words for what was meant and is not here: Docker's verbs and
//! flags by name, our own when they are misspelled.

use std::{ffi::OsString, process::ExitCode};

use clap::{
    Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    args::{self, Cli},
    docker::{self, Here, Row},
    failure::{self, Advice, USAGE_ERROR},
    nearest::nearest,
    output::{self, Paint},
};

/// Reads the arguments, or says what is wrong with them and returns the exit code.
pub fn parse(arguments: &[OsString]) -> Result<Cli, ExitCode> {
    let read = |parser: Command| {
        let path = path(&parser, arguments);
        let matches = lenient(parser, &path).try_get_matches_from(arguments)?;
        Cli::from_arg_matches(&matches)
    };
    // Whatever is wrong, or asks for help, is told by the parser that knows every verb.
    if let Some(Ok(cli)) = args::parser_of_one_verb(arguments).map(read) {
        return Ok(cli);
    }
    read(Cli::command()).map_err(|error| tell(error, arguments))
}

/// The parser as Docker's users know it, along the verb in `path`: boolean flags take `=true` and
/// `=false`, and the last of several values wins. Help is written by the parser that is not,
/// because it would show the optional values.
fn lenient(command: Command, path: &[String]) -> Command {
    let command = command.args_override_self(true).mut_args(with_optional_value);
    let command = command.mut_args(with_negative_numbers);
    match path.split_first() {
        Some((verb, rest)) => command.mut_subcommand(verb, |command| lenient(command, rest)),
        None => command,
    }
}

/// `--memory-swap -1`: the value's own parser says what it thinks of it.
fn with_negative_numbers(argument: Arg) -> Arg {
    match (argument.get_action(), argument.is_positional()) {
        (ArgAction::Set | ArgAction::Append, false) => argument.allow_negative_numbers(true),
        _ => argument,
    }
}

fn with_optional_value(argument: Arg) -> Arg {
    match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(boolean),
        _ => argument,
    }
}

/// As Go's `strconv.ParseBool` has it.
fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false"),
    }
}

/// Says what is wrong, and returns the exit code.
fn tell(error: clap::Error, arguments: &[OsString]) -> ExitCode {
    let mut parser = Cli::command();
    parser.build();
    let path = path(&parser, arguments);
    let command = find_mut(&mut parser, &path);
    match (error.kind(), context(&error)) {
        (ErrorKind::InvalidSubcommand, Some(name)) => {
            let verbs: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
            report(unknown_verb(&path, &name, following(arguments, &name), &verbs))
        }
        (ErrorKind::UnknownArgument, Some(flag)) if flag.starts_with('-') && !is_number(&flag) => {
            let flags: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
            report(unknown_flag(&path, &flag, &flags))
        }
        (
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            _,
        ) => {
            let strict = Cli::command().try_get_matches_from(arguments).err();
            print(&strict.filter(|strict| strict.kind() == error.kind()).unwrap_or(error))
        }
        (ErrorKind::UnknownArgument, Some(word)) if takes_fewer(&path).is_some() => {
            report(one_word_more(&path, &word))
        }
        _ => {
            let mut error = error;
            for kind in
                [ContextKind::Suggested, ContextKind::SuggestedArg, ContextKind::SuggestedCommand]
            {
                error.remove(kind);
            }
            // Without the flags that happened to be given, or have a default.
            let usage = command.render_usage();
            error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
            print(&error)
        }
    }
}

/// A value that is too small for a flag, rather than a flag.
fn is_number(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

/// What the standard library says of a number, and what it means.
const OF_NUMBERS: [(&str, &str); 5] = [
    ("invalid digit found in string", "use a whole number"),
    ("cannot parse integer from empty string", "use a whole number"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("invalid float literal", "use a number"),
];

/// Prints what clap says. Help that was asked for is a result.
fn print(error: &clap::Error) -> ExitCode {
    let about_number = OF_NUMBERS.iter().find(|(words, _)| error.to_string().contains(words));
    if let Some((words, meaning)) = about_number.filter(|_| error.use_stderr()) {
        let text = error.render();
        let text = if Paint::is_on_stderr() { text.ansi().to_string() } else { text.to_string() };
        output::notice(format_args!("{}", text.trim_end().replace(words, meaning)));
        return ExitCode::from(USAGE_ERROR);
    }
    if let (Err(unwritable), false) = (error.print(), error.use_stderr()) {
        output::exit_unwritable(&unwritable);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE_ERROR))
}

fn report(advice: Advice) -> ExitCode {
    failure::report(&advice.into());
    ExitCode::from(USAGE_ERROR)
}

/// The name that an error is about.
fn context(error: &clap::Error) -> Option<String> {
    [ContextKind::InvalidSubcommand, ContextKind::InvalidArg].into_iter().find_map(|kind| {
        match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            _ => None,
        }
    })
}

/// The verb that the arguments begin with, by its own name.
fn path(parser: &Command, arguments: &[OsString]) -> Vec<String> {
    let (mut command, mut path) = (parser, Vec::new());
    let mut rest = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    while let Some(text) = rest.next() {
        match text.as_ref() {
            "--home" => _ = rest.next(),
            flag if flag.starts_with('-') => {}
            name => {
                let Some(found) = command.find_subcommand(name) else { break };
                path.push(found.get_name().to_owned());
                command = found;
            }
        }
    }
    path
}

fn find_mut<'a>(parser: &'a mut Command, path: &[String]) -> &'a mut Command {
    path.iter().fold(parser, |command, name| {
        command.find_subcommand_mut(name).expect("the path was found in this parser")
    })
}

/// The word behind the first `name`: where that is a group of Docker's, its verb.
fn following<'a>(arguments: &'a [OsString], name: &str) -> Option<&'a str> {
    let place = arguments.iter().position(|argument| argument == name)?;
    arguments.get(place + 1)?.to_str()
}

fn unknown_verb(path: &[String], name: &str, next: Option<&str>, verbs: &[&str]) -> Advice {
    let mut whole: Vec<&str> = path.iter().map(String::as_str).collect();
    whole.push(name);
    let in_group = next.map(|next| [&whole[..], &[next]].concat());
    let in_group = in_group.filter(|whole| docker::verb(whole).is_some());
    let whole = in_group.unwrap_or(whole);
    let shown = whole.join(" ");
    if let Some(row) = docker::verb(&whole).filter(|row| row.here == Here::Absent) {
        let message = format!("Docker's `{shown}` is absent here: {}", row.how);
        return Advice::new(message).hint(instead(row, "`margay --help` lists the verbs"));
    }
    let hint = match nearest(name, verbs) {
        Some(verb) => format!("did you mean `{verb}`?"),
        None => format!("list the verbs: {} --help", program(path)),
    };
    Advice::new(format!("`{} {name}` is no verb", program(path))).hint(hint)
}

fn unknown_flag(path: &[String], flag: &str, flags: &[&str]) -> Advice {
    let whole: Vec<&str> = path.iter().map(String::as_str).collect();
    let flag = flag.split_once('=').map_or(flag, |(flag, _)| flag);
    // One that another verb of the same table has, and this one not, is absent here as well.
    if let Some(row) = docker::flag(&whole, flag).filter(|row| !row.how.is_empty()) {
        let message = format!("Docker's `{flag}` is absent in `{}`: {}", program(path), row.how);
        return Advice::new(message).hint(instead(row, "leave it out"));
    }
    let hint = match flag.strip_prefix("--").and_then(|name| nearest(name, flags)) {
        Some(name) => format!("did you mean `--{name}`?"),
        None => format!("list the flags: {} --help", program(path)),
    };
    Advice::new(format!("`{}` has no flag `{flag}`", program(path))).hint(hint)
}

/// The verbs that take fewer words than Docker's do; their rows say why.
const FEWER_WORDS: [&str; 4] = ["save", "image save", "import", "image import"];

fn takes_fewer(path: &[String]) -> Option<Row> {
    let whole: Vec<&str> = path.iter().map(String::as_str).collect();
    docker::verb(&whole).filter(|row| row.names.iter().any(|name| FEWER_WORDS.contains(name)))
}

fn one_word_more(path: &[String], word: &str) -> Advice {
    let why = takes_fewer(path).map(|row| row.how).unwrap_or_default();
    Advice::new(format!("`{}` takes no `{word}`", program(path)))
        .hint(format!("other than Docker's, it {why}"))
}

fn program(path: &[String]) -> String {
    ["margay"].into_iter().chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

fn instead(row: Row, otherwise: &str) -> String {
    if row.instead.is_empty() { otherwise.to_owned() } else { row.instead }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn read(line: &str) -> Result<clap::ArgMatches, clap::Error> {
        let parser = Cli::command();
        let path = path(&parser, &words(line));
        lenient(parser, &path).try_get_matches_from(words(line))
    }

    #[test]
    fn boolean_flags_take_a_value_and_combine_as_in_docker() {
        for (line, flags) in [
            ("margay run --rm x", "rm"),
            ("margay run --rm=true x", "rm"),
            ("margay run --rm=false x", ""),
            ("margay run --rm=1 --rm=F x", ""),
            ("margay run -it x", "interactive tty"),
            ("margay run -ti x", "interactive tty"),
            ("margay run -it=false x", "interactive"),
            ("margay run -d=true x", "detach"),
            ("margay run -dit x", "detach interactive tty"),
            ("margay run -itd x --rm", "detach interactive tty"),
            ("margay run -itp8080:80 x", "interactive tty"),
        ] {
            let matches = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let (_, run) = matches.subcommand().unwrap();
            let all = ["detach", "interactive", "rm", "tty"];
            let set: Vec<_> = all.into_iter().filter(|flag| run.get_flag(flag)).collect();
            assert_eq!(set.join(" "), flags, "{line}");
        }
        assert!(read("margay run --rm=perhaps x").is_err());
        let twice = read("margay run --name a --name b -e A=1 -e B=2 x").unwrap();
        let (_, run) = twice.subcommand().unwrap();
        assert_eq!(run.get_raw("name").unwrap().next_back().unwrap(), "b");
        assert_eq!(run.get_many::<String>("env").unwrap().count(), 2);
    }

    #[test]
    fn the_lenient_parser_is_well_formed() {
        fn every_path(command: &Command, at: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
            for verb in command.get_subcommands() {
                at.push(verb.get_name().to_owned());
                paths.push(at.clone());
                every_path(verb, at, paths);
                at.pop();
            }
        }
        let mut paths = vec![Vec::new()];
        every_path(&Cli::command(), &mut Vec::new(), &mut paths);
        assert!(paths.len() > 50, "{paths:?}");
        for path in paths {
            lenient(Cli::command(), &path).debug_assert();
        }
    }

    #[test]
    fn a_parser_of_one_verb_reads_what_the_parser_of_all_reads() {
        for line in [
            "margay run --rm=true -dit -p 80:80 -e A=1 hello a --rm b",
            "margay run --home /h --name a --name b hello",
            "margay exec -it=false -e A=1 cats ls -l",
            "margay invoke adopt --path /whoami",
            "margay ps -aq",
            "margay logs --tail 3 cats",
            "margay stop -t 3 cats",
        ] {
            let one = args::parser_of_one_verb(&words(line)).expect(line);
            let path = path(&one, &words(line));
            let one = lenient(one, &path).try_get_matches_from(words(line));
            let one = Cli::from_arg_matches(&one.unwrap_or_else(|error| panic!("{line}: {error}")));
            let all = Cli::from_arg_matches(&read(line).unwrap());
            assert_eq!(format!("{:?}", one.unwrap()), format!("{:?}", all.unwrap()), "{line}");
        }
        for line in ["margay", "margay --home /h run x", "margay up", "margay runn x"] {
            assert!(args::parser_of_one_verb(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn a_slip_is_recognised_and_a_likeness_is_not() {
        let names = ["stats", "stop", "secret", "images", "registry-timeout"];
        for (text, want) in [
            ("stat", Some("stats")),
            ("stpo", Some("stop")),
            ("imagse", Some("images")),
            ("registry-timeuot", Some("registry-timeout")),
            ("restart", None),
            ("shot", None),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, &names), want, "{text}");
        }
    }
}
