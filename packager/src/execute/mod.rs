//! A Dockerfile, carried out into a stage. Nothing is written yet. One file per instruction.

mod from; // FROM: the local image or the earlier stage that a stage begins with
mod arg; // ARG, and build arguments
mod env; // ENV
mod copy; // COPY, and what ADD shares with it
mod sources; // the files that the sources of a COPY name
mod chmod; // --chmod
mod add; // what ADD does beyond COPY: unpack archives
mod owner; // --chown, and the folders of WORKDIR
mod workdir; // WORKDIR
mod user; // USER
mod entrypoint; // ENTRYPOINT and CMD
mod expose; // EXPOSE
mod volume; // VOLUME
mod label; // LABEL
mod stopsignal; // STOPSIGNAL

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use spec::{Platform, Reference};

use crate::{
    cache::Cache,
    context::Context,
    diagnostic::{DiagnosticKind, Place, Warning, WarningKind, Warnings},
    dockerfile::{
        expansion::{Expander, Mode},
        instruction::{Dockerfile, Instruction, Pair, Step, Word},
        variables::Variables,
    },
    error::Error,
    fault::Fault,
    items::Items,
    layer::spool::Spool,
    layout::Layout,
    limits::{EXPANDED_BYTES_MAX, ITEMS_MAX, NESTING_MAX},
    stage::{NewLayer, Stage},
};

pub(crate) use expose::parse_ports;
pub use from::parse_platform;

/// Everything that carrying out a Dockerfile needs.
pub(crate) struct Input<'a> {
    /// The name of the Dockerfile, for messages.
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
    pub(crate) context: &'a Context,
    pub(crate) layout: &'a Layout,
    pub(crate) cache: &'a Cache,
    /// `--build-arg`
    pub(crate) args: &'a BTreeMap<String, String>,
    /// What the image is for; this host without it.
    pub(crate) platform: Option<&'a Platform>,
    /// The stage to stop at; the last one without it.
    pub(crate) target: Option<&'a str>,
    /// The platforms of this host, for native bases.
    pub(crate) native: &'a [Platform],
    pub(crate) pull: Pull<'a>,
}

/// Whether images that are named are fetched from their registry. The function brings one into the
/// layout, under that name, or says why it cannot.
#[derive(Clone, Copy)]
pub enum Pull<'a> {
    Missing(&'a Fetch<'a>),
    /// Also what is there.
    Always(&'a Fetch<'a>),
    Never,
}

/// What brings an image into the layout.
pub type Fetch<'a> = dyn Fn(&Reference) -> Result<(), String> + 'a;

/// The stage that a Dockerfile describes.
pub(crate) struct Executed {
    pub(crate) stage: Stage,
    pub(crate) warnings: Vec<Warning>,
}

/// Carries out a Dockerfile, as far as the last stage (or the target) needs it.
pub(crate) fn execute(input: &Input<'_>, spool: &mut Spool<'_>) -> Result<Executed, Error> {
    let in_file = |fault: Fault| fault.in_file(input.file);
    let dockerfile = Dockerfile::parse(input.text).map_err(in_file)?;
    let count = dockerfile.stages.len();
    let last = match input.target {
        None => count - 1,
        Some(target) => dockerfile
            .stage_named(target, count)
            .or_else(|| target.parse().ok().filter(|number| *number < count))
            .ok_or_else(|| {
                let known = dockerfile.stages.iter().filter_map(|stage| stage.name.clone());
                let known = known.collect();
                in_file(DiagnosticKind::NoStage { name: target.to_owned(), known }.into())
            })?,
    };
    let mut executor = Executor {
        input,
        dockerfile: &dockerfile,
        spool,
        globals: Variables::default(),
        warnings: Warnings::default(),
        used_args: BTreeSet::new(),
        expanded_bytes_left: Cell::new(EXPANDED_BYTES_MAX),
        items: 0,
        fetched: BTreeSet::new(),
        depth: 0,
        finished: BTreeMap::new(),
    };
    executor.globals = executor.global_args()?;
    for number in executor.needed_stages(last)? {
        executor.refuse_run(number)?;
    }
    for number in executor.needed_stages(last)? {
        executor.finished(number)?;
    }
    let stage = executor.finished(last)?.stage.clone();
    let mut warnings = executor.warnings.0;
    let unused = input.args.keys().filter(|name| !executor.used_args.contains(*name));
    warnings.extend(unused.map(|name| WarningKind::UnusedArgument(name.clone()).into()));
    Ok(Executed { stage, warnings })
}

