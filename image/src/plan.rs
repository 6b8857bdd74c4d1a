mod reuse; // whether an instance answers more than one request
mod spin; // Spin's locked application, as far as it says what to run

use std::io::{self, Read, Write};

use serde::Deserialize;
use serde::de::IgnoredAny;
use spec::{
    Descriptor, Digest, ExecutionConfig, ImageConfig, Index, Manifest, MediaType, Platform, Port,
    Want,
};

pub use reuse::{REUSE_KEY, parse_reuse};

use crate::{
    budget::Budget,
    error::Error,
    index::FileNode,
    kind::Kind,
    layer::{LayerReader, LayerSummary},
    limits::{DOCUMENT_BYTES_MAX, LAYERS_MAX, WANTS_MAX},
    merge::FileIndexBuilder,
    sniff::{Sniffed, sniff},
    verify::{Verified, read_verified, unwrapped},
};

/// The label, or the annotation where there are no labels, that holds an image's wants: one
/// canonical line each.
pub const WANTS_KEY: &str = "margay.wants";

/// Manifest bytes, parsed: which of the two they are is decided by what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub enum Document {
    /// Several images under one name.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// The format of an image, which decides how it names its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// An image of tar layers: native, or Wasm with its program in a layer (margay's, Docker's
    /// `wasi/wasm`, crun's).
    Image,
    /// CNCF Wasm OCI artifact: one layer that is the program.
    CncfArtifact,
    /// An image with a layer that is the program, as runwasi writes.
    Runwasi,
    /// A Spin application.
    Spin,
    /// wasm-to-oci, Krustlet.
    WasmToOci,
    /// Solo.io's wasme, wasmCloud before 1.0.
    Solo,
}

/// The layers and the program of an image of any format. The layers are not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The name of the manifest that it was read from.
    pub manifest: Digest,
    /// The format that it was read from.
    pub format: Format,
    /// The machine that it is for, by its config.
    pub platform: Platform,
    /// Its config; the empty one for artifacts that have none.
    pub config: ImageConfig,
    /// All layers, lowest first. [`FileNode::layer`] counts in this list.
    pub layers: Vec<PlannedLayer>,
    /// Where its program is.
    pub program: Program,
    /// The arguments: ENTRYPOINT and CMD. The first is the program's name as it sees it.
    pub args: Vec<String>,
    /// The capabilities that it wants.
    pub wants: Vec<Want>,
    /// How many requests one instance may answer, one after another, by the wish of its author.
    pub reuse: Option<u32>,
}

/// One layer of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed tar, where the config says it.
    pub diff_id: Option<Digest>,
    /// What is in it, by what the manifest says.
    pub content: LayerContent,
}

/// The content of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerContent {
    /// Files in a tar, compressed or not.
    Tar,
    /// The program itself.
    Wasm,
    /// One file, which appears at these paths.
    File {
        /// Absolute paths in the image.
        paths: Vec<String>,
    },
    /// Something that has been read already, or that running does not need.
    Ignored,
}

/// Where the program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// It is the layer with this number.
    Layer(usize),
    /// It is a file in the merged layers, by the name that ENTRYPOINT or CMD gives it.
    File {
        /// Absolute, relative to WORKDIR, or to be found in PATH.
        name: String,
    },
}

/// Tells an index from a manifest, by what is in it.
///
/// # Errors
/// [`Error::Malformed`], also when it could be taken for both, and [`Error::Budget`] above 4 MiB.
pub fn parse_document(bytes: &[u8]) -> Result<Document, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: Option<u32>,
        media_type: Option<MediaType>,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
        #[serde(rename = "fsLayers")]
        fs_layers: Option<IgnoredAny>,
    }
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::Budget {
            why: format!("its manifest has {} bytes, at most 4 MiB", bytes.len()),
        });
    }
    let wrong = |why: &str| Error::malformed("manifest", why);
    let shape: Shape = parse_json("manifest", bytes)?;
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        return Err(wrong("it is of Docker's schema 1, which was given up in 2017"));
    }
    if shape.schema_version != Some(2) {
        return Err(wrong("its `schemaVersion` is not 2"));
    }
    let said_index = shape.media_type.as_ref().map(MediaType::is_index);
    match (shape.manifests.is_some(), shape.layers.is_some() || shape.config.is_some()) {
        (true, true) => Err(wrong("it has both `manifests` and `layers`")),
        (false, false) => Err(wrong("it has neither `manifests` nor `layers`")),
        (true, false) if said_index == Some(false) => {
            Err(wrong("its `mediaType` is not that of an index"))
        }
        (false, true) if said_index == Some(true) => {
            Err(wrong("its `mediaType` is that of an index"))
        }
        (true, false) => parse_json("index", bytes).map(Document::Index),
        (false, true) => parse_json("manifest", bytes).map(Document::Manifest),
    }
}

