use std::collections::BTreeMap;

use blobs::DOCUMENT_BYTES_MAX;
use image::WasmFacts;
use serde::Serialize;
use spec::{
    Descriptor, Digest, ImageConfig, Manifest, MediaType, Platform, RootFs, Timestamp, Want,
};

use crate::{
    cache::{Cache, RACE_NS},
    diagnostic::{Place, Warning, WarningKind},
    error::Error,
    history::{ConfigWithHistory, HistoryEntry},
    items::{Item, Items, Meta, Source},
    layer::spool::Spool,
    layer::tarball::{Written, write_layer},
    layout::{Layout, index_over},
    program::{self, Program, StageProgram},
    stage::{NewLayer, Stage},
};

/// Where and how images are written in one build.
pub(crate) struct Assembly<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) cache: &'a Cache,
    /// Seconds since 1970 that every file and config gets.
    pub(crate) source_date: u64,
    /// The clock, to tell files that may still change from those that are settled.
    pub(crate) now_ns: i128,
}

/// A layer of an image that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltLayer {
    pub digest: Digest,
    pub size: u64,
    /// Whether it existed before this build.
    pub reused: bool,
    /// The instruction or key of the build file that made it, or the base image.
    pub created_by: String,
}

/// One image, written, and not yet named.
pub(crate) struct Assembled {
    pub(crate) manifest: Descriptor,
    pub(crate) platform: Platform,
    pub(crate) layers: Vec<BuiltLayer>,
    pub(crate) wants: Vec<Want>,
    pub(crate) facts: Option<WasmFacts>,
    /// What the author should know of its program.
    pub(crate) note: Option<Warning>,
}

