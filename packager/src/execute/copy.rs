use std::collections::{BTreeMap, HashMap};

use image::{EntryKind, Node, Sniffed, sniff};

use crate::{
    context::pattern,
    context::{Context, Found, joined, outermost},
    error::Error,
    layer::items::{ContextFile, Item, Items, Origin, Source},
    layer::spool::Spool,
    stage::{At, Stage, Tree, resolve},
};

/// One COPY or ADD, its words already expanded.
pub(crate) struct Copy<'a> {
    pub(crate) sources: &'a [String],
    pub(crate) destination: &'a str,
    /// `--chmod`.
    pub(crate) mode: Option<u32>,
    /// ADD: a tar of the build context is unpacked.
    pub(crate) unpack: bool,
    pub(crate) from: From<'a>,
}

/// Where the sources are.
pub(crate) enum From<'a> {
    Context(&'a Context),
    Tree { tree: Tree<'a>, name: String },
}

/// Why nothing was copied: the caller knows the file and the line.
pub(crate) enum Failed {
    Missing { source: String, tree: String, ignored: bool },
    Wrong(String),
    Error(Error),
}

impl std::convert::From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// As many as a layer may have.
pub(crate) const ITEMS_MAX: usize = 1_000_000;

/// One source, found.
struct Match {
    /// The last part of its path: its name in a destination folder.
    name: String,
    folder: bool,
    /// Itself first, by paths relative to it.
    items: Vec<(String, Item)>,
}

/// The layer that a COPY makes on top of `stage`.
pub(crate) fn copy(stage: &Stage, copy: &Copy<'_>, spool: &mut Spool<'_>) -> Result<Items, Failed> {
    let mut matches = Vec::new();
    for source in copy.sources {
        let found = copy.from.find(source)?;
        if found.is_empty() {
            return Err(copy.from.missing(source));
        }
        matches.extend(found);
        if matches.iter().map(|found: &Match| found.items.len()).sum::<usize>() > ITEMS_MAX {
            return Err(Failed::Wrong(format!(
                "it copies more than {ITEMS_MAX} files and folders"
            )));
        }
    }
    let workdir = stage.config.working_dir.as_deref().unwrap_or("/");
    let written = copy.destination;
    let absolute =
        if written.starts_with('/') { written.to_owned() } else { format!("{workdir}/{written}") };
    let names_folder =
        written.ends_with('/') || matches!(written, "." | "./" | "..") || written.ends_with("/.");
    let target = stage.resolve(&absolute).map_err(Failed::Wrong)?;
    let into_folder =
        names_folder || target.is_empty() || matches!(stage.at(&target), Some(At::Folder { .. }));
    if matches.len() > 1 && !into_folder {
        let why = format!(
            "{} sources go to `{written}`, which is no folder: put a `/` at its end",
            matches.len()
        );
        return Err(Failed::Wrong(why));
    }
    let mut landing = Landing::on(stage);
    for found in matches {
        if let Some(archive) = archive_of(copy, &found, spool)? {
            unpack(&archive, &target, &mut landing, spool)?;
            continue;
        }
        let at = match (found.folder, into_folder) {
            (true, _) => target.clone(),
            (false, true) => landing.resolve(&joined(&target, &found.name))?,
            (false, false) => target.clone(),
        };
        for (below, item) in found.items {
            let item = if let Some(mode) = copy.mode { item.with_mode(mode) } else { item };
            landing.put(&joined(&at, &below), item, OldFolder::KeepsMode)?;
        }
    }
    Ok(landing.items)
}

/// The layer that holds one file or folder at `path`, links followed; empty for a folder that is
/// there already.
pub(crate) fn put_at(stage: &Stage, path: &str, item: Item) -> Result<Items, Failed> {
    let mut landing = Landing::on(stage);
    let path = landing.resolve(path)?;
    if !matches!((&item, stage.at(&path)), (Item::Folder { .. }, Some(At::Folder { .. }))) {
        landing.put(&path, item, OldFolder::KeepsMode)?;
    }
    Ok(landing.items)
}

/// A layer in the making, and the stage that it will lie on: what is below must not vanish behind
/// what is put on top.
struct Landing<'a> {
    stage: &'a Stage,
    items: Items,
    /// Where the links on the way to a folder lead: the same for every file in it.
    folders: HashMap<String, String>,
}