fn parse_json<'a, T: Deserialize<'a>>(document: &'static str, bytes: &'a [u8]) -> Result<T, Error> {
    spec::json::from_slice(bytes).map_err(|error| Error::malformed(document, error.to_string()))
}

/// The entry of `index` to run: Wasm first, then whatever of `native` comes first, best platform
/// first.
///
/// # Errors
/// [`Error::NoPlatform`] lists what there was.
pub fn choose<'a>(index: &'a Index, native: &[Platform]) -> Result<&'a Descriptor, Error> {
    let images = || index.manifests.iter().filter(|entry| !is_attestation(entry));
    if let Some(wasm) = images().find(|entry| entry.platform.as_ref().is_some_and(is_wasm)) {
        return Ok(wasm);
    }
    for wanted in native {
        if let Some(found) =
            images().find(|entry| entry.platform.as_ref().is_some_and(|p| runs_on(p, wanted)))
        {
            return Ok(found);
        }
    }
    match images().collect::<Vec<_>>().as_slice() {
        // One image that says nothing about its platform: its config will.
        [only] if only.platform.is_none() => Ok(only),
        all => {
            let name = |entry: &&Descriptor| {
                entry
                    .platform
                    .as_ref()
                    .map_or("an unnamed platform".to_owned(), Platform::to_string)
            };
            let offered = match all {
                [] => vec!["nothing".to_owned()],
                _ => all.iter().map(name).collect(),
            };
            let native: Vec<_> = native.iter().map(Platform::to_string).collect();
            let wanted = [&["wasi/wasm".to_owned()][..], &native].concat().join(" or ");
            Err(Error::NoPlatform { wanted, offered })
        }
    }
}

/// The entry of `index` for `wanted`, and no other.
///
/// # Errors
/// [`Error::NoPlatform`] lists what there was.
pub fn choose_platform<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, Error> {
    let images = || index.manifests.iter().filter(|entry| !is_attestation(entry));
    let is_for = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| is_same(p, wanted));
    images().find(is_for).ok_or_else(|| {
        let names = images().filter_map(|entry| Some(entry.platform.as_ref()?.to_string()));
        Error::NoPlatform { wanted: wanted.to_string(), offered: names.collect() }
    })
}

/// Whether an image for `offered` is what was asked for as `wanted`.
pub fn is_same(offered: &Platform, wanted: &Platform) -> bool {
    (is_wasm(offered) && is_wasm(wanted)) || runs_on(offered, wanted)
}

fn is_wasm(platform: &Platform) -> bool {
    ["wasm", "wasm32"].iter().any(|name| platform.architecture.eq_ignore_ascii_case(name))
}

fn runs_on(offered: &Platform, wanted: &Platform) -> bool {
    offered.os.eq_ignore_ascii_case(&wanted.os)
        && offered.architecture.eq_ignore_ascii_case(&wanted.architecture)
        && (wanted.variant.is_none()
            || offered.variant.is_none()
            || offered.variant == wanted.variant)
}

/// BuildKit puts its provenance beside the images, under the platform `unknown/unknown`.
fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.contains_key("vnd.docker.reference.type")
        || entry.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
}

