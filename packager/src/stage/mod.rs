mod layer_builder; // a layer on top of a stage
mod tree; // the merged layers of a stage

use std::{io::Read, rc::Rc, sync::Arc};

use image::{
    Budget, FileIndex, FileIndexBuilder, FileNode, Format, LayerContent, LayerReader, Node, Plan,
    PlannedLayer, Program, Verified,
};
use spec::{Descriptor, Digest, ExecutionConfig, Reference};

use crate::{
    attributes::Attributes,
    cache::Cache,
    diagnostic::{DiagnosticKind, Place},
    error::{Error, unusable},
    history::{self, HistoryEntry},
    items::{Item, Items, MODE_EXECUTABLE, Meta, Origin, Owner, Source},
    layout::Layout,
    limits::{LAYERS_MAX, LINKS_MAX},
    path::{ancestors, parts},
};

pub(crate) use layer_builder::LayerBuilder;
pub(crate) use tree::MergedTree;

/// An image in the making: what is below, what was added, and how to run it.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) base: Base,
    /// Upper layers last.
    pub(crate) layers: Vec<NewLayer>,
    pub(crate) config: ExecutionConfig,
    /// MAINTAINER
    pub(crate) author: Option<String>,
    pub(crate) shell_form: ShellForm,
    /// Where ENTRYPOINT stands, or CMD without one.
    pub(crate) program_place: Option<Place>,
}

/// Which of the two were written in shell form.
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
    /// How they were made.
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) index: Rc<FileIndex>,
    pub(crate) attributes: Rc<Attributes>,
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
pub(crate) struct NewLayer {
    pub(crate) items: Items,
    /// The instruction or the key of the build file.
    pub(crate) created_by: String,
}

/// What is at a path of a stage, links not followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StageEntry<'a> {
    Folder(Meta),
    New(Meta, &'a Source),
    Base(Meta, FileNode),
    Symlink(Owner, &'a str),
}

impl<'a> StageEntry<'a> {
    pub(crate) fn of(item: &'a Item) -> Self {
        match item {
            Item::Folder { meta } => StageEntry::Folder(*meta),
            Item::File { meta, source } => StageEntry::New(*meta, source),
            Item::Symlink { target, owner } => StageEntry::Symlink(*owner, target),
        }
    }

    fn is_folder(&self) -> bool {
        matches!(self, StageEntry::Folder(_))
    }
}

impl Base {
    pub(crate) fn scratch() -> Self {
        let empty = FileIndexBuilder::new().finish().expect("nothing fits in any budget");
        Self {
            layers: Vec::new(),
            history: Vec::new(),
            index: Rc::new(empty),
            attributes: Rc::default(),
            platform: None,
            args: Vec::new(),
        }
    }

    /// Where the bytes of a file in these layers come from.
    pub(crate) fn source(&self, file: FileNode) -> Source {
        let blob = Arc::new(self.layers[file.layer as usize].descriptor.clone());
        Source::Part { origin: Origin::Layer(blob), offset: file.offset, len: file.len }
    }

    fn at(&self, path: &str) -> Option<StageEntry<'_>> {
        let id = self.index.lookup_link(path).ok()?;
        // Not what a link on the way leads to.
        if self.index.path(id) != path {
            return None;
        }
        let meta = |mode| self.attributes.of(path, mode);
        Some(match self.index.node(id) {
            Node::Directory { mode, .. } => StageEntry::Folder(meta(mode)),
            Node::File(file) => StageEntry::Base(meta(file.mode), file),
            Node::Symlink { target } => StageEntry::Symlink(meta(0o777).owner, target),
        })
    }
}

impl Stage {
    pub(crate) fn scratch() -> Self {
        Self {
            base: Base::scratch(),
            layers: Vec::new(),
            config: ExecutionConfig::default(),
            author: None,
            shell_form: ShellForm::default(),
            program_place: None,
        }
    }

    /// On top of a local image. A program without a root filesystem becomes one file in one.
    pub(crate) fn from_image(
        layout: &Layout,
        cache: &Cache,
        image: &Reference,
        (manifest, plan): (&Descriptor, &Plan),
    ) -> Result<Self, Error> {
        let mut stage = Self::scratch();
        stage.config = plan.execution().clone();
        stage.author.clone_from(&plan.config.author);
        if plan.format == Format::Image {
            let layers = plan
                .layers
                .iter()
                .map(|layer| base_layer(layout, layer))
                .collect::<Result<Vec<_>, _>>()?;
            let (index, attributes) = merged(layout, cache, plan)?;
            let (index, attributes) = (Rc::new(index), Rc::new(attributes));
            let (platform, args) = (Some(plan.platform.clone()), plan.args.clone());
            let history = history::of_base(layout, manifest, layers.len())?;
            stage.base = Base { layers, history, index, attributes, platform, args };
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
        items.put(&path, Item::File { meta: Meta::of(MODE_EXECUTABLE), source }, &|_| None);
        stage.layers.push(NewLayer { items, created_by: format!("FROM {image}") });
        stage.config.entrypoint = Some(vec![format!("/{path}")]);
        Ok(stage)
    }

    /// Adds a layer, unless an image of so many could not be read again. One is left for the
    /// program, which gets a layer of its own.
    pub(crate) fn push(&mut self, layer: NewLayer) -> Result<(), DiagnosticKind> {
        self.layers.push(layer);
        match self.base.layers.len() + self.layers.len() >= LAYERS_MAX {
            true => Err(DiagnosticKind::TooManyLayers),
            false => Ok(()),
        }
    }

    /// Sets a variable in the place where its name stood first, as Docker does. The number of
    /// variables that there are now.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) -> usize {
        let lines = self.config.env.get_or_insert_default();
        let line = format!("{name}={value}");
        match lines.iter_mut().find(|old| old.split('=').next() == Some(name)) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
        lines.len()
    }

