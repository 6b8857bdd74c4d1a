use std::{rc::Rc, sync::Arc};

use super::{
    Executor, StageState, add,
    chmod::Chmod,
    sources::{Root, SourceMatch},
};
use crate::{
    context::Ignore,
    diagnostic::{DiagnosticKind, WarningKind},
    dockerfile::{
        instruction::{CopyInstruction, HereDocument, Step, Verb},
        variables::Variables,
    },
    fault::Fault,
    items::{Item, Items, MODE_PLAIN, Source},
    limits::PATH_BYTES_MAX,
    path::joined,
    stage::{ExistingFolder, LayerBuilder, MergedTree, Stage, StageEntry},
};

/// `COPY [--from=…] [--chmod=…] [--parents] [--exclude=…] source … destination`, and ADD.
pub(super) fn copy(
    executor: &mut Executor<'_, '_>,
    state: &mut StageState,
    step: &Step,
    copy: &CopyInstruction,
    number: usize,
) -> Result<(), Fault> {
    let flags = Flags::read(executor, &state.variables, step.line, copy)?;
    let destination = executor.word(&state.variables, &copy.destination)?;
    let paths = executor.words(&state.variables, &copy.sources)?;
    let mut all_paths = paths.iter().chain([&destination]);
    if let Some(path) = all_paths.find(|path| path.len() > PATH_BYTES_MAX) {
        return Err(DiagnosticKind::PathTooLong(path.clone()).into());
    }
    if copy.verb == Verb::Add {
        add::refuse_urls(&paths)?;
    }
    let mut sources = executor.sources(&paths, &flags, number)?;
    for document in &copy.documents {
        sources.push(executor.document(&state.variables, document)?);
    }
    let items = executor.copied(&state.stage, sources, &destination, &flags, copy.verb)?;
    executor.add_layer(&mut state.stage, items, step.text.clone())
}

#[derive(Default)]
struct Flags {
    /// A stage or an image.
    from: Option<String>,
    mode: Option<Chmod>,
    /// Whether sources keep the folders that they are in.
    parents: bool,
    exclude: Ignore,
}

impl Flags {
    fn read(
        executor: &mut Executor<'_, '_>,
        variables: &Variables,
        line: usize,
        copy: &CopyInstruction,
    ) -> Result<Self, Fault> {
        let (mut read, verb, mut excluded) = (Self::default(), copy.verb, Vec::new());
        for flag in &copy.flags {
            match (flag.name.as_str(), &flag.value) {
                // Not expanded, as in Docker: the needed stages are known before any variable is.
                ("from", Some(name)) if verb == Verb::Copy => read.from = Some(name.text.clone()),
                ("chmod", Some(mode)) => {
                    let text = executor.word(variables, mode)?;
                    read.mode = Some(Chmod::parse(&text).ok_or(DiagnosticKind::Mode(text))?);
                }
                ("chown", _) => executor.warnings.add(line, WarningKind::ChownIgnored(verb.name())),
                // Every layer is independent of what is below it anyway.
                ("link", _) => {}
                ("exclude", Some(pattern)) => excluded.push(executor.word(variables, pattern)?),
                ("parents", value) if verb == Verb::Copy => {
                    read.parents = value.as_ref().is_none_or(|value| value.text != "false");
                }
                (name, _) => {
                    let (verb, flag) = (verb.name(), name.to_owned());
                    return Err(DiagnosticKind::CopyFlag { verb, flag }.into());
                }
            }
        }
        read.exclude = Ignore::parse(&excluded.join("\n"));
        Ok(read)
    }
}

impl Executor<'_, '_> {
    /// The files and folders at `paths` in the context, or in the stage or image of `--from`.
    fn sources(
        &self,
        paths: &[String],
        flags: &Flags,
        number: usize,
    ) -> Result<Vec<SourceMatch>, Fault> {
        let Some(name) = &flags.from else {
            let root = Root::Context(self.input.context);
            return root.find_all(paths, flags.parents, &flags.exclude);
        };
        let other = match self.dockerfile.stage_number(name, number) {
            Some(earlier) => self.finished[&earlier].clone(),
            None => {
                let base = self.local_image(name, None)?;
                Rc::new(StageState::on(self.stage_of(&base)?))
            }
        };
        let root = Root::Tree { tree: MergedTree::of(&other.stage)?, name };
        root.find_all(paths, flags.parents, &flags.exclude)
    }

    /// A here-document as a file that has the name of its delimiter.
    fn document(
        &self,
        variables: &Variables,
        document: &HereDocument,
    ) -> Result<SourceMatch, Fault> {
        let text = match document.expand {
            true => self.expanding(variables, |words| words.expand_document(&document.text))?,
            false => document.text.clone(),
        };
        let source = Source::Bytes(Arc::from(text.as_bytes()));
        let items = vec![(String::new(), Item::File { mode: MODE_PLAIN, source })];
        Ok(SourceMatch { name: document.name.clone(), is_folder: false, items })
    }

    /// The layer that `sources` make at `written` on top of `stage`.
    fn copied(
        &mut self,
        stage: &Stage,
        sources: Vec<SourceMatch>,
        written: &str,
        flags: &Flags,
        verb: Verb,
    ) -> Result<Items, Fault> {
        let target = stage.resolve(&stage.absolute(written))?;
        let names_folder =
            written.ends_with('/') || matches!(written, "." | "..") || written.ends_with("/.");
        let is_folder = || matches!(stage.at(&target), Some(StageEntry::Folder { .. }));
        let into_folder = names_folder || target.is_empty() || is_folder();
        if sources.len() > 1 && !into_folder {
            let (sources, destination) = (sources.len(), written.to_owned());
            return Err(DiagnosticKind::DestinationNotAFolder { sources, destination }.into());
        }
        let mut layer = LayerBuilder::on(stage);
        for source in sources {
            if verb == Verb::Add
                && let Some(archive) = add::archive(&source.items, self.spool)?
            {
                add::unpack(archive, &target, &mut layer, self.spool)?;
                continue;
            }
            // The content of a folder goes to the destination, a file into it.
            let at = match (source.is_folder, into_folder) {
                _ if flags.parents => joined(&target, &source.name),
                (false, true) => layer.resolve(&joined(&target, &source.name))?,
                (true, _) | (false, false) => target.clone(),
            };
            for (below, item) in source.items {
                let item = match &flags.mode {
                    Some(mode) => mode.applied_to(item),
                    None => item,
                };
                layer.put(&joined(&at, &below), item, ExistingFolder::KeepsMode)?;
            }
        }
        Ok(layer.finish())
    }
}