/// What the image with these manifest bytes is made of. `read` gives the bytes of small blobs (its
/// config), which are checked here.
///
/// # Errors
/// [`Error::Malformed`] for documents that say nothing clear, [`Error::Unsupported`] for what this
/// version cannot run.
pub fn plan(
    manifest: &[u8],
    mut read: impl FnMut(&Descriptor) -> io::Result<Vec<u8>>,
) -> Result<Plan, Error> {
    let digest = Digest::of(manifest);
    let manifest = match parse_document(manifest)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => {
            return Err(Error::malformed("manifest", "it is an index: choose one of its entries"));
        }
    };
    if manifest.layers.len() > LAYERS_MAX {
        let why = format!("it has {} layers, at most {LAYERS_MAX}", manifest.layers.len());
        return Err(Error::Budget { why });
    }
    let config = manifest
        .config
        .as_ref()
        .ok_or_else(|| Error::malformed("manifest", "it has no `config`"))?;
    let mut small = |descriptor: &Descriptor| -> Result<Vec<u8>, Error> {
        let what = || format!("blob `{}`", descriptor.digest);
        let bytes = read(descriptor).map_err(|source| unwrapped(source, what))?;
        read_verified(bytes.as_slice(), descriptor, DOCUMENT_BYTES_MAX)
    };
    let format = format_of(&manifest, config);
    // `spin registry push` first wrote the application as the config, later as a layer.
    let app_is_config = config.media_type.as_str() == MediaType::SPIN_CONFIG;
    let mut plan = match format {
        Format::Spin if app_is_config => image_plan(digest, format, &manifest, spin::config())?,
        Format::Image | Format::Runwasi | Format::Spin => {
            image_plan(digest, format, &manifest, parse_json("image config", &small(config)?)?)?
        }
        Format::CncfArtifact | Format::WasmToOci | Format::Solo => {
            artifact_plan(digest, format, &manifest)?
        }
    };
    if format == Format::Spin {
        let locked = std::iter::once(config)
            .chain(&manifest.layers)
            .find(|blob| blob.media_type.as_str() == MediaType::SPIN_CONFIG);
        let locked = locked
            .ok_or_else(|| Error::malformed("manifest", "it has no Spin application in it"))?;
        spin::apply(&mut plan, &small(locked)?)?;
    }
    let labels = plan.execution().labels.as_ref();
    let said =
        |key| labels.and_then(|labels| labels.get(key)).or_else(|| manifest.annotations.get(key));
    let wants = said(WANTS_KEY).map(|lines| parse_wants(lines)).transpose()?;
    let reuse = said(REUSE_KEY).map(|text| parse_reuse(text)).transpose()?;
    plan.wants = wants.unwrap_or(plan.wants);
    plan.reuse = reuse;
    Ok(plan)
}

