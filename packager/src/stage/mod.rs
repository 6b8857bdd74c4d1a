mod layer_builder; // a layer on top of a stage
mod tree; // the merged layers of a stage

use std::{rc::Rc, sync::Arc};

use image::{
    FileIndex, FileIndexBuilder, FileNode, Format, LayerContent, Node, Plan, PlannedLayer, Program,
};
use spec::{Descriptor, Digest, ExecutionConfig, Reference};

use crate::{
    cache::Cache,
    diagnostic::DiagnosticKind,
    error::{Error, unusable},
    items::{Item, Items, MODE_EXECUTABLE, Origin, Source},
    layout::Layout,
    limits::{LAYERS_MAX, LINKS_MAX},
    path::parts,
};

pub(crate) use layer_builder::{ExistingFolder, LayerBuilder, single_item};
pub(crate) use tree::MergedTree;

/// An image in the making: what is below, what was added, and how to run it.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) base: Base,
    /// Upper layers last.
    pub(crate) layers: Vec<NewLayer>,
    pub(crate) config: ExecutionConfig,
    pub(crate) shell_form: ShellForm,
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
pub(crate) struct NewLayer {
    pub(crate) items: Items,
    /// The instruction or the key of the build file.
    pub(crate) created_by: String,
}

/// What is at a path of a stage, links not followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StageEntry<'a> {
    Folder { mode: u32 },
    New(&'a Source),
    Base(FileNode),
    Symlink(&'a str),
}

impl<'a> StageEntry<'a> {
    pub(crate) fn of(item: &'a Item) -> Self {
        match item {
            Item::Folder { mode } => StageEntry::Folder { mode: *mode },
            Item::File { source, .. } => StageEntry::New(source),
            Item::Symlink { target } => StageEntry::Symlink(target),
        }
    }
}

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
            layers: Vec::new(),
            config: ExecutionConfig::default(),
            shell_form: ShellForm::default(),
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
        }
        let id = self.base.index.lookup_link(path).ok()?;
        Some(match self.base.index.node(id) {
            Node::Directory { mode, .. } => StageEntry::Folder { mode },
            Node::File(file) => StageEntry::Base(file),
            Node::Symlink { target } => StageEntry::Symlink(target),
        })
    }

    /// The path, relative and normal, that `path` leads to through the links of this stage; what
    /// does not exist yet is taken as written. `..` stops at the root.
    pub(crate) fn resolve(&self, path: &str) -> Result<String, DiagnosticKind> {
        resolve(path, &|path| self.at(path))
    }

    pub(crate) fn folder_mode(&self, path: &str) -> Option<u32> {
        match self.at(path) {
            Some(StageEntry::Folder { mode }) => Some(mode),
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
        if let Some(StageEntry::Symlink(target)) = at(&here.join("/")) {
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
fn index_of(layout: &Layout, cache: &Cache, plan: &Plan) -> Result<FileIndex, Error> {
    let key = cache.index_key(plan.layers.iter().map(|layer| &layer.descriptor));
    if let Some(index) =
        cache.index(&key).filter(|index| index.layers() as usize == plan.layers.len())
    {
        return Ok(index);
    }
    let wrong = unusable(&plan.manifest);
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
