use std::{rc::Rc, sync::Arc};

use image::{
    Entry, EntryKind, FileIndex, FileIndexBuilder, FileNode, Format, LayerContent, Node, NodeId,
    Plan, PlannedLayer, Program,
};
use serde::Deserialize;
use spec::{Descriptor, Digest, ExecutionConfig, Reference};

use crate::{
    cache::Cache,
    context::{LINKS_MAX, joined},
    error::Error,
    layer::items::{Item, Items, MODE_EXECUTABLE, Origin, Source},
    layout::{DOCUMENT_BYTES_MAX, Layout},
};

/// An image in the making: what is below, what was added, and how to run it.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) base: Base,
    pub(crate) added: Vec<Added>,
    pub(crate) config: ExecutionConfig,
    pub(crate) shell_form: ShellForm,
    /// The ONBUILD instructions of the base image.
    pub(crate) triggers: Vec<String>,
}

/// Which of the two were written as a line for a shell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShellForm {
    pub(crate) entrypoint: bool,
    pub(crate) cmd: bool,
}

impl ShellForm {
    pub(crate) fn instruction(self) -> Option<&'static str> {
        match (self.entrypoint, self.cmd) {
            (true, _) => Some("ENTRYPOINT"),
            (false, true) => Some("CMD"),
            (false, false) => None,
        }
    }
}

/// The layers that are there already.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) layers: Vec<BaseLayer>,
    pub(crate) index: Rc<FileIndex>,
    /// What the image below was for, and what it ran.
    pub(crate) platform: Option<spec::Platform>,
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

/// A layer that has no bytes yet.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    pub(crate) items: Items,
    /// The instruction, as people see it.
    pub(crate) made_by: String,
}