    /// `PORT/PROTOCOL`, as the config writes it.
    pub(crate) fn expose(&mut self, port: String) {
        self.config.exposed_ports.get_or_insert_default().insert(port, empty_object());
    }

    pub(crate) fn add_volume(&mut self, path: String) {
        self.config.volumes.get_or_insert_default().insert(path, empty_object());
    }

    /// `path`, which is relative to WORKDIR unless it begins with `/`.
    pub(crate) fn absolute(&self, path: &str) -> String {
        match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.config.working_dir.as_deref().unwrap_or("/")),
        }
    }

    /// What is at `path` (normal, relative), links not followed, upper layers first.
    pub(crate) fn at(&self, path: &str) -> Option<StageEntry<'_>> {
        for layer in self.layers.iter().rev() {
            if let Some(item) = layer.items.0.get(path) {
                return Some(StageEntry::of(item));
            }
            let is_hidden =
                |folder| matches!(layer.items.0.get(folder), Some(item) if !item.is_folder());
            if ancestors(path).any(is_hidden) {
                return None;
            }
        }
        self.base.at(path)
    }

    /// The same as an item of a new layer.
    pub(crate) fn item(&self, entry: StageEntry<'_>) -> Item {
        match entry {
            StageEntry::Folder(meta) => Item::Folder { meta },
            StageEntry::New(meta, source) => Item::File { meta, source: source.clone() },
            StageEntry::Base(meta, file) => Item::File { meta, source: self.base.source(file) },
            StageEntry::Symlink(owner, target) => {
                Item::Symlink { target: target.to_owned(), owner }
            }
        }
    }

    /// The path, relative and normal, that `path` leads to through the links of this stage; what
    /// does not exist yet is taken as written. `..` stops at the root.
    pub(crate) fn resolve(&self, path: &str) -> Result<String, DiagnosticKind> {
        resolve(path, &|path| self.at(path))
    }

    pub(crate) fn folder_meta(&self, path: &str) -> Option<Meta> {
        match self.at(path) {
            Some(StageEntry::Folder(meta)) => Some(meta),
            _ => None,
        }
    }
}

/// Like [`Stage::resolve`], where `at` says what is at a path.
pub(crate) fn resolve<'a>(
    path: &str,
    at: &dyn Fn(&str) -> Option<StageEntry<'a>>,
) -> Result<String, DiagnosticKind> {
    let mut here: Vec<String> = Vec::new();
    let split = |text: &str| -> Vec<String> { parts(text).rev().map(str::to_owned).collect() };
    let (mut ahead, mut links) = (split(path), 0);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        here.push(part);
        if let Some(StageEntry::Symlink(_, target)) = at(&here.join("/")) {
            links += 1;
            if links > LINKS_MAX {
                return Err(DiagnosticKind::TooManyLinks(path.to_owned()));
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

fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
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

/// The merged layers of an image, from the cache or read now.
fn merged(layout: &Layout, cache: &Cache, plan: &Plan) -> Result<(FileIndex, Attributes), Error> {
    let layers = || plan.layers.iter().map(|layer| &layer.descriptor);
    let (key, attributes_key) = (cache.index_key(layers()), cache.attributes_key(layers()));
    let known = cache.index(&key).filter(|index| index.layers() as usize == plan.layers.len());
    if let (Some(index), Some(attributes)) = (known, cache.attributes(&attributes_key)) {
        return Ok((index, attributes));
    }
    let wrong = unusable(&plan.manifest);
    let (mut builder, mut attributes) = (FileIndexBuilder::new(), Attributes::default());
    for layer in &plan.layers {
        let blob = layout.open_blob(&layer.descriptor.digest)?;
        read_layer(layer, blob, &mut builder, &mut attributes).map_err(&wrong)?;
    }
    let index = builder.finish().map_err(wrong)?;
    cache.put_index(&key, &index);
    cache.put_attributes(&attributes_key, &attributes);
    Ok((index, attributes))
}

fn read_layer(
    layer: &PlannedLayer,
    blob: impl Read,
    builder: &mut FileIndexBuilder,
    attributes: &mut Attributes,
) -> Result<(), image::Error> {
    let mut reader = LayerReader::new(Verified::new(blob, &layer.descriptor), Budget::default())?;
    while let Some(entry) = reader.next_entry()? {
        builder.add(&entry)?;
        attributes.note(&entry);
    }
    builder.end_layer()?;
    let found = reader.finish()?.diff_id;
    match layer.diff_id {
        Some(expected) if expected != found && expected.algorithm() == found.algorithm() => {
            let what = format!("layer `{}`, uncompressed,", layer.descriptor.digest.short());
            Err(image::Error::WrongDigest { what, expected, found })
        }
        _ => Ok(()),
    }
}