struct Executor<'a, 's> {
    input: &'a Input<'a>,
    dockerfile: &'a Dockerfile,
    spool: &'a mut Spool<'s>,
    /// The ARGs before the first FROM.
    globals: Variables,
    warnings: Warnings,
    used_args: BTreeSet<String>,
    expanded_bytes_left: Cell<usize>,
    /// How many files and folders all stages hold: each is kept until the last one is done.
    items: usize,
    /// What [`Pull::Always`] has fetched.
    fetched: BTreeSet<String>,
    /// How many stages are being carried out because others need them.
    depth: usize,
    finished: BTreeMap<usize, Rc<StageState>>,
}

/// A stage, and what its instructions and the stages that begin with it know.
#[derive(Clone)]
struct StageState {
    stage: Stage,
    variables: Variables,
    /// CMD of this stage stays when ENTRYPOINT is set; that of its base does not.
    own_cmd: bool,
}

impl StageState {
    fn on(base: Stage) -> Self {
        Self { variables: Variables::default(), stage: base, own_cmd: false }
    }
}

/// What searches for programs where no image says so.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Executor<'_, '_> {
    /// The stages that `last` is made from, itself included, in their order.
    fn needed_stages(&self, last: usize) -> Result<BTreeSet<usize>, Error> {
        let mut needed = BTreeSet::from([last]);
        for number in (0..=last).rev() {
            if !needed.contains(&number) {
                continue;
            }
            let stage = &self.dockerfile.stages[number];
            let image = self.word(&self.globals, &stage.image);
            let image = image.map_err(|fault| self.in_file(fault, stage.place))?;
            needed.extend(self.base_stage(&image, number));
            for step in &stage.steps {
                let Instruction::Copy(copy) = &step.instruction else { continue };
                for flag in copy.flags.iter().filter(|flag| flag.name == "from") {
                    let source = self.source_stage(&flag.value.text, number);
                    let source = source.map_err(|kind| self.in_file(kind.into(), flag.value.place));
                    needed.extend(source?);
                }
            }
        }
        Ok(needed)
    }

    /// Nothing else of a build file matters while it executes programs.
    fn refuse_run(&self, number: usize) -> Result<(), Error> {
        let stage = &self.dockerfile.stages[number];
        let run = stage.steps.iter().find(|step| matches!(step.instruction, Instruction::Run));
        match run {
            Some(step) => Err(self.in_file(DiagnosticKind::Run.into(), step.place)),
            None => Ok(()),
        }
    }

    /// The earlier stage that FROM means.
    fn base_stage(&self, image: &str, number: usize) -> Option<usize> {
        // Names are kept in lower case, and FROM is not read in any other.
        let is_lower = !image.contains(|c: char| c.is_ascii_uppercase());
        self.dockerfile.stage_named(image, number).filter(|_| is_lower)
    }

    /// The earlier stage that `--from` means; `None` for an image.
    fn source_stage(&self, name: &str, number: usize) -> Result<Option<usize>, DiagnosticKind> {
        let later = || DiagnosticKind::LaterStage(name.to_owned());
        if name.parse::<i64>().is_ok() {
            let at = name.parse().ok().filter(|at| *at < number).ok_or_else(later)?;
            return Ok(Some(at));
        }
        match self.dockerfile.stage_named(name, self.dockerfile.stages.len()) {
            Some(at) if at >= number => Err(later()),
            found => Ok(found),
        }
    }

    /// The stage `number`, carried out now if it was not before.
    fn finished(&mut self, number: usize) -> Result<Rc<StageState>, Error> {
        if let Some(stage) = self.finished.get(&number) {
            return Ok(stage.clone());
        }
        // Only what an ONBUILD needs is not there yet, and brings what it needs along.
        self.depth += 1;
        let (what, max) = ("ONBUILD that need further stages", NESTING_MAX as usize);
        if self.depth > max {
            let too_many = DiagnosticKind::TooMany { what, found: self.depth, max };
            return Err(self.in_file(too_many.into(), self.dockerfile.stages[number].place));
        }
        for needed in self.needed_stages(number)? {
            if !self.finished.contains_key(&needed) {
                self.refuse_run(needed)?;
                let stage = Rc::new(self.stage(needed)?);
                self.finished.insert(needed, stage);
            }
        }
        self.depth -= 1;
        Ok(self.finished[&number].clone())
    }

    fn stage(&mut self, number: usize) -> Result<StageState, Error> {
        let stage = &self.dockerfile.stages[number];
        let state = from::from(self, stage, number);
        let mut state = state.map_err(|fault| self.in_file(fault, stage.place))?;
        let lines = state.stage.config.env.clone();
        if !lines.iter().flatten().any(|line| line.starts_with("PATH=")) {
            state.stage.set_env("PATH", DEFAULT_PATH);
        }
        state.variables.set_env(&state.stage.config.env);
        for text in state.stage.config.on_build.take().unwrap_or_default() {
            let in_file = |fault: Fault| self.in_file(fault, stage.place);
            let step = Dockerfile::trigger(&text, stage.place).map_err(in_file)?;
            if matches!(step.instruction, Instruction::Run) {
                let trigger = DiagnosticKind::RunTrigger(step.text);
                return Err(in_file(trigger.into()));
            }
            self.carried_out(&mut state, &step, number)?;
        }
        for step in &stage.steps {
            self.carried_out(&mut state, step, number)?;
        }
        Ok(state)
    }

    fn carried_out(
        &mut self,
        state: &mut StageState,
        step: &Step,
        number: usize,
    ) -> Result<(), Error> {
        let result = self.step(state, step, number);
        let mut left_out = self.input.context.take_left_out();
        left_out.sort();
        for (path, kind) in left_out {
            self.warnings.add(step.place, WarningKind::Special(path, kind));
        }
        result.map_err(|fault| self.in_file(fault, step.place))
    }

    fn step(&mut self, state: &mut StageState, step: &Step, number: usize) -> Result<(), Fault> {
        let config = &mut state.stage.config;
        match &step.instruction {
            Instruction::Arg(arguments) => self.arg(state, arguments)?,
            Instruction::Cmd(command) => state.cmd(command, step.place),
            Instruction::Copy(copy) => copy::copy(self, state, step, copy, number)?,
            Instruction::Entrypoint(command) => state.entrypoint(command, step.place),
            Instruction::Env(pairs) => self.env(state, pairs)?,
            Instruction::Expose(ports) => self.expose(state, ports)?,
            Instruction::Healthcheck(check) => config.healthcheck = Some(check.clone()),
            Instruction::Label(pairs) => self.label(state, pairs)?,
            Instruction::Maintainer(author) => state.stage.author = Some(author.clone()),
            Instruction::Onbuild(text) => {
                config.on_build.get_or_insert_default().push(text.clone());
            }
            Instruction::Run => return Err(DiagnosticKind::Run.into()),
            Instruction::Shell(words) => config.shell = Some(words.clone()),
            Instruction::Stopsignal(signal) => self.stopsignal(state, signal)?,
            Instruction::User(user) => self.user(state, user)?,
            Instruction::Volume(paths) => self.volume(state, paths)?,
            Instruction::Workdir(path) => self.workdir(state, path)?,
        }
        Ok(())
    }

    fn in_file(&self, fault: Fault, place: Place) -> Error {
        fault.or_at(place).in_file(self.input.file)
    }

    /// Calls `expand` with what expands words where `variables` are set.
    fn expanding<T>(&self, variables: &Variables, expand: impl FnOnce(&Expander<'_>) -> T) -> T {
        let value = |name: &str| variables.value(name);
        let (escape, left) = (self.dockerfile.escape, &self.expanded_bytes_left);
        expand(&Expander { value: &value, escape, left, mode: Mode::default() })
    }

    fn word(&self, variables: &Variables, word: &Word) -> Result<String, Fault> {
        let expanded = self.expanding(variables, |expander| expander.expand(&word.text));
        expanded.map_err(|error| DiagnosticKind::Expansion(error).at(word.place))
    }

    /// The text of a here-document, in which quotes are letters and a backslash escapes whatever
    /// `# escape` says.
    fn document_text(&self, variables: &Variables, text: &str) -> Result<String, Fault> {
        let mode = Mode { plain_quotes: true, ..Mode::default() };
        let value = |name: &str| variables.value(name);
        let left = &self.expanded_bytes_left;
        Ok(Expander { value: &value, escape: '\\', left, mode }.expand(text)?)
    }

    fn words(&self, variables: &Variables, words: &[Word]) -> Result<Vec<String>, Fault> {
        words.iter().map(|word| self.word(variables, word)).collect()
    }

    /// The `NAME=value` words of ENV and LABEL: each knows what was before all of them.
    fn pairs(&self, variables: &Variables, pairs: &[Pair]) -> Result<Vec<(String, String)>, Fault> {
        let pairs = pairs.iter().map(|pair| {
            Ok((self.word(variables, &pair.name)?, self.word(variables, &pair.value)?))
        });
        pairs.collect()
    }

    fn add_layer(
        &mut self,
        stage: &mut Stage,
        items: Items,
        created_by: String,
    ) -> Result<(), Fault> {
        self.count(items.0.len())?;
        Ok(stage.push(NewLayer { items, created_by })?)
    }

    fn count(&mut self, items: usize) -> Result<(), Fault> {
        self.items = self.items.saturating_add(items);
        match self.items > ITEMS_MAX {
            true => Err(DiagnosticKind::TooManyItems.into()),
            false => Ok(()),
        }
    }
}
