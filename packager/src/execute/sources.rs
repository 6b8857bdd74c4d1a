use image::Node;

use crate::{
    context::{Context, Ignore, PathKind, pattern},
    diagnostic::{DiagnosticKind, SourceTree},
    fault::Fault,
    items::Item,
    limits::ITEMS_MAX,
    path::{file_name, normal, outermost, parts},
    stage::MergedTree,
};

/// What the sources of a COPY are paths in.
pub(super) enum Root<'a> {
    Context(&'a Context),
    Tree { tree: MergedTree<'a>, name: &'a str },
}

/// A file or folder that a source names.
pub(super) struct SourceMatch {
    /// Its name in a destination folder; with `--parents` a path.
    pub(super) name: String,
    pub(super) is_folder: bool,
    /// Itself first, by paths relative to it.
    pub(super) items: Vec<(String, Item)>,
}

impl SourceMatch {
    /// Takes the first `count` folders off its path.
    fn drop_folders(&mut self, count: usize) {
        self.name = parts(&self.name).skip(count).collect::<Vec<_>>().join("/");
    }

    /// Without what `--exclude` names, by paths in the source folder; a file by its name.
    fn without(mut self, exclude: &Ignore) -> Option<Self> {
        if !self.is_folder && exclude.ignores(file_name(&self.name)) {
            return None;
        }
        self.items.retain(|(below, _)| below.is_empty() || !exclude.ignores(below));
        Some(self)
    }
}

impl Root<'_> {
    /// Every match of every source. A pattern may match nothing, as in Docker.
    pub(super) fn find_all(
        &self,
        sources: &[String],
        parents: bool,
        exclude: &Ignore,
    ) -> Result<Vec<SourceMatch>, Fault> {
        let (mut all, mut items) = (Vec::new(), 0);
        for source in sources {
            // A `/` in front means the root of the context.
            let leaves = || DiagnosticKind::LeavesContext(source.clone());
            let path = normal(source).ok_or_else(leaves)?;
            let mut matches = self.find(&path)?;
            if matches.is_empty() && !pattern::is_pattern(&path) {
                return Err(self.missing(source, &path).into());
            }
            items += matches.iter().map(|found| found.items.len()).sum::<usize>();
            if items > ITEMS_MAX {
                return Err(DiagnosticKind::TooManyItems.into());
            }
            if parents {
                // `/./` ends the part that is not kept.
                let dropped = source.rsplit_once("/./").map_or("", |(dropped, _)| dropped);
                let dropped = parts(&normal(dropped).ok_or_else(leaves)?).count();
                matches.iter_mut().for_each(|found| found.drop_folders(dropped));
            } else {
                matches.iter_mut().for_each(|found| found.name = file_name(&found.name).to_owned());
            }
            all.extend(matches.into_iter().filter_map(|found| found.without(exclude)));
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
            let is_folder = kind == PathKind::Folder;
            matches.push(SourceMatch { name: path, is_folder, items });
        }
    }
    Ok(matches)
}

fn find_in_tree(tree: &MergedTree<'_>, path: &str) -> Vec<SourceMatch> {
    let found = |path: &str, id| {
        let is_folder = matches!(tree.index.node(id), Node::Directory { .. });
        SourceMatch { name: path.to_owned(), is_folder, items: tree.walk(id) }
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