/// What is at a path of a stage, links not followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At<'a> {
    Folder { mode: u32 },
    Added(&'a Source),
    Base(FileNode),
    Symlink(&'a str),
}

impl<'a> At<'a> {
    pub(crate) fn of(item: &'a Item) -> Self {
        match item {
            Item::Folder { mode } => At::Folder { mode: *mode },
            Item::File { source, .. } => At::Added(source),
            Item::Symlink { target } => At::Symlink(target),
        }
    }
}

/// Images with more cannot be read (`image::plan`), nor mounted.
const LAYERS_MAX: usize = 500;

impl Base {
    pub(crate) fn scratch() -> Self {
        let empty = FileIndexBuilder::new().finish().expect("nothing fits in any budget");
        Self { layers: Vec::new(), index: Rc::new(empty), platform: None, args: Vec::new() }
    }

    /// Where the bytes of a file in these layers come from.
    pub(crate) fn source(&self, file: FileNode) -> Source {
        let blob = Arc::new(self.layers[file.layer as usize].descriptor.clone());
        Source::Part { origin: Origin::Layer(blob), offset: file.offset, len: file.len }
    }
}

impl Stage {
    pub(crate) fn scratch() -> Self {
        Self {
            base: Base::scratch(),
            added: Vec::new(),
            config: ExecutionConfig::default(),
            shell_form: ShellForm::default(),
            triggers: Vec::new(),
        }
    }

    /// On top of a local image. A program without a root filesystem becomes one file in one.
    pub(crate) fn from_image(
        layout: &Layout,
        cache: &Cache,
        image: &Reference,
        plan: &Plan,
    ) -> Result<Self, Error> {
        let mut stage = Self::scratch();
        stage.config = plan.execution().clone();
        if plan.format == Format::Image {
            let layers = plan
                .layers
                .iter()
                .map(|layer| base_layer(layout, layer))
                .collect::<Result<Vec<_>, _>>()?;
            let index = Rc::new(index_of(layout, cache, plan)?);
            let (platform, args) = (Some(plan.platform.clone()), plan.args.clone());
            stage.base = Base { layers, index, platform, args };
            return Ok(stage);
        }
        let (Program::Layer(at), true) = (&plan.program, plan.format != Format::Spin) else {
            let what = format!("`{image}` as a base image");
            let why = "a Spin application has no root filesystem".to_owned();
            return Err(Error::Program(image::Error::Unsupported { what, why }));
        };
        let layer = &plan.layers[*at];
        debug_assert_eq!(layer.content, LayerContent::Wasm);
        let name = image.repository().rsplit('/').next().unwrap_or("app");
        let path = format!("{name}.wasm");
        let (origin, len) =
            (Origin::Raw(Arc::new(layer.descriptor.clone())), layer.descriptor.size);
        let source = Source::Part { origin, offset: 0, len };
        let mut items = Items::default();
        items.put(&path, Item::File { mode: MODE_EXECUTABLE, source }, &|_| None);
        stage.added.push(Added { items, made_by: format!("FROM {image}") });
        stage.config.entrypoint = Some(vec![format!("/{path}")]);
        Ok(stage)
    }

    /// Whether an image of so many layers could be read again. One is left for the program, which
    /// gets a layer of its own.
    pub(crate) fn check_layers(&self) -> Result<(), String> {
        match self.base.layers.len() + self.added.len() >= LAYERS_MAX {
            true => Err(format!(
                "the image would have more than {} layers: COPY more at once",
                LAYERS_MAX - 1
            )),
            false => Ok(()),
        }
    }

    /// What is at `path` (normal, relative), links not followed, upper layers first.
    pub(crate) fn at(&self, path: &str) -> Option<At<'_>> {
        for added in self.added.iter().rev() {
            if let Some(item) = added.items.0.get(path) {
                return Some(At::of(item));
            }
        }
        let id = self.base.index.lookup_link(path).ok()?;
        Some(match self.base.index.node(id) {
            Node::Directory { mode, .. } => At::Folder { mode },
            Node::File(file) => At::Base(file),
            Node::Symlink { target } => At::Symlink(target),
        })
    }

    /// The path, relative and normal, that `path` leads to through the links of this stage; what
    /// does not exist yet is taken as written. `..` stops at the root.
    pub(crate) fn resolve(&self, path: &str) -> Result<String, String> {
        resolve(path, &|path| self.at(path))
    }

    pub(crate) fn folder_mode(&self, path: &str) -> Option<u32> {
        match self.at(path) {
            Some(At::Folder { mode }) => Some(mode),
            _ => None,
        }
    }

    /// Everything in this stage as one tree: for COPY --from.
    pub(crate) fn tree(&self) -> Result<Tree<'_>, Error> {
        let wrong =
            |source| Error::Image { whose: "a stage cannot be copied from".to_owned(), source };
        let mut builder = FileIndexBuilder::on_top_of(&self.base.index);
        for added in &self.added {
            for (path, item) in &added.items.0 {
                builder.add(&entry(path, item)).map_err(wrong)?;
            }
            builder.end_layer();
        }
        Ok(Tree { stage: self, index: builder.finish().map_err(wrong)? })
    }
}

/// Like [`Stage::resolve`], where `at` says what is at a path.
pub(crate) fn resolve<'a>(
    path: &str,
    at: &dyn Fn(&str) -> Option<At<'a>>,
) -> Result<String, String> {
    let mut here: Vec<String> = Vec::new();
    let split = |text: &str| -> Vec<String> {
        text.split('/').rev().filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect()
    };
    let (mut ahead, mut links) = (split(path), 0);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        here.push(part);
        if let Some(At::Symlink(target)) = at(&here.join("/")) {
            links += 1;
            if links > LINKS_MAX {
                return Err(format!("`{path}` leads through more than {LINKS_MAX} links"));
            }
            here.pop();
            if target.starts_with('/') {
                here.clear();
            }
            ahead.extend(split(target));
        }
    }
    Ok(here.join("/"))
}

