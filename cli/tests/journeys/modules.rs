//! Which module of a crate uses which other one, read from its sources.
//!
//! A module is a file. An edge is a path that a `use` or an expression spells out, followed through
//! re-exports to the module that defines the item. Code under `#[cfg(test)]` has no edges.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

/// A path of module names from the root of the crate, which is the empty one.
type ModulePath = Vec<String>;

/// The modules of one crate.
#[derive(Default)]
pub struct Modules {
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    /// The module whose file it is in: itself, unless it is written inline.
    file: ModulePath,
    /// Names that it imports or hands on, and the paths they stand for.
    names: BTreeMap<String, Vec<String>>,
    /// Paths whose items it imports or hands on all together.
    globs: Vec<Vec<String>>,
    /// Every path that its code spells out.
    paths: Vec<Vec<String>>,
}

impl Modules {
    /// Reads the crate whose root is `root` (`src/lib.rs` or `src/main.rs`).
    pub fn read(root: &Path) -> Self {
        let mut modules = Self::default();
        let folder = root.parent().expect("a file lies in a folder");
        modules.read_file(root, folder, Vec::new());
        modules
    }

    fn read_file(&mut self, file: &Path, folder: &Path, path: ModulePath) {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.read_items(&syntax.items, folder, path.clone(), path);
    }

    fn read_items(
        &mut self,
        items: &[syn::Item],
        folder: &Path,
        path: ModulePath,
        file: ModulePath,
    ) {
        let mut module = Module { file: file.clone(), ..Module::default() };
        for item in items {
            if is_for_tests(attributes(item)) {
                continue;
            }
            match item {
                syn::Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let child = [path.as_slice(), std::slice::from_ref(&name)].concat();
                    match &inner.content {
                        Some((_, items)) => {
                            self.read_items(items, &folder.join(&name), child, file.clone());
                        }
                        None => {
                            let (file, folder) = source_of(folder, &name);
                            self.read_file(&file, &folder, child);
                        }
                    }
                }
                syn::Item::Use(import) => module.import(&import.tree, &mut Vec::new()),
                other => PathsIn(&mut module.paths).visit_item(other),
            }
        }
        self.modules.insert(path, module);
    }

    /// For each file, the other files that it uses.
    pub fn edges(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, module) in &self.modules {
            let from = shown(&module.file);
            let targets = edges.entry(from.clone()).or_default();
            let named = module.names.values().chain(&module.globs).chain(&module.paths);
            let used = named.filter_map(|used| self.defining(path, used, 0)).map(|to| shown(&to));
            targets.extend(used.filter(|to| *to != from));
        }
        edges
    }

    /// The file of the module that defines what `used` names in `from`; none for another crate's.
    fn defining(&self, from: &ModulePath, used: &[String], depth: usize) -> Option<ModulePath> {
        let (mut at, mut rest) = self.start(from, used)?;
        while let Some((name, tail)) = rest.split_first() {
            let child = [at.as_slice(), std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&child) {
                (at, rest) = (child, tail);
                continue;
            }
            let module = self.modules.get(&at)?;
            let handed_on = module.names.get(name).filter(|_| depth < 8);
            return match handed_on {
                Some(path) => self.defining(&at, &[path.as_slice(), tail].concat(), depth + 1),
                None => Some(module.file.clone()),
            };
        }
        Some(self.modules.get(&at)?.file.clone())
    }

    /// The module that the first names of a path lead to, and the names after them.
    fn start<'a>(
        &self,
        from: &ModulePath,
        used: &'a [String],
    ) -> Option<(ModulePath, &'a [String])> {
        let (first, mut rest) = used.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => from.split_last()?.1.to_vec(),
            child => {
                let child = [from.as_slice(), &[child.to_owned()]].concat();
                return self.modules.contains_key(&child).then_some((child, rest));
            }
        };
        while let Some(("super", tail)) =
            rest.split_first().map(|(name, tail)| (name.as_str(), tail))
        {
            (at, rest) = (at.split_last()?.1.to_vec(), tail);
        }
        Some((at, rest))
    }
}

impl Module {
    fn import(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(&path.tree, prefix);
                prefix.pop();
            }
            syn::UseTree::Name(name) => self.name(&name.ident.to_string(), None, prefix),
            syn::UseTree::Rename(name) => {
                self.name(&name.ident.to_string(), Some(name.rename.to_string()), prefix);
            }
            syn::UseTree::Glob(_) => self.globs.push(prefix.clone()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix);
                }
            }
        }
    }

    fn name(&mut self, name: &str, renamed: Option<String>, prefix: &[String]) {
        let (path, known_as) = match name {
            "self" => (prefix.to_vec(), prefix.last().cloned().unwrap_or_default()),
            name => ([prefix, &[name.to_owned()]].concat(), name.to_owned()),
        };
        self.names.insert(renamed.unwrap_or(known_as), path);
    }
}

/// Collects the paths in a piece of code.
struct PathsIn<'a>(&'a mut Vec<Vec<String>>);

impl<'ast> Visit<'ast> for PathsIn<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => {
            attribute.path().is_ident("cfg") && list.tokens.to_string().contains("test")
        }
        _ => false,
    })
}

/// The file of the module `name` of a module whose children lie in `folder`, and where its own lie.
fn source_of(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let children = folder.join(name);
    let beside = folder.join(format!("{name}.rs"));
    let file = if beside.is_file() { beside } else { children.join("mod.rs") };
    (file, children)
}

fn shown(path: &ModulePath) -> String {
    match path.is_empty() {
        true => "crate".to_owned(),
        false => path.join("::"),
    }
}

/// The same between siblings: at each level of the tree a module stands for all below it, and a
/// module and its submodules are one noun, whose files may share a type.
pub fn between_siblings(
    edges: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut between: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, targets) in edges {
        for to in targets.iter().filter(|to| *to != "crate" && from != "crate") {
            let (from, to): (Vec<_>, Vec<_>) =
                (from.split("::").collect(), to.split("::").collect());
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if shared < from.len().min(to.len()) {
                let siblings = (from[..=shared].join("::"), to[..=shared].join("::"));
                between.entry(siblings.0).or_default().insert(siblings.1.clone());
                between.entry(siblings.1).or_default();
            }
        }
    }
    between
}

/// Groups of modules each of which uses every other one, directly or through others.
pub fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reachable = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for to in edges.get(module).into_iter().flatten() {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = edges.keys().map(|module| (module, reachable(module))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (module, seen) in &reached {
        if !seen.contains(module) || circles.iter().any(|circle| circle.contains(*module)) {
            continue;
        }
        let back =
            seen.iter().filter(|other| reached.get(*other).is_some_and(|r| r.contains(module)));
        circles.push(back.map(|other| (*other).clone()).collect());
    }
    circles
}
