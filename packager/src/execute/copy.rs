use std::{rc::Rc, sync::Arc};

use image::Node;

use super::{Executor, StageState, add};
use crate::{
    context::{Context, PathKind, pattern},
    diagnostic::{DiagnosticKind, Fault, SourceTree, WarningKind},
    dockerfile::{
        instruction::{CopyInstruction, HereDocument, Step, Verb},
        variables::Variables,
    },
    layer::{
        items::{Item, Items, MODE_PLAIN, Source},
        spool::Spool,
    },
    limits::{ITEMS_MAX, PATH_BYTES_MAX},
    path::{file_name, joined, normal, outermost},
    stage::{ExistingFolder, LayerBuilder, MergedTree, Stage, StageEntry, single_item},
};

/// `COPY [--from=…] [--chmod=…] source … destination`, and ADD.
pub(super) fn copy(
    executor: &mut Executor<'_, '_>,
    state: &mut StageState,
    step: &Step,
    copy: &CopyInstruction,
    number: usize,
) -> Result<(), Fault> {
    let flags = Flags::read(executor, &state.variables, step.line, copy)?;
    let destination = executor.word(&state.variables, &copy.destination)?;
    let sources = executor.words(&state.variables, &copy.sources)?;
    let mut paths = sources.iter().chain([&destination]);
    if let Some(path) = paths.find(|path| path.len() > PATH_BYTES_MAX) {
        return Err(DiagnosticKind::PathTooLong(path.clone()).into());
    }
    if copy.verb == Verb::Add {
        add::refuse_urls(&sources)?;
    }
    let items = match copy.documents.as_slice() {
        [] => {
            let request = Request { sources: &sources, destination: &destination, flags: &flags };
            executor.copied(&state.stage, &request, copy.verb, number)?
        }
        [document] if sources.is_empty() && !destination.ends_with('/') => {
            let text = executor.document(&state.variables, document)?;
            let source = Source::Bytes(Arc::from(text.as_bytes()));
            let file = Item::File { mode: flags.mode.unwrap_or(MODE_PLAIN), source };
            single_item(&state.stage, &state.stage.absolute(&destination), file)?
        }
        _ => return Err(DiagnosticKind::HereDocuments(copy.verb).into()),
    };
    executor.add_layer(&mut state.stage, items, step.text.clone())
}

#[derive(Default)]
struct Flags {
    /// A stage or an image.
    from: Option<String>,
    mode: Option<u32>,
}

impl Flags {
    fn read(
        executor: &mut Executor<'_, '_>,
        variables: &Variables,
        line: usize,
        copy: &CopyInstruction,
    ) -> Result<Self, Fault> {
        let (mut read, verb) = (Self::default(), copy.verb);
        for flag in &copy.flags {
            match (flag.name.as_str(), &flag.value) {
                // Not expanded, as in Docker: the needed stages are known before any variable is.
                ("from", Some(name)) if verb == Verb::Copy => read.from = Some(name.text.clone()),
                ("chmod", Some(mode)) => {
                    let text = executor.word(variables, mode)?;
                    read.mode = Some(parse_mode(&text).ok_or(DiagnosticKind::Mode(text))?);
                }
                ("chown", _) => executor.warnings.add(line, WarningKind::ChownIgnored(verb)),
                // Every layer is independent of what is below it anyway.
                ("link", _) => {}
                (name, _) => {
                    return Err(DiagnosticKind::CopyFlag { verb, flag: name.to_owned() }.into());
                }
            }
        }
        Ok(read)
    }
}

fn parse_mode(text: &str) -> Option<u32> {
    let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    u32::from_str_radix(text, 8).ok().filter(|_| is_octal)
}

/// One COPY or ADD, its words expanded.
struct Request<'a> {
    sources: &'a [String],
    destination: &'a str,
    flags: &'a Flags,
}

impl Executor<'_, '_> {
    /// The layer that a COPY from the context, a stage or an image makes on top of `stage`.
    fn copied(
        &mut self,
        stage: &Stage,
        request: &Request<'_>,
        verb: Verb,
        number: usize,
    ) -> Result<Items, Fault> {
        let Some(name) = &request.flags.from else {
            let root = Root::Context(self.input.context);
            return copy_from(&root, stage, request, verb, self.spool);
        };
        let other = match self.dockerfile.stage_number(name, number) {
            Some(earlier) => self.finished[&earlier].clone(),
            None => {
                let base = self.local_image(name, None)?;
                Rc::new(StageState::on(self.stage_of(&base)?))
            }
        };
        let root = Root::Tree { tree: MergedTree::of(&other.stage)?, name };
        copy_from(&root, stage, request, verb, self.spool)
    }

