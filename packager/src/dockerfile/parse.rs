use parse_dockerfile::{self as parser, Instruction as Parsed, JsonOrStringArray, UnescapedString};

use super::instruction::{
    BuildStage, Command, CopyInstruction, Dockerfile, Flag, HereDocument, Instruction, Step, Verb,
    Word,
};
use crate::{
    diagnostic::{DiagnosticKind, Syntax, shortened},
    fault::Fault,
    limits::{INSTRUCTIONS_MAX, QUOTED_CHARS_MAX, STAGES_MAX},
};

impl Dockerfile {
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let parsed = parser::parse(text).map_err(|error| {
            let line = Some(error.line()).filter(|line| *line > 0);
            Fault::Kind { line, kind: DiagnosticKind::Syntax(Syntax(error)) }
        })?;
        check_size("stages", parsed.stages().len(), STAGES_MAX)?;
        check_size("instructions", parsed.instructions.len(), INSTRUCTIONS_MAX)?;
        let reader = Reader::of(text);
        let escape = parsed.parser_directives.escape.as_ref();
        let global_args = parsed.global_args().map(|arg| {
            reader.step(arg.arg.span.start, Instruction::Arg(arg.arguments.value.to_string()))
        });
        Ok(Self {
            escape: escape.map_or('\\', |directive| directive.value.value),
            global_args: global_args.collect(),
            stages: parsed.stages().map(|stage| reader.stage(&stage)).collect::<Result<_, _>>()?,
        })
    }

    /// The number of the stage called `name` among the first `before`, the latest first.
    pub(crate) fn stage_number(&self, name: &str, before: usize) -> Option<usize> {
        let named = |stage: &BuildStage| {
            stage.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        let earlier = &self.stages[..before];
        earlier.iter().rposition(named).or_else(|| name.parse().ok().filter(|at| *at < before))
    }
}

fn check_size(what: &'static str, found: usize, max: usize) -> Result<(), Fault> {
    match found > max {
        true => Err(DiagnosticKind::TooMany { what, found, max }.at(1)),
        false => Ok(()),
    }
}

/// The parser's values with lines in place of offsets.
struct Reader<'t> {
    text: &'t str,
    line_ends: Vec<usize>,
}