/// Every line of `lines` as a want; empty lines are skipped. A Dockerfile cannot write a line end
/// in a label, so `\n` spelled out ends a line too (no capability has a backslash in it).
///
/// # Errors
/// [`Error::Wants`] names the line.
pub fn parse_wants(lines: &str) -> Result<Vec<Want>, Error> {
    let lines: Vec<_> = lines
        .lines()
        .flat_map(|line| line.split("\\n"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.len() > WANTS_MAX {
        return Err(Error::Wants {
            why: format!("it has {} lines, at most {WANTS_MAX}", lines.len()),
        });
    }
    lines
        .iter()
        .map(|line| {
            line.parse().map_err(|error: spec::ParseError| Error::Wants { why: error.to_string() })
        })
        .collect()
}

/// The inverse of [`parse_wants`]: one canonical line each.
pub fn wants_text(wants: &[Want]) -> String {
    wants.iter().map(Want::to_string).collect::<Vec<_>>().join("\n")
}

fn format_of(manifest: &Manifest, config: &Descriptor) -> Format {
    let has = |media_type: &str| {
        manifest.layers.iter().any(|layer| layer.media_type.as_str() == media_type)
    };
    match config.media_type.as_str() {
        MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG if has(MediaType::SPIN_CONFIG) => {
            Format::Spin
        }
        MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG => {
            match manifest.layers.iter().any(|layer| layer.media_type.is_wasm_layer()) {
                true => Format::Runwasi,
                false => Format::Image,
            }
        }
        MediaType::SPIN_CONFIG => Format::Spin,
        MediaType::WASM_CONFIG => Format::CncfArtifact,
        _ if has(MediaType::SOLO_CONTENT) => Format::Solo,
        _ if has(MediaType::WASM_CONTENT) => Format::WasmToOci,
        _ if has(MediaType::WASM) => Format::CncfArtifact,
        _ => Format::Image,
    }
}

fn image_plan(
    manifest_digest: Digest,
    format: Format,
    manifest: &Manifest,
    config: ImageConfig,
) -> Result<Plan, Error> {
    let contents = manifest.layers.iter().map(|layer| content_of(layer, format));
    let contents = contents.collect::<Result<Vec<_>, _>>()?;
    let diff_ids = &config.rootfs.diff_ids;
    if format == Format::Image && diff_ids.len() != contents.len() {
        let why =
            format!("it names {} layers, and the manifest has {}", diff_ids.len(), contents.len());
        return Err(Error::malformed("image config", why));
    }
    let execution = config.config.clone().unwrap_or_default();
    let args: Vec<String> = execution
        .entrypoint
        .into_iter()
        .flatten()
        .chain(execution.cmd.into_iter().flatten())
        .collect();
    let wasm_layer = contents.iter().position(|content| *content == LayerContent::Wasm);
    let program = match (wasm_layer, args.first()) {
        (Some(at), _) => Program::Layer(at),
        (None, Some(name)) => Program::File { name: name.clone() },
        (None, None) => Program::File { name: String::new() },
    };
    let diff_id = |at: usize| (diff_ids.len() == manifest.layers.len()).then(|| diff_ids[at]);
    let layers = contents.into_iter().zip(&manifest.layers).enumerate();
    Ok(Plan {
        manifest: manifest_digest,
        format,
        platform: Platform {
            architecture: config.architecture.clone(),
            os: config.os.clone(),
            variant: None,
        },
        layers: layers
            .map(|(at, (content, descriptor))| PlannedLayer {
                descriptor: descriptor.clone(),
                // Only of a tar do all writers agree what its uncompressed form is.
                diff_id: diff_id(at).filter(|_| content == LayerContent::Tar),
                content,
            })
            .collect(),
        config,
        program,
        args,
        wants: Vec::new(),
        reuse: None,
    })
}

fn content_of(layer: &Descriptor, format: Format) -> Result<LayerContent, Error> {
    match layer.media_type.as_str() {
        MediaType::SPIN_CONFIG => Ok(LayerContent::Ignored),
        MediaType::SPIN_DATA if format == Format::Spin => {
            Ok(LayerContent::File { paths: Vec::new() })
        }
        _ if layer.media_type.is_wasm_layer() => Ok(LayerContent::Wasm),
        text if text.contains(".tar") => Ok(LayerContent::Tar),
        other => Err(Error::Unsupported {
            what: format!("layer `{}`", layer.digest.short()),
            why: format!("nothing is known of its media type `{other}`"),
        }),
    }
}

fn artifact_plan(
    manifest_digest: Digest,
    format: Format,
    manifest: &Manifest,
) -> Result<Plan, Error> {
    let [layer] = manifest.layers.as_slice() else {
        let why =
            format!("a Wasm artifact has one layer, and this one has {}", manifest.layers.len());
        return Err(Error::malformed("manifest", why));
    };
    let content = LayerContent::Wasm;
    Ok(Plan {
        manifest: manifest_digest,
        format,
        platform: Platform {
            architecture: "wasm".to_owned(),
            os: "wasi".to_owned(),
            variant: None,
        },
        config: ImageConfig::default(),
        layers: vec![PlannedLayer { descriptor: layer.clone(), diff_id: None, content }],
        program: Program::Layer(0),
        args: Vec::new(),
        wants: Vec::new(),
        reuse: None,
    })
}

impl Plan {
    /// Defaults for running; all empty when the image has none.
    pub fn execution(&self) -> &ExecutionConfig {
        static NONE: std::sync::LazyLock<ExecutionConfig> =
            std::sync::LazyLock::new(ExecutionConfig::default);
        self.config.config.as_ref().unwrap_or(&NONE)
    }

    /// The value of an environment variable that the image sets.
    pub fn env(&self, name: &str) -> Option<&str> {
        env_value(self.execution(), name)
    }

    /// The TCP ports that the image says it listens on, in order.
    pub fn exposed_ports(&self) -> Vec<u16> {
        let exposed = self.exposed().into_iter();
        exposed.filter(|port| port.transport.is_tcp()).map(|port| port.number).collect()
    }

    /// All ports that the image says it listens on, in order. What cannot be one is left out.
    pub fn exposed(&self) -> Vec<Port> {
        let ports = self.execution().exposed_ports.iter().flat_map(|ports| ports.keys());
        let mut ports: Vec<Port> = ports.filter_map(|text| text.parse().ok()).collect();
        ports.sort_unstable();
        ports
    }

    /// Which engine will run it, as far as its documents say. [`locate`](crate::locate) knows by
    /// the program's bytes.
    pub fn kind_hint(&self) -> Kind {
        let names_wasm = || self.args.first().is_some_and(|name| name.ends_with(".wasm"));
        match self.format {
            Format::Image if !is_wasm(&self.platform) && !names_wasm() => Kind::Native,
            _ => Kind::Wasm,
        }
    }
}

/// The last line wins, as in an environment.
pub(crate) fn env_value<'a>(execution: &'a ExecutionConfig, name: &str) -> Option<&'a str> {
    let lines = execution.env.as_deref().unwrap_or_default();
    lines.iter().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

impl PlannedLayer {
    /// Reads the blob of this layer as the next layer of `builder`, and writes its uncompressed
    /// bytes to `copy`. When this is `Ok`, the blob and its content were those that the image
    /// names.
    ///
    /// # Errors
    /// Whatever is wrong with the blob; then `builder` and `copy` are to be thrown away.
    pub fn read<R: Read, W: Write>(
        &self,
        blob: R,
        copy: W,
        builder: &mut FileIndexBuilder,
        layer_number: usize,
        budget: Budget,
    ) -> Result<(LayerSummary, W), Error> {
        let blob = Verified::new(blob, &self.descriptor);
        if self.content != LayerContent::Tar {
            return self.read_raw(blob, copy, builder, layer_number, budget);
        }
        let mut reader = LayerReader::copying_to(blob, copy, budget)?;
        builder.read_layer(&mut reader)?;
        let (summary, copy) = reader.finish_with_copy()?;
        match self.diff_id {
            Some(expected)
                if expected != summary.diff_id
                    && expected.algorithm() == summary.diff_id.algorithm() =>
            {
                let what = format!("layer `{}`, uncompressed,", self.descriptor.digest.short());
                Err(Error::WrongDigest { what, expected, found: summary.diff_id })
            }
            _ => Ok((summary, copy)),
        }
    }

    fn read_raw<R: Read, W: Write>(
        &self,
        mut blob: R,
        mut copy: W,
        builder: &mut FileIndexBuilder,
        layer_number: usize,
        budget: Budget,
    ) -> Result<(LayerSummary, W), Error> {
        let what = || format!("layer `{}`", self.descriptor.digest);
        if self.descriptor.size > budget.bytes_max {
            return Err(Error::Budget { why: format!("it has {} bytes", self.descriptor.size) });
        }
        let mut head = Vec::new();
        blob.by_ref().take(8).read_to_end(&mut head).map_err(|source| unwrapped(source, what))?;
        if self.content == LayerContent::Wasm {
            check_wasm_head(&head, what())?;
        }
        let mut hasher = spec::Hasher::new(spec::Algorithm::Sha256);
        let mut blob = io::Cursor::new(head).chain(blob);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = blob.read(&mut buffer).map_err(|source| unwrapped(source, what))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            copy.write_all(&buffer[..n])
                .map_err(|source| Error::Read { what: "a layer into its copy".into(), source })?;
        }
        let bytes = self.descriptor.size;
        if let LayerContent::File { paths } = &self.content {
            for path in paths {
                let node = FileNode {
                    layer: layer_number as u32,
                    offset: 0,
                    len: bytes,
                    mode: 0o644,
                    mtime: 0,
                };
                builder.add_file(path, node)?;
            }
        }
        builder.end_layer()?;
        Ok((LayerSummary { diff_id: hasher.finish(), bytes, entries: 1 }, copy))
    }
}

fn check_wasm_head(head: &[u8], what: String) -> Result<(), Error> {
    match sniff(head) {
        Sniffed::Module | Sniffed::Component => Ok(()),
        Sniffed::Elf | Sniffed::Cwasm => Err(Error::Precompiled { what }),
        other => Err(Error::NotWasm {
            what,
            why: format!("its first bytes are those of {}", other.name()),
        }),
    }
}

#[cfg(test)]
mod tests;