/// What Docker would carry out first in whatever is made from the image with this manifest: its own
/// addition to configs.
pub(crate) fn triggers(layout: &Layout, manifest: &Descriptor) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Config {
        config: Option<Execution>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Execution {
        on_build: Option<Vec<String>>,
    }
    let malformed = |error: serde_json::Error| Error::Image {
        whose: format!("the image `{}` cannot be used", manifest.digest),
        source: image::Error::Malformed { document: "image config", why: error.to_string() },
    };
    let found = layout.manifests(manifest)?.into_iter().find_map(|(_, manifest)| manifest.config);
    let Some(config) = found else { return Ok(Vec::new()) };
    let config: Config = serde_json::from_slice(&layout.read_blob(&config, DOCUMENT_BYTES_MAX)?)
        .map_err(malformed)?;
    Ok(config.config.and_then(|config| config.on_build).unwrap_or_default())
}

/// A layer that is here, and whose uncompressed digest its config says.
fn base_layer(layout: &Layout, layer: &PlannedLayer) -> Result<BaseLayer, Error> {
    let descriptor = layer.descriptor.clone();
    match layer.diff_id {
        Some(diff_id) if layout.has_blob(&descriptor.digest, descriptor.size) => {
            Ok(BaseLayer { descriptor, diff_id })
        }
        Some(_) | None => Err(Error::NoBlob(descriptor.digest)),
    }
}

fn entry(path: &str, item: &Item) -> Entry {
    let (kind, mode, size) = match item {
        Item::Folder { mode } => (EntryKind::Directory, *mode, 0),
        Item::File { mode, source } => (EntryKind::File, *mode, source.size()),
        Item::Symlink { target } => (EntryKind::Symlink { target: target.clone() }, 0o777, 0),
    };
    Entry {
        path: path.to_owned(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        size,
        offset: 0,
        xattrs: Vec::new(),
    }
}

/// The merged layers of a stage, to copy from.
pub(crate) struct Tree<'a> {
    stage: &'a Stage,
    pub(crate) index: FileIndex,
}

impl Tree<'_> {
    /// What is at `id`, and everything below it, by its path relative to it.
    pub(crate) fn walk(&self, id: NodeId) -> Vec<(String, Item)> {
        let mut all = vec![(String::new(), self.item(id))];
        self.walk_below(id, "", &mut all);
        all
    }

    fn walk_below(&self, id: NodeId, below: &str, all: &mut Vec<(String, Item)>) {
        for child in self.index.children(id) {
            let path = joined(below, child.name);
            all.push((path.clone(), self.item(child.id)));
            self.walk_below(child.id, &path, all);
        }
    }

    fn item(&self, id: NodeId) -> Item {
        match self.index.node(id) {
            Node::Directory { mode, .. } => Item::Folder { mode },
            Node::Symlink { target } => Item::Symlink { target: target.to_owned() },
            Node::File(file) => {
                let base = self.stage.base.layers.len();
                let source = match (file.layer as usize).checked_sub(base) {
                    None => self.stage.base.source(file),
                    Some(added) => {
                        match self.stage.added[added].items.0.get(&self.index.path(id)) {
                            Some(Item::File { source, .. }) => source.clone(),
                            _ => unreachable!(
                                "a file of an added layer stands there under its own path"
                            ),
                        }
                    }
                };
                Item::File { mode: file.mode, source }
            }
        }
    }
}

/// The merged layers of an image: known from earlier, or read now.
fn index_of(layout: &Layout, cache: &Cache, plan: &Plan) -> Result<FileIndex, Error> {
    let key = cache.index_key(plan.layers.iter().map(|layer| &layer.descriptor));
    if let Some(index) =
        cache.index(&key).filter(|index| index.layers() as usize == plan.layers.len())
    {
        return Ok(index);
    }
    let wrong = |source| Error::Image {
        whose: format!("the image `{}` cannot be used", plan.manifest),
        source,
    };
    let mut builder = FileIndexBuilder::new();
    for (number, layer) in plan.layers.iter().enumerate() {
        let blob = layout.open_blob(&layer.descriptor.digest)?;
        layer
            .read(blob, std::io::sink(), &mut builder, number, image::Budget::default())
            .map_err(wrong)?;
    }
    let index = builder.finish().map_err(wrong)?;
    cache.put_index(&key, &index);
    Ok(index)
}