impl<'t> Reader<'t> {
    fn of(text: &'t str) -> Self {
        Self { text, line_ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    fn line(&self, at: usize) -> usize {
        self.line_ends.partition_point(|end| *end < at) + 1
    }

    fn step(&self, at: usize, instruction: Instruction) -> Step {
        let text = first_line(&self.text[at..]);
        let text = shortened(text.trim_end_matches('\\').trim(), QUOTED_CHARS_MAX);
        Step { line: self.line(at), text, instruction }
    }

    fn stage(&self, stage: &parser::Stage<'_, '_>) -> Result<BuildStage, Fault> {
        let steps = stage.instructions.iter().map(|parsed| {
            let (at, instruction) = self.instruction(parsed)?;
            Ok(self.step(at, instruction))
        });
        Ok(BuildStage {
            line: self.line(stage.from.from.span.start),
            flags: self.flags(&stage.from.options),
            image: self.word(&stage.from.image),
            name: stage.from.as_.as_ref().map(|(_, name)| name.value.to_string()),
            steps: steps.collect::<Result<_, Fault>>()?,
        })
    }

    /// The instruction, and the offset of its keyword.
    fn instruction(&self, parsed: &Parsed<'_>) -> Result<(usize, Instruction), Fault> {
        let text = |text: &UnescapedString<'_>| text.value.to_string();
        Ok(match parsed {
            Parsed::Arg(i) => (i.arg.span.start, Instruction::Arg(text(&i.arguments))),
            Parsed::Env(i) => (i.env.span.start, Instruction::Env(text(&i.arguments))),
            Parsed::Label(i) => (i.label.span.start, Instruction::Label(text(&i.arguments))),
            Parsed::Copy(i) => {
                let at = i.copy.span.start;
                (at, self.copy(Verb::Copy, at, &i.options, &i.src, &i.dest)?)
            }
            Parsed::Add(i) => {
                let at = i.add.span.start;
                (at, self.copy(Verb::Add, at, &i.options, &i.src, &i.dest)?)
            }
            Parsed::Workdir(i) => {
                (i.workdir.span.start, Instruction::Workdir(self.word(&i.arguments)))
            }
            Parsed::User(i) => (i.user.span.start, Instruction::User(self.word(&i.arguments))),
            Parsed::Stopsignal(i) => {
                (i.stopsignal.span.start, Instruction::Stopsignal(self.word(&i.arguments)))
            }
            Parsed::Expose(i) => {
                (i.expose.span.start, Instruction::Expose(self.words(&i.arguments)))
            }
            Parsed::Volume(i) => {
                let paths = match &i.arguments {
                    JsonOrStringArray::Json(list) => self.words(&list.value),
                    JsonOrStringArray::String(list) => self.words(list),
                };
                (i.volume.span.start, Instruction::Volume(paths))
            }
            Parsed::Entrypoint(i) => {
                (i.entrypoint.span.start, Instruction::Entrypoint(command(&i.arguments)))
            }
            Parsed::Cmd(i) => (i.cmd.span.start, Instruction::Cmd(command(&i.arguments))),
            Parsed::Shell(i) => {
                (i.shell.span.start, Instruction::Shell(i.arguments.iter().map(text).collect()))
            }
            Parsed::Healthcheck(i) => {
                let test = match &i.arguments {
                    parser::HealthcheckArguments::Cmd { arguments, .. } => Some(command(arguments)),
                    _ => None,
                };
                let flags = self.flags(&i.options);
                (i.healthcheck.span.start, Instruction::Healthcheck { flags, test })
            }
            Parsed::Run(i) => (i.run.span.start, Instruction::Run),
            Parsed::Onbuild(i) => (i.onbuild.span.start, Instruction::Onbuild),
            Parsed::Maintainer(i) => (i.maintainer.span.start, Instruction::Maintainer),
            _ => return Err(DiagnosticKind::UnknownInstruction.into()),
        })
    }

    fn copy(
        &self,
        verb: Verb,
        at: usize,
        options: &[parser::Flag<'_>],
        sources: &[parser::Source<'_>],
        destination: &UnescapedString<'_>,
    ) -> Result<Instruction, Fault> {
        let (mut paths, mut documents) = (Vec::new(), Vec::new());
        for source in sources {
            match source {
                parser::Source::Path(path) => paths.push(self.word(path)),
                parser::Source::HereDoc(document) => documents.push(HereDocument {
                    // The line that ends a document is its delimiter.
                    name: first_line(&self.text[document.span.end..]).to_owned(),
                    text: document.value.to_string(),
                    expand: document.expand,
                }),
                _ => return Err(DiagnosticKind::UnknownInstruction.at(self.line(at))),
            }
        }
        Ok(Instruction::Copy(CopyInstruction {
            verb,
            flags: self.flags(options),
            sources: paths,
            documents,
            destination: self.word(destination),
        }))
    }

    fn flags(&self, flags: &[parser::Flag<'_>]) -> Vec<Flag> {
        let flags = flags.iter().map(|flag| Flag {
            line: self.line(flag.span().start),
            name: flag.name.value.to_string(),
            value: flag.value.as_ref().map(|value| self.word(value)),
        });
        flags.collect()
    }

    fn words(&self, words: &[UnescapedString<'_>]) -> Vec<Word> {
        words.iter().map(|word| self.word(word)).collect()
    }

    fn word(&self, word: &UnescapedString<'_>) -> Word {
        Word { line: self.line(word.span.start), text: word.value.to_string() }
    }
}

fn command(command: &parser::Command<'_>) -> Command {
    match command {
        parser::Command::Shell(line) => Command::Shell(line.value.trim().to_owned()),
        parser::Command::Exec(list) => {
            Command::Exec(list.value.iter().map(|word| word.value.to_string()).collect())
        }
        _ => Command::Exec(Vec::new()),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