    fn document(&self, variables: &Variables, document: &HereDocument) -> Result<String, Fault> {
        match document.expand {
            true => Ok(self.expanding(variables, |words| words.expand_document(&document.text))?),
            false => Ok(document.text.clone()),
        }
    }
}

fn copy_from(
    root: &Root<'_>,
    stage: &Stage,
    request: &Request<'_>,
    verb: Verb,
    spool: &mut Spool<'_>,
) -> Result<Items, Fault> {
    let sources = root.find_all(request.sources)?;
    let written = request.destination;
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
            && let Some(archive) = add::archive(&source.items, spool)?
        {
            add::unpack(archive, &target, &mut layer, spool)?;
            continue;
        }
        // The content of a folder goes to the destination, a file into it.
        let at = match (source.is_folder, into_folder) {
            (false, true) => layer.resolve(&joined(&target, &source.name))?,
            (true, _) | (false, false) => target.clone(),
        };
        for (below, item) in source.items {
            let item = match request.flags.mode {
                Some(mode) => item.with_mode(mode),
                None => item,
            };
            layer.put(&joined(&at, &below), item, ExistingFolder::KeepsMode)?;
        }
    }
    Ok(layer.finish())
}

/// What the sources of a COPY are paths in.
enum Root<'a> {
    Context(&'a Context),
    Tree { tree: MergedTree<'a>, name: &'a str },
}

/// A file or folder that a source names.
struct SourceMatch {
    /// Its name in a destination folder.
    name: String,
    is_folder: bool,
    /// Itself first, by paths relative to it.
    items: Vec<(String, Item)>,
}

impl Root<'_> {
    fn find_all(&self, sources: &[String]) -> Result<Vec<SourceMatch>, Fault> {
        let (mut all, mut items) = (Vec::new(), 0);
        for source in sources {
            // A `/` in front means the root of the context.
            let path =
                normal(source).ok_or_else(|| DiagnosticKind::LeavesContext(source.clone()))?;
            let matches = self.find(&path)?;
            if matches.is_empty() {
                return Err(self.missing(source, &path).into());
            }
            items += matches.iter().map(|found| found.items.len()).sum::<usize>();
            if items > ITEMS_MAX {
                return Err(DiagnosticKind::TooManyItems.into());
            }
            all.extend(matches);
        }
        Ok(all)
    }

    fn find(&self, path: &str) -> Result<Vec<SourceMatch>, Fault> {
        match self {
            Self::Context(context) => find_in_context(context, path),
            Self::Tree { tree, .. } => Ok(find_in_tree(tree, path)),
        }
    }

    fn missing(&self, source: &str, path: &str) -> DiagnosticKind {
        match self {
            Self::Context(context) => {
                DiagnosticKind::missing_in_context(source, context.path(), context.ignores(path))
            }
            Self::Tree { name, .. } => {
                let tree = SourceTree::Image((*name).to_owned());
                DiagnosticKind::Missing { path: source.to_owned(), tree, ignored: false }
            }
        }
    }
}

fn find_in_context(context: &Context, path: &str) -> Result<Vec<SourceMatch>, Fault> {
    let paths = match pattern::is_pattern(path) && context.find(path)?.is_none() {
        true => context.glob(path)?,
        false => vec![path.to_owned()],
    };
    let mut matches = Vec::new();
    for path in paths {
        let Some(kind) = context.find(&path)? else { continue };
        let items = context.walk(&path)?;
        if !items.is_empty() {
            let (name, is_folder) = (file_name(&path).to_owned(), kind == PathKind::Folder);
            matches.push(SourceMatch { name, is_folder, items });
        }
    }
    Ok(matches)
}

fn find_in_tree(tree: &MergedTree<'_>, path: &str) -> Vec<SourceMatch> {
    let found = |path: &str, id| {
        let is_folder = matches!(tree.index.node(id), Node::Directory { .. });
        SourceMatch { name: file_name(path).to_owned(), is_folder, items: tree.walk(id) }
    };
    if let Ok(id) = tree.index.lookup(path) {
        return vec![found(path, id)];
    }
    if !pattern::is_pattern(path) {
        return Vec::new();
    }
    let paths = tree.index.iter().map(|(at, _)| at);
    let hits = paths.filter(|at| !at.is_empty() && pattern::matches(path, at)).collect();
    let hits = outermost(hits).into_iter();
    hits.filter_map(|at| Some(found(&at, tree.index.lookup(&at).ok()?))).collect()
}
