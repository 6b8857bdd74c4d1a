use super::{
    document::{self, Opening},
    flags::{self, Known},
    healthcheck,
    instruction::{
        Argument, BuildStage, Command, CopyInstruction, Dockerfile, HereDocument, Instruction,
        Pair, Step, Verb, Word,
    },
    lines::{Line, Lines},
    words::{self, Piece, Split},
};
use crate::{
    diagnostic::{DiagnosticKind, Place, shortened},
    fault::Fault,
    limits::{INSTRUCTIONS_MAX, QUOTED_CHARS_MAX, STAGES_MAX},
};

impl Dockerfile {
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let (mut lines, mut count) = (Lines::of(text), 0);
        let (mut global_args, mut stages) = (Vec::new(), Vec::<BuildStage>::new());
        while let Some(line) = lines.instruction()? {
            count += 1;
            check_size("instructions", count, INSTRUCTIONS_MAX)?;
            let parsed = Parser { line: &line, escape: lines.escape() }.parse(&mut lines)?;
            match (parsed, stages.last_mut()) {
                (Parsed::Stage(stage), _) => {
                    stages.push(stage);
                    check_size("stages", stages.len(), STAGES_MAX)?;
                }
                (Parsed::Step(step), Some(stage)) => stage.steps.push(step),
                (Parsed::Step(step), None) => match step.instruction {
                    Instruction::Arg(_) => global_args.push(step),
                    _ => return Err(DiagnosticKind::BeforeFrom.at(step.place)),
                },
            }
        }
        match (count, stages.is_empty()) {
            (0, _) => Err(DiagnosticKind::Empty.into()),
            (_, true) => Err(DiagnosticKind::NoFrom.into()),
            (_, false) => Ok(Self { escape: lines.escape(), global_args, stages }),
        }
    }

    /// The one instruction that `text` of an ONBUILD holds, as if it stood at `place`.
    pub(crate) fn trigger(text: &str, place: Place) -> Result<Step, Fault> {
        let mut lines = Lines::of(text);
        let wrong = || DiagnosticKind::Trigger(shortened(text, QUOTED_CHARS_MAX)).at(place);
        let line = lines.instruction()?.ok_or_else(wrong)?;
        let line = Line::at(&line.text, place);
        let parsed = Parser { line: &line, escape: lines.escape() }.parse(&mut lines)?;
        match (parsed, lines.instruction()?) {
            (Parsed::Step(step), None) => Ok(step),
            _ => Err(wrong()),
        }
    }

    /// The number of the last of the first `before` stages that has `name`, in any case.
    pub(crate) fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let named = |stage: &BuildStage| {
            stage.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        self.stages[..before].iter().rposition(named)
    }
}

fn check_size(what: &'static str, found: usize, max: usize) -> Result<(), Fault> {
    match found > max {
        true => Err(DiagnosticKind::TooMany { what, found, max }.at(Place::line(1))),
        false => Ok(()),
    }
}

enum Parsed {
    Stage(BuildStage),
    Step(Step),
}

/// One line on its way to an instruction.
struct Parser<'l> {
    line: &'l Line,
    escape: char,
}

