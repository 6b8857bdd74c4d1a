use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use image::{Budget, EntryKind, LayerReader};
use packager::{Build, Layout};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::situation::Bench;

/// What a builder makes of a situation.
pub enum Outcome {
    Image { config: Map<String, Value>, tree: BTreeMap<String, File>, notes: Vec<String> },
    Refused(String),
}

/// What is at a path. Names and content are hexadecimal.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct File {
    kind: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(default)]
    target: String,
    #[serde(default)]
    content: String,
}

/// What BuildKit's program writes.
#[derive(Deserialize)]
pub struct Raw {
    #[serde(default)]
    error: String,
    config: Option<Map<String, Value>>,
    #[serde(default)]
    author: String,
    #[serde(default)]
    tree: Vec<RawFile>,
}

#[derive(Deserialize)]
struct RawFile {
    path: String,
    #[serde(flatten)]
    file: File,
}

impl From<Raw> for Outcome {
    fn from(raw: Raw) -> Self {
        let Some(config) = raw.config else { return Self::Refused(raw.error) };
        let tree = raw.tree.into_iter().map(|entry| (entry.path, entry.file)).collect();
        Self::Image { config: normal(config, raw.author), tree, notes: Vec::new() }
    }
}

/// Without what says nothing.
fn normal(mut config: Map<String, Value>, author: String) -> Map<String, Value> {
    config.remove("ArgsEscaped");
    if !author.is_empty() {
        config.insert("Author".to_owned(), author.into());
    }
    let is_empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) => false,
    };
    config.retain(|_, value| !is_empty(value));
    config
}

/// Builds `bench` with this crate.
pub fn built_here(bench: &Bench) -> Outcome {
    let layout = Layout::open(bench.dir.path().join("images")).unwrap();
    let context = bench.context();
    for (name, file) in &bench.bases {
        let mut build = Build::of(&context, &layout);
        build.file = Some(file);
        build.tags = vec![name.parse().unwrap()];
        if let Err(error) = packager::build(&build) {
            return Outcome::Refused(format!("base {name}: {}", said(&error)));
        }
    }
    let mut build = Build::of(&context, &layout);
    build.file = Some(&bench.dockerfile);
    build.args.clone_from(&bench.args);
    build.target = bench.target.as_deref();
    build.tags = vec!["differential".parse().unwrap()];
    let built = match packager::build(&build) {
        Ok(built) => built,
        Err(error) => return Outcome::Refused(said(&error)),
    };
    let mut tree = BTreeMap::new();
    for layer in &built.layers {
        let blob = layout.open_blob(&layer.digest).unwrap();
        put_layer(LayerReader::new(blob, Budget::default()).unwrap(), &mut tree);
    }
    let (manifest, _) = layout.manifests(&built.descriptor).unwrap().remove(0);
    let bytes = layout.read_blob(&manifest, 16 << 20).unwrap();
    let manifest: spec::Manifest = serde_json::from_slice(&bytes).unwrap();
    let bytes = layout.read_blob(&manifest.config.unwrap(), 16 << 20).unwrap();
    let config: spec::ImageConfig = serde_json::from_slice(&bytes).unwrap();
    let author = config.author.unwrap_or_default();
    let Ok(Value::Object(config)) = serde_json::to_value(config.config) else {
        panic!("the config is an object")
    };
    let notes = built.warnings.iter().map(ToString::to_string).collect();
    Outcome::Image { config: normal(config, author), tree, notes }
}

fn put_layer<R: std::io::Read>(mut reader: LayerReader<R>, tree: &mut BTreeMap<String, File>) {
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = hex(&entry.path);
        let mut file = File {
            kind: "file".to_owned(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            target: String::new(),
            content: String::new(),
        };
        match entry.kind {
            EntryKind::Directory => "dir".clone_into(&mut file.kind),
            EntryKind::File => file.content = hex(&reader.read_content(1 << 20).unwrap()),
            EntryKind::Symlink { target } => {
                "link".clone_into(&mut file.kind);
                file.target = hex(&target);
            }
            EntryKind::Hardlink { target } => file = tree[&hex(&target)].clone(),
            _ => panic!("a build writes files, folders and links"),
        }
        if file.kind != "dir" {
            let below = format!("{path}2f");
            tree.retain(|other, _| !other.starts_with(&below));
        }
        tree.insert(path, file);
    }
}

fn said(error: &packager::Error) -> String {
    let (mut text, mut source) = (error.to_string(), std::error::Error::source(error));
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(hex: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes.escape_ascii().to_string()
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, mode, uid, gid, target, content } = self;
        write!(f, "{kind} {mode:04o} {uid}:{gid} {}{}", shown(target), shown(content))
    }
}

/// A line for each difference of two images.
pub fn differences(ours: &Outcome, theirs: &Outcome, without: &[String]) -> String {
    let (
        Outcome::Image { config: a, tree: our_tree, .. },
        Outcome::Image { config: b, tree: their_tree, .. },
    ) = (ours, theirs)
    else {
        return "not two images".to_owned();
    };
    let mut lines = Vec::new();
    for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        if a.get(key) != b.get(key) {
            let text = |value: Option<&Value>| value.map_or("-".to_owned(), ToString::to_string);
            lines.push(format!("{key}: here {}, BuildKit {}", text(a.get(key)), text(b.get(key))));
        }
    }
    for path in our_tree.keys().chain(their_tree.keys()).collect::<BTreeSet<_>>() {
        let (our, their) = (our_tree.get(path), their_tree.get(path));
        let name = shown(path);
        if our != their && !(our.is_none() && without.contains(&name)) {
            let text = |file: Option<&File>| file.map_or("-".to_owned(), ToString::to_string);
            lines.push(format!("{name}: here {}, BuildKit {}", text(our), text(their)));
        }
    }
    lines.join("\n")
}
