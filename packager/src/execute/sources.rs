use image::Node;

use crate::{
    context::{Context, Matched, PathKind, Patterns, pattern},
    diagnostic::{DiagnosticKind, SourceTree},
    fault::Fault,
    items::Item,
    limits::ITEMS_MAX,
    path::{clamped, clean, file_name, joined, parts},
    stage::MergedTree,
};

/// What the sources of a COPY are paths in.
pub(super) enum Root<'a> {
    Context(&'a Context),
    Tree { tree: MergedTree<'a>, name: &'a str },
}

/// A file or folder that a source names.
pub(super) struct SourceMatch {
    /// Its name in a destination folder.
    pub(super) name: String,
    pub(super) is_folder: bool,
    /// Itself first, by paths relative to it.
    pub(super) items: Vec<(String, Item)>,
    /// What comes along of them; everything without it.
    pub(super) include: Option<Patterns>,
}

impl Root<'_> {
    /// Every match of `source`. A pattern may match nothing, as in Docker.
    pub(super) fn find_all(&self, source: &str, parents: bool) -> Result<Vec<SourceMatch>, Fault> {
        let found = match parents {
            true => vec![self.with_parents(source)?],
            false => self.find(source)?,
        };
        match found.iter().map(|found| found.items.len()).sum::<usize>() > ITEMS_MAX {
            true => Err(DiagnosticKind::TooManyItems.into()),
            false => Ok(found),
        }
    }

    fn find(&self, source: &str) -> Result<Vec<SourceMatch>, Fault> {
        // A `/` in front means the root of the context, and `..` does not lead above it.
        let path = clamped(source);
        let everything = &|_: &str| true;
        let (fixed, rest) = split_pattern(&path);
        if rest.is_empty() {
            let found = self.at(&path, everything)?;
            return Ok(vec![found.ok_or_else(|| self.missing(source, &path))?]);
        }
        let deepest = parts(rest).count();
        let enters = move |below: &str| parts(below).count() < deepest;
        let folder = self.at(fixed, &enters)?.ok_or_else(|| self.missing(source, &path))?;
        let malformed = || DiagnosticKind::PathPattern { pattern: source.to_owned() };
        let pattern = pattern::Pattern::of_source(rest).ok_or_else(malformed)?;
        let (mut matches, mut inside) = (Vec::new(), None::<String>);
        for (below, item) in &folder.items {
            if inside.as_ref().is_some_and(|folder| below.starts_with(folder.as_str())) {
                continue;
            }
            if below.is_empty() || !pattern.matches(below) {
                continue;
            }
            inside = item.is_folder().then(|| format!("{below}/"));
            let path = joined(fixed, below);
            matches.push(self.at(&path, everything)?.ok_or_else(|| self.missing(source, &path))?);
        }
        Ok(matches)
    }

    /// `--parents`: everything below what stands before `/./`, as far as the rest describes it.
    fn with_parents(&self, source: &str) -> Result<SourceMatch, Fault> {
        let (parent, pattern) = source.split_once("/./").unwrap_or(("", source));
        let (parent, pattern) = (clamped(parent), clamped(pattern));
        let (fixed, rest) = split_pattern(&pattern);
        let whole = joined(&parent, &pattern);
        let nothing = &|_: &str| false;
        if rest.is_empty() && !pattern::is_pattern(&parent) && self.at(&whole, nothing)?.is_none() {
            return Err(self.missing(source, &whole).into());
        }
        let deepest = if rest.contains("**") { usize::MAX } else { parts(&pattern).count() };
        let is_on_the_way = |below: &str| {
            let is_above =
                fixed.strip_prefix(below).is_some_and(|r| r.is_empty() || r.starts_with('/'));
            let is_below =
                below.strip_prefix(fixed).is_some_and(|r| r.is_empty() || r.starts_with('/'));
            is_above || is_below || fixed.is_empty()
        };
        let malformed = |pattern| DiagnosticKind::PathPattern { pattern };
        let include = Patterns::of(std::slice::from_ref(&pattern)).map_err(malformed)?;
        // What matches comes with everything in it, however deep.
        let enters = |below: &str| {
            let is_deep = parts(below).count() >= deepest;
            is_on_the_way(below) && (!is_deep || include.matched_from_root(below).0)
        };
        let found = self.at(&parent, &enters)?.ok_or_else(|| self.missing(source, &parent))?;
        Ok(SourceMatch { include: Some(include), ..found })
    }

    /// What `path` leads to.
    fn at(&self, path: &str, enters: &dyn Fn(&str) -> bool) -> Result<Option<SourceMatch>, Fault> {
        let (is_folder, items) = match self {
            Self::Context(context) => {
                let Some(kind) = context.find(path)? else { return Ok(None) };
                (kind == PathKind::Folder, context.walk(path, enters)?)
            }
            Self::Tree { tree, .. } => {
                let Ok(id) = tree.index.lookup(path) else { return Ok(None) };
                let is_folder = matches!(tree.index.node(id), Node::Directory { .. });
                (is_folder, tree.walk(id, enters))
            }
        };
        let name = file_name(path).to_owned();
        // The root of an empty tree is there.
        let is_there = !items.is_empty() || path.is_empty();
        Ok(is_there.then_some(SourceMatch { name, is_folder, items, include: None }))
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

/// The parts before the first one with a special character, and the rest.
fn split_pattern(path: &str) -> (&str, &str) {
    let mut at = 0;
    for part in path.split('/') {
        if pattern::is_pattern(part) {
            return (path[..at].trim_end_matches('/'), &path[at..]);
        }
        at += part.len() + 1;
    }
    (path, "")
}

/// Which of the items of a source come along, in the order in which they are walked.
pub(super) struct Filter<'a> {
    include: Option<&'a Patterns>,
    exclude: &'a Patterns,
    /// The folders on the way down, and what of the patterns matched them.
    folders: Vec<(String, Matched, Matched)>,
}

impl<'a> Filter<'a> {
    pub(super) fn of(include: Option<&'a Patterns>, exclude: &'a Patterns) -> Self {
        Self { include, exclude, folders: Vec::new() }
    }

    /// Whether the item at `below` comes along.
    pub(super) fn takes(&mut self, below: &str, is_folder: bool) -> bool {
        if below.is_empty() {
            return true;
        }
        let is_in = |folder: &String| {
            below.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        while self.folders.last().is_some_and(|(folder, ..)| !is_in(folder)) {
            self.folders.pop();
        }
        let none = (String::new(), Matched::new(), Matched::new());
        let (_, in_include, in_exclude) = self.folders.last().unwrap_or(&none);
        let (included, include) = match self.include {
            Some(patterns) => patterns.matched(below, in_include),
            None => (true, Matched::new()),
        };
        let (excluded, exclude) = self.exclude.matched(below, in_exclude);
        if is_folder {
            self.folders.push((below.to_owned(), include, exclude));
        }
        included && !excluded
    }
}

/// `path` as BuildKit has it: with the `/` or `/.` at its end, which say that it is a folder.
pub(super) fn destination(folder: &str, path: &str) -> String {
    let path = if matches!(path, "" | ".") { "./" } else { path };
    let whole = match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("{folder}/{path}")),
    };
    let end = match (path.ends_with('/'), path.ends_with("/.")) {
        (true, _) if whole != "/" => "/",
        (_, true) if whole != "/" => "/.",
        (_, true) => ".",
        _ => "",
    };
    format!("{whole}{end}")
}