impl Parser<'_> {
    fn parse(&self, lines: &mut Lines<'_>) -> Result<Parsed, Fault> {
        let split = words::split(&self.line.text, self.escape);
        let place = self.line.place(split.keyword_at);
        let keyword = split.keyword.to_ascii_uppercase();
        if keyword == "FROM" {
            return Ok(Parsed::Stage(self.from(&split, place)?));
        }
        let instruction = self.instruction(&keyword, &split, lines);
        let instruction = instruction.map_err(|fault| fault.or_at(place))?;
        let text = shortened(self.line.text.trim(), QUOTED_CHARS_MAX);
        Ok(Parsed::Step(Step { place, text, instruction }))
    }

    fn instruction(
        &self,
        keyword: &str,
        split: &Split<'_>,
        lines: &mut Lines<'_>,
    ) -> Result<Instruction, Fault> {
        Ok(match keyword {
            "ADD" => self.copy(Verb::Add, split, lines)?,
            "ARG" => self.arg(split)?,
            "CMD" => Instruction::Cmd(self.command("CMD", split)?),
            "COPY" => self.copy(Verb::Copy, split, lines)?,
            "ENTRYPOINT" => Instruction::Entrypoint(self.command("ENTRYPOINT", split)?),
            "ENV" => Instruction::Env(self.pairs("ENV", split)?),
            "EXPOSE" => {
                self.flags("EXPOSE", flags::NONE, split)?;
                let mut ports = words::blank_separated(split.rest, split.rest_at);
                ports.sort_by(|a, b| a.text.cmp(&b.text));
                Instruction::Expose(self.at_least_one("EXPOSE", ports)?)
            }
            "HEALTHCHECK" => self.healthcheck(split)?,
            "LABEL" => Instruction::Label(self.pairs("LABEL", split)?),
            "MAINTAINER" => Instruction::Maintainer(self.one("MAINTAINER", split)?.text),
            "ONBUILD" => self.onbuild(split, lines)?,
            "RUN" => {
                self.documents(split.rest, lines)?;
                Instruction::Run
            }
            "SHELL" => {
                self.flags("SHELL", flags::NONE, split)?;
                match self.strings(split)? {
                    Some(words) if !words.is_empty() => Instruction::Shell(words),
                    _ => return Err(DiagnosticKind::ShellNotJson.at(self.place(split.rest_at))),
                }
            }
            // Its flags are dropped, as with Docker.
            "STOPSIGNAL" => Instruction::Stopsignal(self.rest("STOPSIGNAL", split)?),
            "USER" => Instruction::User(self.one("USER", split)?),
            "VOLUME" => {
                self.flags("VOLUME", flags::NONE, split)?;
                Instruction::Volume(self.at_least_one("VOLUME", self.list(split)?)?)
            }
            "WORKDIR" => Instruction::Workdir(self.one("WORKDIR", split)?),
            _ => {
                let word = shortened(split.keyword, QUOTED_CHARS_MAX);
                return Err(DiagnosticKind::UnknownInstruction(word).into());
            }
        })
    }

    fn place(&self, at: usize) -> Place {
        self.line.place(at)
    }

    fn word(&self, piece: Piece) -> Word {
        Word { place: self.place(piece.at), text: piece.text }
    }

    fn flags(
        &self,
        instruction: &'static str,
        known: Known,
        split: &Split<'_>,
    ) -> Result<Vec<super::instruction::Flag>, Fault> {
        flags::read(instruction, known, &split.flags, |at| self.place(at))
    }

    /// Everything behind the keyword, as one word.
    fn rest(&self, instruction: &'static str, split: &Split<'_>) -> Result<Word, Fault> {
        match split.rest {
            "" => Err(DiagnosticKind::NoArguments(instruction).into()),
            text => Ok(self.word(Piece { at: split.rest_at, text: text.to_owned() })),
        }
    }

    fn one(&self, instruction: &'static str, split: &Split<'_>) -> Result<Word, Fault> {
        self.flags(instruction, flags::NONE, split)?;
        self.rest(instruction, split)
    }

    fn at_least_one(
        &self,
        instruction: &'static str,
        pieces: Vec<Piece>,
    ) -> Result<Vec<Word>, Fault> {
        if pieces.iter().all(|piece| piece.text.trim().is_empty()) {
            return Err(DiagnosticKind::NoArguments(instruction).into());
        }
        Ok(pieces.into_iter().map(|piece| self.word(piece)).collect())
    }

    fn strings(&self, split: &Split<'_>) -> Result<Option<Vec<String>>, Fault> {
        let not_strings = |_| DiagnosticKind::NotStrings.at(self.place(split.rest_at));
        words::json(split.rest).map_err(not_strings)
    }

    /// A JSON array, or words between blanks.
    fn list(&self, split: &Split<'_>) -> Result<Vec<Piece>, Fault> {
        let pieces = |list: Vec<String>| {
            list.into_iter().map(|text| Piece { at: split.rest_at, text }).collect()
        };
        let words = || words::blank_separated(split.rest, split.rest_at);
        Ok(self.strings(split)?.map_or_else(words, pieces))
    }

    fn command(&self, name: &'static str, split: &Split<'_>) -> Result<Command, Fault> {
        self.flags(name, flags::NONE, split)?;
        let shell = || Command::Shell(split.rest.to_owned());
        Ok(self.strings(split)?.map_or_else(shell, Command::Exec))
    }

    fn arg(&self, split: &Split<'_>) -> Result<Instruction, Fault> {
        let words = words::quoted(split.rest, split.rest_at, self.escape);
        if words.is_empty() {
            return Err(DiagnosticKind::NoArguments("ARG").into());
        }
        let arguments = words.into_iter().map(|word| {
            let place = self.place(word.at);
            match word.text.split_once('=') {
                Some(("", _)) => Err(DiagnosticKind::NoName(word.text.clone()).at(place)),
                Some((name, default)) => {
                    let default = Some(Word { place, text: default.to_owned() });
                    Ok(Argument { name: name.to_owned(), default })
                }
                None => Ok(Argument { name: word.text, default: None }),
            }
        });
        arguments.collect::<Result<_, _>>().map(Instruction::Arg)
    }

    /// `NAME=value …`, or the old form `NAME the rest`.
    fn pairs(&self, name: &'static str, split: &Split<'_>) -> Result<Vec<Pair>, Fault> {
        let words = words::quoted(split.rest, split.rest_at, self.escape);
        let Some(first) = words.first() else {
            self.flags(name, flags::NONE, split)?;
            return Err(DiagnosticKind::NoArguments(name).into());
        };
        let pair = |at: usize, name: &str, value: &str| Pair {
            name: self.word(Piece { at, text: name.to_owned() }),
            value: self.word(Piece { at, text: value.to_owned() }),
        };
        let pairs = if first.text.contains('=') {
            let pairs = words.iter().map(|word| match word.text.split_once('=') {
                None => Err(DiagnosticKind::NotAPair(word.text.clone()).at(self.place(word.at))),
                Some(("", _)) => {
                    Err(DiagnosticKind::NoName(word.text.clone()).at(self.place(word.at)))
                }
                Some((key, value)) => Ok(pair(word.at, key, value)),
            });
            pairs.collect::<Result<_, _>>()?
        } else {
            let words = words::blank_separated(split.rest, split.rest_at);
            let [key, value, ..] = words.as_slice() else {
                return Err(DiagnosticKind::NoValue(name).at(self.place(split.rest_at)));
            };
            vec![pair(key.at, &key.text, &split.rest[value.at - split.rest_at..])]
        };
        self.flags(name, flags::NONE, split)?;
        Ok(pairs)
    }

    fn healthcheck(&self, split: &Split<'_>) -> Result<Instruction, Fault> {
        let end = split.rest.find(char::is_whitespace).unwrap_or(split.rest.len());
        let (kind, command) = split.rest.split_at(end);
        let command = command.trim_start();
        let at = split.rest_at + split.rest.len() - command.len();
        let inner = Split { rest: command, rest_at: at, flags: Vec::new(), ..*split };
        match kind.to_ascii_uppercase().as_str() {
            "" => Err(DiagnosticKind::NoArguments("HEALTHCHECK").into()),
            "NONE" if command.is_empty() => {
                let test = vec!["NONE".to_owned()];
                Ok(Instruction::Healthcheck(spec::HealthCheck { test, ..Default::default() }))
            }
            "NONE" => Err(DiagnosticKind::HealthcheckNone.at(self.place(at))),
            "CMD" => {
                let flags = self.flags("HEALTHCHECK", flags::HEALTHCHECK, split)?;
                let mut check = healthcheck::read(&flags)?;
                check.test = match self.strings(&inner)? {
                    Some(args) if !args.is_empty() => [vec!["CMD".to_owned()], args].concat(),
                    None if !command.is_empty() => vec!["CMD-SHELL".to_owned(), command.to_owned()],
                    _ => return Err(DiagnosticKind::NoArguments("HEALTHCHECK CMD").into()),
                };
                Ok(Instruction::Healthcheck(check))
            }
            _ => {
                self.flags("HEALTHCHECK", flags::HEALTHCHECK, split)?;
                let kind = kind.to_owned();
                Err(DiagnosticKind::HealthcheckKind(kind).at(self.place(split.rest_at)))
            }
        }
    }

    fn onbuild(&self, split: &Split<'_>, lines: &mut Lines<'_>) -> Result<Instruction, Fault> {
        self.flags("ONBUILD", flags::NONE, split)?;
        let text = self.rest("ONBUILD", split)?.text;
        let inner = words::split(&text, self.escape);
        match inner.keyword.to_ascii_uppercase().as_str() {
            verb @ ("ONBUILD" | "MAINTAINER" | "FROM") => {
                return Err(DiagnosticKind::OnbuildVerb(verb.to_owned()).into());
            }
            "COPY" | "ADD" | "RUN" => {}
            // Everything else is checked here, and again where it is carried out.
            _ => {
                return Dockerfile::trigger(&text, self.place(split.rest_at))
                    .map(|_| Instruction::Onbuild(text));
            }
        }
        let mut whole = text.clone();
        for (opening, document) in self.documents(inner.rest, lines)? {
            whole.push('\n');
            whole.push_str(&document);
            whole.push_str(&opening.name);
        }
        Dockerfile::trigger(&whole, self.place(split.rest_at))?;
        Ok(Instruction::Onbuild(whole))
    }

    /// The here-documents that the line opens, with their text as it stands.
    fn documents(
        &self,
        rest: &str,
        lines: &mut Lines<'_>,
    ) -> Result<Vec<(Opening, String)>, Fault> {
        if matches!(words::json(rest), Ok(Some(_))) {
            return Ok(Vec::new());
        }
        let openings = document::openings(&self.line.text).into_iter();
        let documents = openings.map(|opening| {
            let text = lines.document(&opening.name, opening.tabs)?;
            Ok((opening, text))
        });
        documents.collect()
    }

    fn copy(
        &self,
        verb: Verb,
        split: &Split<'_>,
        lines: &mut Lines<'_>,
    ) -> Result<Instruction, Fault> {
        let documents = self.documents(split.rest, lines)?;
        let mut paths = self.list(split)?;
        if paths.len() < 2 {
            return Err(DiagnosticKind::NoDestination(verb.name()).into());
        }
        let known = if verb == Verb::Copy { flags::COPY } else { flags::ADD };
        let flags = self.flags(verb.name(), known, split)?;
        let destination = self.word(paths.pop().expect("there are two"));
        if document::opening(&destination.text).is_some() {
            return Err(DiagnosticKind::DocumentAsDestination.at(destination.place));
        }
        let (mut sources, mut contents) = (Vec::new(), Vec::new());
        for path in paths {
            let Some(opening) = document::opening(&path.text) else {
                sources.push(self.word(path));
                continue;
            };
            let found = documents.iter().rfind(|(other, _)| other.name == opening.name);
            let text = found.map(|(_, text)| text.as_str()).unwrap_or_default();
            let text = if opening.tabs { document::without_tabs(text) } else { text.to_owned() };
            contents.push(HereDocument { name: opening.name, text, expand: opening.expand });
        }
        let documents = contents;
        Ok(Instruction::Copy(CopyInstruction { verb, flags, sources, documents, destination }))
    }

    fn from(&self, split: &Split<'_>, place: Place) -> Result<BuildStage, Fault> {
        let mut words = words::blank_separated(split.rest, split.rest_at);
        let name = match words.as_slice() {
            [_] => None,
            [_, as_, name] if as_.text.eq_ignore_ascii_case("as") => {
                let lower = name.text.to_lowercase();
                if !is_stage_name(&lower) {
                    let name_place = self.place(name.at);
                    return Err(DiagnosticKind::StageName(name.text.clone()).at(name_place));
                }
                Some(lower)
            }
            _ => return Err(DiagnosticKind::FromArguments.at(place)),
        };
        let mut flags = self.flags("FROM", flags::FROM, split)?;
        Ok(BuildStage {
            place,
            platform: flags.pop().map(|flag| flag.value).filter(|word| !word.text.is_empty()),
            image: self.word(words.swap_remove(0)),
            name,
            steps: Vec::new(),
        })
    }
}

fn is_stage_name(name: &str) -> bool {
    let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(inner)
}
