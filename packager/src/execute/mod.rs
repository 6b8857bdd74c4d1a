//! A Dockerfile, carried out into a stage. Nothing is written yet. One file per instruction.

mod from; // FROM: the local image or the earlier stage that a stage begins with
mod arg; // ARG, and build arguments
mod env; // ENV
mod copy; // COPY, and what ADD shares with it
mod sources; // the files that the sources of a COPY name
mod chmod; // --chmod
mod add; // what ADD does beyond COPY: unpack archives
mod workdir; // WORKDIR
mod user; // USER
mod entrypoint; // ENTRYPOINT and CMD
mod expose; // EXPOSE
mod volume; // VOLUME
mod label; // LABEL
mod healthcheck; // HEALTHCHECK

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use spec::Platform;

use crate::{
    cache::Cache,
    context::Context,
    diagnostic::{DiagnosticKind, Warning, WarningKind, Warnings},
    dockerfile::{
        expansion::Expander,
        instruction::{Dockerfile, Instruction, Step, Word},
        variables::Variables,
    },
    error::Error,
    fault::Fault,
    items::Items,
    layer::spool::Spool,
    layout::Layout,
    limits::{EXPANDED_BYTES_MAX, ITEMS_MAX},
    stage::{NewLayer, Stage},
};

pub(crate) use expose::parse_ports;

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
    /// The stage to stop at; the last one without it.
    pub(crate) target: Option<&'a str>,
    /// The platforms of this host, for native bases.
    pub(crate) native: &'a [Platform],
}

/// The stage that a Dockerfile describes.
pub(crate) struct Executed {
    pub(crate) stage: Stage,
    pub(crate) warnings: Vec<Warning>,
}

/// Carries out a Dockerfile, as far as the last stage (or the target) needs it.
pub(crate) fn execute(input: &Input<'_>, spool: &mut Spool<'_>) -> Result<Executed, Error> {
    let in_file = |fault: Fault| fault.in_file(input.file, None);
    let dockerfile = Dockerfile::parse(input.text).map_err(in_file)?;
    let count = dockerfile.stages.len();
    let last = match input.target {
        None => count - 1,
        Some(target) => dockerfile
            .stage_number(target, count)
            .ok_or_else(|| in_file(DiagnosticKind::NoStage(target.to_owned()).into()))?,
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
        finished: BTreeMap::new(),
    };
    executor.globals = executor.global_args()?;
    for number in executor.needed_stages(last)? {
        let stage = executor.stage(number)?;
        executor.finished.insert(number, Rc::new(stage));
    }
    let stage = executor.finished[&last].stage.clone();
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
    finished: BTreeMap<usize, Rc<StageState>>,
}

/// A stage, and what its instructions and the stages that begin with it know.
#[derive(Clone)]
struct StageState {
    stage: Stage,
    variables: Variables,
    /// CMD of this stage stays when ENTRYPOINT is set; that of its base does not.
    own_cmd: bool,
    /// What runs a command in shell form.
    shell: Vec<String>,
}

impl StageState {
    fn on(base: Stage) -> Self {
        Self {
            variables: Variables::of_env(&base.config.env),
            stage: base,
            own_cmd: false,
            shell: ["/bin/sh", "-c"].map(str::to_owned).into(),
        }
    }
}

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
            let image = image.map_err(|fault| self.in_file(fault, stage.line))?;
            needed.extend(self.dockerfile.stage_number(&image, number));
            for step in &stage.steps {
                let Instruction::Copy(copy) = &step.instruction else { continue };
                let sources = copy.flags.iter().filter(|flag| flag.name == "from");
                let names = sources.filter_map(|flag| flag.value.as_ref());
                needed.extend(
                    names.filter_map(|name| self.dockerfile.stage_number(&name.text, number)),
                );
            }
        }
        Ok(needed)
    }

    fn stage(&mut self, number: usize) -> Result<StageState, Error> {
        let stage = &self.dockerfile.stages[number];
        let state = from::from(self, stage, number);
        let mut state = state.map_err(|fault| self.in_file(fault, stage.line))?;
        for step in &stage.steps {
            let carried_out = self.step(&mut state, step, number);
            carried_out.map_err(|fault| self.in_file(fault, step.line))?;
        }
        Ok(state)
    }

    fn step(&mut self, state: &mut StageState, step: &Step, number: usize) -> Result<(), Fault> {
        match &step.instruction {
            Instruction::Arg(text) => self.arg(state, text)?,
            Instruction::Cmd(command) => state.cmd(command),
            Instruction::Copy(copy) => copy::copy(self, state, step, copy, number)?,
            Instruction::Entrypoint(command) => state.entrypoint(command),
            Instruction::Env(text) => self.env(state, text)?,
            Instruction::Expose(ports) => self.expose(state, ports)?,
            Instruction::Healthcheck { flags, test } => {
                self.healthcheck(state, flags, test.as_ref())?;
            }
            Instruction::Label(text) => self.label(state, text)?,
            Instruction::Maintainer => self.warnings.add(step.line, WarningKind::MaintainerIgnored),
            Instruction::Onbuild => return Err(DiagnosticKind::Onbuild.into()),
            Instruction::Run => return Err(DiagnosticKind::Run.into()),
            Instruction::Shell(words) => state.shell = words.clone(),
            Instruction::Stopsignal(signal) => {
                state.stage.config.stop_signal = Some(self.word(&state.variables, signal)?);
            }
            Instruction::User(user) => self.user(state, user)?,
            Instruction::Volume(paths) => self.volume(state, paths)?,
            Instruction::Workdir(path) => self.workdir(state, path)?,
        }
        Ok(())
    }

    fn in_file(&self, fault: Fault, line: usize) -> Error {
        fault.in_file(self.input.file, Some(line))
    }

    /// Calls `expand` with what expands words where `variables` are set.
    fn expanding<T>(&self, variables: &Variables, expand: impl FnOnce(&Expander<'_>) -> T) -> T {
        let value = |name: &str| variables.value(name);
        let (escape, left) = (self.dockerfile.escape, &self.expanded_bytes_left);
        expand(&Expander { value: &value, escape, left })
    }

    fn word(&self, variables: &Variables, word: &Word) -> Result<String, Fault> {
        let expanded = self.expanding(variables, |expander| expander.expand(&word.text));
        expanded.map_err(|error| DiagnosticKind::Expansion(error).at(word.line))
    }

    fn words(&self, variables: &Variables, words: &[Word]) -> Result<Vec<String>, Fault> {
        words.iter().map(|word| self.word(variables, word)).collect()
    }

    /// The `NAME=value` words of ENV and LABEL.
    fn pairs(&self, variables: &Variables, text: &str) -> Result<Vec<(String, String)>, Fault> {
        Ok(self.expanding(variables, |expander| expander.pairs(text))?)
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