impl Assembly<'_> {
    /// Writes `stage` as an image of tar layers. Where no program says what it is for, `wanted`
    /// does.
    pub(crate) fn image(
        &self,
        mut stage: Stage,
        wanted: Option<&Platform>,
        spool: &mut Spool<'_>,
    ) -> Result<Assembled, Error> {
        let found = program::find(&stage, spool, self.cache, self.now_ns)?;
        let note = note(&found, stage.program_place);
        let platform = match &found {
            Program::Found(found) => found.platform.clone(),
            Program::Later { .. } | Program::Unnamed => {
                without_program(&found, &stage, wanted, spool)?
            }
        };
        let found = match found {
            Program::Found(found) => Some(found),
            Program::Later { .. } | Program::Unnamed => None,
        };
        if let Some(found) = &found {
            split_program(&mut stage.layers, found);
        }
        let mut layers: Vec<_> =
            stage.base.layers.iter().map(|layer| built(&layer.descriptor, true, "base")).collect();
        let mut descriptors: Vec<_> =
            stage.base.layers.iter().map(|layer| plain(&layer.descriptor)).collect();
        let mut diff_ids: Vec<_> = stage.base.layers.iter().map(|layer| layer.diff_id).collect();
        for layer in stage.layers.iter().filter(|layer| !layer.items.is_empty()) {
            let (written, reused) = self.layer(&layer.items, spool)?;
            let descriptor = described(MediaType::OCI_LAYER_GZIP, written.digest, written.size);
            layers.push(built(&descriptor, reused, &layer.created_by));
            descriptors.push(descriptor);
            diff_ids.push(written.diff_id);
        }
        let created = self.created();
        let mut history = stage.base.history;
        let new_layers = layers.iter().skip(stage.base.layers.len());
        history.extend(new_layers.map(|layer| HistoryEntry::of(&created, &layer.created_by)));
        let config = ImageConfig {
            created: Some(created),
            author: stage.author,
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
            config: Some(stage.config),
        };
        let labels = config.config.as_ref().and_then(|config| config.labels.as_ref());
        let wants = labels
            .and_then(|labels| labels.get(image::WANTS_KEY))
            .map(|text| image::parse_wants(text));
        let wants = wants.transpose().map_err(Error::Program)?.unwrap_or_default();
        let config = ConfigWithHistory { config, history };
        let manifest =
            self.manifest(MediaType::OCI_CONFIG, &config, descriptors, BTreeMap::new())?;
        Ok(Assembled {
            manifest,
            platform,
            layers,
            wants,
            facts: found.and_then(|found| found.facts),
            note,
        })
    }

    /// Writes one program as a CNCF Wasm artifact: one layer that is the program.
    ///
    /// # Spec
    /// CNCF TAG Runtime, "Wasm OCI Artifact", v0.
    pub(crate) fn artifact(
        &self,
        what: &str,
        source: &Source,
        (wants, reuse): (&[Want], Option<u32>),
        spool: &mut Spool<'_>,
    ) -> Result<Assembled, Error> {
        let facts = program::facts(what, source, spool, self.cache, self.now_ns)?;
        let (written, reused) = self.raw_layer(source, spool)?;
        let layer = described(MediaType::WASM, written.digest, written.size);
        let config = WasmConfig {
            created: self.created(),
            architecture: "wasm",
            os: if facts.component { "wasip2" } else { "wasip1" },
            layer_digests: [written.digest],
            component: facts
                .component
                .then(|| Component { exports: &facts.exports, imports: &facts.imports }),
        };
        let mut annotations = BTreeMap::new();
        if !wants.is_empty() {
            annotations.insert(image::WANTS_KEY.to_owned(), image::wants_text(wants));
        }
        if let Some(requests) = reuse {
            annotations.insert(image::REUSE_KEY.to_owned(), requests.to_string());
        }
        let manifest =
            self.manifest(MediaType::WASM_CONFIG, &config, vec![layer.clone()], annotations)?;
        Ok(Assembled {
            manifest,
            platform: program::wasm_platform(),
            layers: vec![built(&layer, reused, what.trim_matches('`'))],
            wants: wants.to_vec(),
            facts: Some(facts),
            note: None,
        })
    }

    /// Writes an index over images for several platforms, in the order given.
    pub(crate) fn index(&self, images: &[Assembled]) -> Result<Descriptor, Error> {
        let manifests = images.iter().map(|image| {
            let platform = Some(image.platform.clone());
            Descriptor { platform, ..image.manifest.clone() }
        });
        self.document(MediaType::OCI_INDEX, &index_over(manifests.collect()))
    }

    fn manifest(
        &self,
        config_type: &'static str,
        config: &impl Serialize,
        layers: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor, Error> {
        let config = self.document(config_type, config)?;
        let manifest = Manifest { annotations, ..manifest_over(config, layers) };
        self.document(MediaType::OCI_MANIFEST, &manifest)
    }

    fn document(
        &self,
        media_type: &'static str,
        value: &impl Serialize,
    ) -> Result<Descriptor, Error> {
        let bytes = serde_json::to_vec(value).expect("the documents have string keys only");
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            let why = format!(
                "its variables, labels and other settings have {} bytes, and at most \
                 {DOCUMENT_BYTES_MAX} can be read again",
                bytes.len()
            );
            return Err(Error::Program(image::Error::Budget { why }));
        }
        self.layout.write_blob(&bytes)?;
        Ok(Descriptor::of(media_type, &bytes))
    }

    fn layer(&self, items: &Items, spool: &mut Spool<'_>) -> Result<(Written, bool), Error> {
        let key = self.cache.key("layer", |hasher| {
            hasher.update(format!("{}\n", self.source_date).as_bytes());
            items.hash_into(hasher);
        });
        self.cached(&key, items.newest_change_ns(), || {
            write_layer(self.layout.store(), items, self.source_date, spool)
        })
    }

    fn raw_layer(&self, source: &Source, spool: &mut Spool<'_>) -> Result<(Written, bool), Error> {
        let key = self.cache.key("raw", |hasher| hasher.update(source.identity().as_bytes()));
        let mut items = Items::default();
        items.put("program", Item::File { meta: Meta::of(0), source: source.clone() }, &|_| None);
        self.cached(&key, items.newest_change_ns(), || {
            let mut blob = self.layout.blob_writer(spec::Algorithm::Sha256)?;
            let failed = crate::error::io_error("write", self.layout.dir());
            std::io::copy(&mut spool.open(source)?, &mut blob).map_err(failed)?;
            let (digest, size) = blob.commit()?;
            Ok(Written { digest, size, diff_id: digest })
        })
    }

    fn cached(
        &self,
        key: &str,
        newest_change_ns: Option<i128>,
        write: impl FnOnce() -> Result<Written, Error>,
    ) -> Result<(Written, bool), Error> {
        if let Some(written) = self.cache.layer(key) {
            return Ok((written, true));
        }
        let written = write()?;
        if newest_change_ns.is_none_or(|change| change + RACE_NS < self.now_ns) {
            self.cache.put_layer(key, &written);
        }
        Ok((written, false))
    }

    fn created(&self) -> String {
        Timestamp::from_millis(self.source_date.saturating_mul(1000))
            .to_string()
            .replace(".000Z", "Z")
    }
}