/// What a folder that is there already gets from one that is put in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OldFolder {
    /// Nothing, as with COPY.
    KeepsMode,
    /// Its mode, as when a tar is unpacked.
    TakesMode,
}

impl<'a> Landing<'a> {
    fn on(stage: &'a Stage) -> Self {
        Self { stage, items: Items::default(), folders: HashMap::new() }
    }

    fn at(&self, path: &str) -> Option<At<'_>> {
        self.items.0.get(path).map(At::of).or_else(|| self.stage.at(path))
    }

    fn resolve(&self, path: &str) -> Result<String, Failed> {
        resolve(path, &|path| self.at(path)).map_err(Failed::Wrong)
    }

    /// Puts `item` at `path`, links on the way followed. A folder at the place of a link goes where
    /// the link leads; a file takes a link's place.
    fn put(&mut self, path: &str, item: Item, old: OldFolder) -> Result<(), Failed> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.folder(parent)?;
        let mut path = joined(&parent, name);
        if matches!(item, Item::Folder { .. }) {
            path = self.resolve(&path)?;
        }
        image::normal_name(if path.is_empty() { b"." } else { path.as_bytes() })
            .map_err(|why| Failed::Wrong(format!("`{path}` cannot be in an image: {why}")))?;
        let item = match (item, self.at(&path)) {
            (Item::Symlink { target }, _) if image::link_leaves(&path, &target) => {
                return Err(Failed::Wrong(format!(
                    "`{path}` would be a link that leaves the image, to `{target}`"
                )));
            }
            (Item::Folder { .. }, Some(At::Added(_) | At::Base(_))) => {
                return Err(no_folder(&path));
            }
            (Item::Folder { .. }, Some(At::Folder { mode })) if old == OldFolder::KeepsMode => {
                Item::Folder { mode }
            }
            (Item::File { .. } | Item::Symlink { .. }, Some(At::Folder { .. })) => {
                return Err(Failed::Wrong(format!(
                    "`/{path}` is a folder already, and no file can take its place"
                )));
            }
            (item, _) => item,
        };
        self.items.put(&path, item, &|parent| self.stage.folder_mode(parent));
        Ok(())
    }

    /// Where the folder `path` is.
    fn folder(&mut self, path: &str) -> Result<String, Failed> {
        if let Some(known) = self.folders.get(path) {
            return Ok(known.clone());
        }
        let found = self.resolve(path)?;
        let ends = found.match_indices('/').map(|(at, _)| at).chain([found.len()]);
        for part in ends.map(|end| &found[..end]) {
            if matches!(self.at(part), Some(At::Added(_) | At::Base(_))) {
                return Err(no_folder(part));
            }
        }
        self.folders.insert(path.to_owned(), found.clone());
        Ok(found)
    }
}

fn no_folder(path: &str) -> Failed {
    Failed::Wrong(format!("`/{path}` is a file already, and no folder can take its place"))
}

impl From<'_> {
    fn find(&self, source: &str) -> Result<Vec<Match>, Failed> {
        let path = normal_source(source)?;
        match self {
            Self::Context(context) => {
                let paths = match pattern::is_pattern(&path) && context.find(&path)?.is_none() {
                    true => context.glob(&path)?,
                    false => vec![path],
                };
                let mut found = Vec::new();
                for path in paths {
                    if let Some(kind) = context.find(&path)? {
                        let items = context.walk(&path)?;
                        if !items.is_empty() {
                            found.push(Match {
                                name: last_part(&path),
                                folder: kind == Found::Folder,
                                items,
                            });
                        }
                    }
                }
                Ok(found)
            }
            Self::Tree { tree, .. } => Ok(find_in_tree(tree, &path)),
        }
    }

    fn missing(&self, source: &str) -> Failed {
        let (tree, ignored) = match self {
            Self::Context(context) => {
                let path = normal_source(source).unwrap_or_default();
                (
                    format!("the build context `{}`", context.path().display()),
                    context.leaves_out(&path),
                )
            }
            Self::Tree { name, .. } => (format!("`{name}`"), false),
        };
        Failed::Missing { source: source.to_owned(), tree, ignored }
    }
}

