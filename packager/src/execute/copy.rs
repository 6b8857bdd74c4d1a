use std::{rc::Rc, sync::Arc};

use super::{
    Executor, StageState, add,
    chmod::Chmod,
    owner::Names,
    sources::{Filter, Root, SourceMatch, destination},
};
use crate::{
    context::Patterns,
    diagnostic::{DiagnosticKind, WarningKind},
    dockerfile::{
        instruction::{CopyInstruction, Flag, HereDocument, Step, Verb},
        variables::Variables,
    },
    fault::Fault,
    items::{Item, MODE_EXECUTABLE, MODE_PLAIN, Meta, Owner, Source},
    limits::PATH_BYTES_MAX,
    path::joined,
    stage::{LayerBuilder, MergedTree, Stage, StageEntry},
};

/// `COPY [--flag …] source … destination`, and ADD.
pub(super) fn copy(
    executor: &mut Executor<'_, '_>,
    state: &mut StageState,
    step: &Step,
    copy: &CopyInstruction,
    number: usize,
) -> Result<(), Fault> {
    let flags = Flags::read(executor, state, copy)?;
    let target = executor.word(&state.variables, &copy.destination)?;
    let paths = executor.words(&state.variables, &copy.sources)?;
    let mut all_paths = paths.iter().chain([&target]);
    if let Some(path) = all_paths.find(|path| path.len() > PATH_BYTES_MAX) {
        return Err(DiagnosticKind::PathTooLong(path.clone()).into());
    }
    add::refuse_urls(&paths)?;
    if flags.checksum {
        return Err(DiagnosticKind::Checksum.into());
    }
    let other = match &flags.from {
        Some(name) => Some(executor.other_stage(name, number)?),
        None => None,
    };
    let root = match (&other, &flags.from) {
        (Some(other), Some(name)) => Root::Tree { tree: MergedTree::of(&other.stage)?, name },
        _ => Root::Context(executor.input.context),
    };
    // A linked layer knows nothing of what is below it.
    let below = if flags.link { Stage::scratch() } else { state.stage.clone() };
    let folder = state.stage.config.working_dir.as_deref().unwrap_or("/");
    let mut copier = Copier {
        layer: LayerBuilder::on(&below),
        target: destination(folder, &target),
        flags: &flags,
    };
    for (path, word) in paths.iter().zip(&copy.sources) {
        let found = root.find_all(path, flags.parents).map_err(|fault| fault.or_at(word.place))?;
        for found in found {
            copier.put(executor, found)?;
        }
    }
    for document in &copy.documents {
        let found = executor.document(&state.variables, document)?;
        copier.put(executor, found)?;
    }
    let items = copier.layer.finish();
    executor.add_layer(&mut state.stage, items, step.text.clone())
}

#[derive(Default)]
struct Flags {
    /// A stage or an image.
    from: Option<String>,
    owner: Option<Owner>,
    mode: Option<Chmod>,
    link: bool,
    /// Whether sources keep the folders that they are in.
    parents: bool,
    exclude: Patterns,
    /// Whether archives are unpacked.
    unpack: bool,
    checksum: bool,
}

impl Flags {
    fn read(
        executor: &mut Executor<'_, '_>,
        state: &StageState,
        copy: &CopyInstruction,
    ) -> Result<Self, Fault> {
        let mut read = Self { unpack: copy.verb == Verb::Add, ..Self::default() };
        let (mut excluded, mut names) = (Vec::new(), None);
        for Flag { name, value } in &copy.flags {
            let text = value.text.as_str();
            let is_true = text == "true";
            match name.as_str() {
                // The needed stages are known before any variable is.
                "from" if text.contains('$') => {
                    return Err(DiagnosticKind::FromVariable.at(value.place));
                }
                "from" => read.from = Some(text.to_owned()).filter(|name| !name.is_empty()),
                "chmod" => {
                    let text = executor.word(&state.variables, value)?;
                    let wrong = |text| DiagnosticKind::Mode(text).at(value.place);
                    if !text.is_empty() {
                        read.mode = Some(Chmod::parse(&text).ok_or_else(|| wrong(text))?);
                    }
                }
                "chown" => {
                    let text = executor.word(&state.variables, value)?;
                    names = Some((text, value.place)).filter(|(text, _)| !text.is_empty());
                }
                "link" => read.link = is_true,
                "parents" => read.parents = is_true,
                "unpack" => read.unpack = is_true,
                "checksum" => read.checksum = !text.is_empty(),
                // It is for what ADD fetches, which is refused.
                "keep-git-dir" => {}
                _ => excluded.push((text.to_owned(), value.place)),
            }
        }
        // With --chmod, Docker copies as without --link.
        read.link &= read.mode.is_none();
        if let Some((text, place)) = names {
            let names = Names::parse(&text);
            if read.link && !names.are_numbers() {
                return Err(DiagnosticKind::LinkedNames(text).at(place));
            }
            let (owner, unknown) = names.owner(&state.stage, executor.spool)?;
            read.owner = Some(owner);
            for name in unknown {
                executor.warnings.add(place, WarningKind::UnknownOwner(name));
            }
        }
        let place = excluded.first().map(|(_, place)| *place);
        let patterns: Vec<_> = excluded.into_iter().map(|(text, _)| text).collect();
        read.exclude = Patterns::of(&patterns).map_err(|pattern| {
            let kind = DiagnosticKind::PathPattern { pattern };
            place.map_or_else(|| Fault::from(DiagnosticKind::Empty), |place| kind.at(place))
        })?;
        Ok(read)
    }
}