fn note(found: &Program, place: Option<Place>) -> Option<Warning> {
    match found {
        Program::Found(_) => None,
        Program::Unnamed => Some(WarningKind::NoProgram.into()),
        Program::Later { name, needed_by } => {
            let name = name.clone();
            let kind = match needed_by {
                Some(instruction) => WarningKind::NoShell { instruction, name },
                None => WarningKind::NoProgramYet(name),
            };
            Some(Warning { place, kind })
        }
    }
}

/// What an image is for that has no program: what its base is for, or what the name or the other
/// executables say.
fn without_program(
    found: &Program,
    stage: &Stage,
    wanted: Option<&Platform>,
    spool: &mut Spool<'_>,
) -> Result<Platform, Error> {
    if let Some(known) = stage.base.platform.as_ref().or(wanted) {
        return Ok(known.clone());
    }
    let known = match found {
        Program::Later { name, .. } if !name.ends_with(".wasm") => {
            program::host_platforms().into_iter().next()
        }
        Program::Unnamed => program::platform_of_executables(stage, spool)?,
        Program::Later { .. } | Program::Found(_) => None,
    };
    Ok(known.unwrap_or_else(program::wasm_platform))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig<'a> {
    created: String,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [Digest; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Component<'a>>,
}

#[derive(Serialize)]
struct Component<'a> {
    exports: &'a [String],
    imports: &'a [String],
}

fn built(layer: &Descriptor, reused: bool, created_by: &str) -> BuiltLayer {
    BuiltLayer { digest: layer.digest, size: layer.size, reused, created_by: created_by.to_owned() }
}

/// A base's layer as this manifest names it: whatever else was noted about it belongs to the base.
fn plain(layer: &Descriptor) -> Descriptor {
    Descriptor {
        annotations: BTreeMap::new(),
        platform: None,
        artifact_type: None,
        // A Docker layer is byte for byte an OCI one, and one manifest should not mix the two.
        media_type: match layer.media_type.as_str() {
            MediaType::DOCKER_LAYER_GZIP => MediaType::OCI_LAYER_GZIP.into(),
            _ => layer.media_type.clone(),
        },
        ..layer.clone()
    }
}

/// The manifest of an image of `layers`.
pub(crate) fn manifest_over(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.into()),
        artifact_type: None,
        config: Some(config),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    }
}

pub(crate) fn described(media_type: &'static str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { digest, size, ..Descriptor::of(media_type, b"") }
}

/// Gives the program a layer of its own, so that the same files travel once under many versions of
/// it, and the same program once under many sets of files.
fn split_program(layers: &mut Vec<NewLayer>, program: &StageProgram) {
    let holds_it = |layer: &NewLayer| layer.items.0.contains_key(&program.path);
    let Some(at) = layers.iter().rposition(holds_it) else { return };
    let NewLayer { items, created_by } = &mut layers[at];
    if items.files().count() < 2 {
        return;
    }
    let Some(item) = items.0.remove(&program.path) else { return };
    let folder = |parent: &str| match items.0.get(parent) {
        Some(Item::Folder { meta }) => Some(*meta),
        Some(Item::File { .. } | Item::Symlink { .. }) | None => None,
    };
    let mut own = Items::default();
    own.put(&program.path, item, &folder);
    let created_by = created_by.clone();
    layers.insert(at, NewLayer { items: own, created_by });
}