fn find_in_tree(tree: &Tree<'_>, path: &str) -> Vec<Match> {
    let found = |id| {
        let folder = matches!(tree.index.node(id), Node::Directory { .. });
        Match { name: last_part(path), folder, items: tree.walk(id) }
    };
    if let Ok(id) = tree.index.lookup(path) {
        return vec![found(id)];
    }
    if !pattern::is_pattern(path) {
        return Vec::new();
    }
    let hits = tree
        .index
        .iter()
        .map(|(at, _)| at)
        .filter(|at| !at.is_empty() && pattern::matches(path, at))
        .collect();
    let found = outermost(hits).into_iter().filter_map(|at| {
        let id = tree.index.lookup(&at).ok()?;
        Some(Match { name: last_part(&at), ..found(id) })
    });
    found.collect()
}

/// Relative to the root of what is copied from. A `/` in front means that root; `..` may not leave
/// it.
fn normal_source(source: &str) -> Result<String, Failed> {
    let mut parts: Vec<&str> = Vec::new();
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => {
                return Err(Failed::Wrong(format!("`{source}` leads out of the build context")));
            }
            ".." => {}
            _ => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn last_part(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The archive that ADD should unpack, if this is one.
fn archive_of(
    copy: &Copy<'_>,
    found: &Match,
    spool: &mut Spool<'_>,
) -> Result<Option<ContextFile>, Failed> {
    let [(_, Item::File { source: source @ Source::Context(file), .. })] = found.items.as_slice()
    else {
        return Ok(None);
    };
    if !copy.unpack {
        return Ok(None);
    }
    let head = spool.head(source, 512)?;
    match sniff(&head) {
        Sniffed::Tar => Ok(Some(file.clone())),
        // Compressed files that are no tar are copied as they are, as Docker does.
        Sniffed::Gzip | Sniffed::Zstd if spool.starts_as_tar(file)? => Ok(Some(file.clone())),
        _ if head.starts_with(b"BZh") || head.starts_with(b"\xfd7zXZ\0") => {
            Err(Failed::Wrong(format!(
                "`{}` is compressed with bzip2 or xz, which is not unpacked here: use gzip or zstd, or COPY it as it is",
                file.path
            )))
        }
        _ => Ok(None),
    }
}

/// Puts what is in the archive below `target`, links of the archive never followed.
fn unpack(
    archive: &ContextFile,
    target: &str,
    landing: &mut Landing<'_>,
    spool: &mut Spool<'_>,
) -> Result<(), Failed> {
    let refused = |path: &str, why: &str| {
        Failed::Wrong(format!("`{path}` in the archive `{}` {why}", archive.path))
    };
    let mut bytes = 0u64;
    // Files and links of the archive, by their names in it.
    let mut seen: BTreeMap<String, Item> = BTreeMap::new();
    for entry in spool.entries(archive)? {
        if entry.path.match_indices('/').any(|(at, _)| seen.contains_key(&entry.path[..at])) {
            return Err(refused(&entry.path, "leads through a link or a file of the archive"));
        }
        let item = match entry.kind {
            EntryKind::Directory => Item::Folder { mode: entry.mode },
            EntryKind::Symlink { target } => Item::Symlink { target },
            EntryKind::File => {
                let (origin, offset, len) =
                    (Origin::Archive(archive.clone()), entry.offset, entry.size);
                Item::File { mode: entry.mode, source: Source::Part { origin, offset, len } }
            }
            EntryKind::Hardlink { target: other } => {
                seen.get(&other).cloned().ok_or_else(|| {
                    refused(&entry.path, "is a hard link to something that is not in it")
                })?
            }
            EntryKind::Whiteout | EntryKind::Opaque => {
                return Err(refused(&entry.path, "is a whiteout, which only layers have"));
            }
        };
        if let Item::File { source, .. } = &item {
            // Hard links are written out as files: a few bytes could ask for a full disk.
            bytes = bytes.saturating_add(source.size());
            if bytes > image::Budget::default().bytes_max {
                return Err(refused(&entry.path, "is beyond what a layer may hold"));
            }
        }
        if !matches!(item, Item::Folder { .. }) {
            seen.insert(entry.path.clone(), item.clone());
        }
        landing.put(&joined(target, &entry.path), item, OldFolder::TakesMode)?;
    }
    Ok(())
}