impl Executor<'_, '_> {
    /// The stage or image that `--from` names.
    fn other_stage(&mut self, name: &str, number: usize) -> Result<Rc<StageState>, Fault> {
        if let Some(earlier) = self.source_stage(name, number)? {
            return Ok(self.finished(earlier)?);
        }
        if name == "scratch" {
            return Ok(Rc::new(StageState::on(Stage::scratch())));
        }
        let base = self.local_image(name, self.input.platform)?;
        Ok(Rc::new(StageState::on(self.stage_of(&base)?)))
    }

    /// A here-document as a file that has the name of its delimiter.
    fn document(
        &self,
        variables: &Variables,
        document: &HereDocument,
    ) -> Result<SourceMatch, Fault> {
        let name = document.name.clone();
        if name.contains('/') || matches!(name.as_str(), "." | "..") {
            return Err(DiagnosticKind::DocumentName(name).into());
        }
        let text = match document.expand {
            true => self.document_text(variables, &document.text)?,
            false => document.text.clone(),
        };
        let source = Source::Bytes(Arc::from(text.as_bytes()));
        let items = vec![(String::new(), Item::File { meta: Meta::of(MODE_PLAIN), source })];
        Ok(SourceMatch { name, is_folder: false, items, include: None })
    }
}

/// Puts sources where they go, in the order and with the rules of BuildKit's copier.
struct Copier<'a> {
    layer: LayerBuilder<'a>,
    /// Absolute, with a `/` or `/.` at its end where it has to be a folder.
    target: String,
    flags: &'a Flags,
}

impl Copier<'_> {
    fn put(&mut self, executor: &mut Executor<'_, '_>, found: SourceMatch) -> Result<(), Fault> {
        if self.flags.unpack
            && let Some(archive) = add::archive(&found.items, executor.spool)?
        {
            let target = self.layer.resolve(&self.target)?;
            self.layer
                .make_folders(&target, Meta { mode: MODE_EXECUTABLE, ..self.new_folder() })?;
            let (owner, layer) = (self.flags.owner, &mut self.layer);
            return add::unpack(archive, &target, owner, layer, executor.spool);
        }
        let (folder, name) = self.target.rsplit_once('/').unwrap_or(("", ""));
        let above = if matches!(name, "" | ".") { self.target.as_str() } else { folder };
        let above = self.layer.resolve(above)?;
        self.layer.make_folders(&above, self.new_folder())?;
        let mut target = self.layer.resolve(&self.target)?;
        if !found.is_folder && self.layer.is_folder(&target) {
            target = joined(&target, &found.name);
        }
        let needed = match found.is_folder && self.layer.at(&target).is_none() {
            true => target.as_str(),
            false => target.rsplit_once('/').map_or("", |(folder, _)| folder),
        };
        self.layer.make_folders(needed, self.new_folder())?;
        Ok(self.put_items(&target, found)?)
    }

    /// What folders get that are made on the way.
    fn new_folder(&self) -> Meta {
        let mode = self.flags.mode.as_ref().and_then(Chmod::of_new_folders);
        let owner = self.flags.owner.unwrap_or_default();
        Meta { mode: mode.unwrap_or(MODE_EXECUTABLE), owner }
    }

    fn put_items(&mut self, target: &str, found: SourceMatch) -> Result<(), DiagnosticKind> {
        let flags = self.flags;
        let mut filter = Filter::of(found.include.as_ref(), &flags.exclude);
        // Folders on the way down that come along only with something in them.
        let mut waiting: Vec<(String, Meta)> = Vec::new();
        for (below, item) in found.items {
            let is_folder = item.is_folder();
            let is_inside =
                |folder: &str| below.strip_prefix(folder).is_some_and(|r| r.starts_with('/'));
            waiting.retain(|(folder, _)| is_inside(folder));
            let takes = filter.takes(&below, is_folder);
            let own = match &item {
                Item::Folder { meta } => Some(*meta),
                Item::File { .. } | Item::Symlink { .. } => None,
            };
            if !takes {
                waiting.extend(own.map(|meta| (below, meta)));
                continue;
            }
            for (folder, meta) in std::mem::take(&mut waiting) {
                self.put_waiting(&joined(target, &folder), meta)?;
            }
            let meta_of = |item: &Item, meta: Meta| {
                let meta = Meta { owner: flags.owner.unwrap_or(meta.owner), ..meta };
                flags.mode.as_ref().map_or(meta, |mode| mode.applied_to(item, meta))
            };
            let at = joined(target, &below);
            match own {
                Some(_) if below.is_empty() => self.check_folder(target)?,
                Some(meta) => self.layer.put_folder(&at, meta_of(&item, meta))?,
                None => {
                    let kind = item.clone();
                    self.layer.put_file(&at, item.with_meta(|meta| meta_of(&kind, meta)))?;
                }
            }
        }
        Ok(())
    }

    /// The folder that a source goes to keeps its own permissions.
    fn check_folder(&self, target: &str) -> Result<(), DiagnosticKind> {
        match self.layer.is_folder(target) {
            true => Ok(()),
            false => Err(DiagnosticKind::FileInTheWay(target.to_owned())),
        }
    }

    /// A folder that is there takes the mode of the source, and nothing else.
    fn put_waiting(&mut self, path: &str, meta: Meta) -> Result<(), DiagnosticKind> {
        let owner = self.flags.owner.unwrap_or(meta.owner);
        let meta = match self.layer.at(path) {
            Some(StageEntry::Folder(there)) => Meta { owner: there.owner, ..meta },
            _ => {
                let meta = Meta { owner, ..meta };
                let folder = Item::Folder { meta };
                self.flags.mode.as_ref().map_or(meta, |mode| mode.applied_to(&folder, meta))
            }
        };
        self.layer.put_folder(path, meta)
    }
}
