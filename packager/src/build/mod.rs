use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use image::WasmFacts;
use spec::{Descriptor, Platform, Reference, Want};

use crate::{
    assemble::{Assembled, Assembly, BuiltLayer},
    build_file::{self, BuildFile, Described},
    cache::Cache,
    context::{Context, Found},
    error::{Error, io_error},
    execute::{self, Input},
    layer::items::Item,
    layer::spool::Spool,
    layout::Layout,
    program::host_platforms,
};

/// What to build, from what, into which images.
#[derive(Debug)]
pub struct Build<'a> {
    /// A folder with a build file, or one `.wasm` file.
    pub context: &'a Path,
    /// The build file, when it is not `margay.toml` or `Dockerfile` in the context (in this order).
    /// Its name decides what it is: `*.toml` is ours, everything else a Dockerfile.
    pub file: Option<&'a Path>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// The stage of a Dockerfile to stop at.
    pub target: Option<&'a str>,
    /// Names for the image. Without one: that of `margay.toml`, else that of the folder or file.
    pub tags: Vec<Reference>,
    /// Seconds since 1970 that files and configs get: SOURCE_DATE_EPOCH, or 0.
    pub source_date: u64,
    /// Whether what earlier builds found out may be used.
    pub reuse: bool,
    /// Where base images are found and the image is put.
    pub layout: &'a Layout,
}

/// An image that was built.
#[derive(Debug)]
pub struct Built {
    /// Every name that it has now.
    pub references: Vec<Reference>,
    /// Its manifest, or its index when it has native bodies too.
    pub descriptor: Descriptor,
    /// Which build file it was built from.
    pub build_file: PathBuf,
    /// What it is for, Wasm first.
    pub platforms: Vec<Platform>,
    /// Its layers, lowest first; of an index, those of its first image.
    pub layers: Vec<BuiltLayer>,
    /// What it asks for.
    pub wants: Vec<Want>,
    /// What its Wasm program imports and exports, when this build brought it in.
    pub facts: Option<WasmFacts>,
    /// What the user should know although it worked.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Builds an image, stores it, and gives it its names.
///
/// # Errors
/// Says what is wrong with the build file, the context or the program; nothing has a name then.
pub fn build(build: &Build<'_>) -> Result<Built, Error> {
    let started = Instant::now();
    let _hold = build.layout.hold()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let cache = Cache::of(build.layout, build.reuse);
    let assembly = Assembly {
        layout: build.layout,
        cache: &cache,
        source_date: build.source_date,
        now_ns: i128::try_from(now.as_nanos()).unwrap_or(i128::MAX),
    };
    let made = make(build, &assembly);
    cache.trim();
    let made = made?;
    let descriptor = match made.images.as_slice() {
        [only] => only.manifest.clone(),
        images => assembly.index(images)?,
    };
    let references = if build.tags.is_empty() { made.names } else { build.tags.clone() };
    let mut notes = made.notes;
    for reference in &references {
        // Who wrote the name knows what it was; of one that we chose, nobody may have thought.
        let before = if build.tags.is_empty() { build.layout.resolve(reference)? } else { None };
        if let Some(before) = before.filter(|before| before.digest != descriptor.digest) {
            notes.push(format!(
                "`{reference}` was another image until now (`{}`); -t gives another name",
                before.digest
            ));
        }
        build.layout.tag(reference, &descriptor)?;
    }
    let platforms = made.images.iter().map(|image| image.platform.clone()).collect();
    let first = made.images.into_iter().next().expect("a build makes at least one image");
    if !first.has_program {
        notes.push(
            "the image names no program: it can be a base for others, and cannot be run".to_owned(),
        );
    }
    Ok(Built {
        references,
        descriptor,
        build_file: made.build_file,
        platforms,
        layers: first.layers,
        wants: first.wants,
        facts: first.facts,
        notes,
        took: started.elapsed(),
    })
}

/// What a build made, before it has a name.
struct Made {
    images: Vec<Assembled>,
    names: Vec<Reference>,
    notes: Vec<String>,
    build_file: PathBuf,
}

fn make(build: &Build<'_>, assembly: &Assembly<'_>) -> Result<Made, Error> {
    let is_file =
        std::fs::metadata(build.context).map_err(io_error("open", build.context))?.is_file();
    if is_file {
        return make_bare(build, assembly);
    }
    let default_names = || names(folder_name(build.context));
    let Some(path) = build_file_path(build)? else {
        let context = Context::open(build.context, None)?;
        let wasm = build_file::only_wasm(&context)?;
        let image = bare(&context, &wasm, &[], assembly)?;
        let (names, build_file) = (default_names(), build.context.join(wasm));
        return Ok(Made { images: vec![image], names, notes: Vec::new(), build_file });
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = disk::read(&path, execute::TEXT_BYTES_MAX).map_err(io_error("read", &path))?;
    let text = String::from_utf8(text).map_err(|_| Error::BuildFile {
        file: name.clone(),
        line: None,
        why: "it is not UTF-8".to_owned(),
    })?;
    match path.extension().is_some_and(|extension| extension == "toml") {
        true => make_from_build_file(build, assembly, path, name, &text, default_names()),
        false => make_from_dockerfile(build, assembly, path, name, &text, default_names()),
    }
}

fn build_file_path(build: &Build<'_>) -> Result<Option<PathBuf>, Error> {
    if let Some(file) = build.file {
        return Ok(Some(file.to_owned()));
    }
    let there = |name: &str| Some(build.context.join(name)).filter(|path| path.is_file());
    Ok(there(build_file::NAME).or_else(|| there("Dockerfile")))
}

fn make_bare(build: &Build<'_>, assembly: &Assembly<'_>) -> Result<Made, Error> {
    let (folder, name) = (build.context.parent(), build.context.file_name());
    let name = name.unwrap_or_default().to_str().ok_or_else(|| Error::Context {
        path: build.context.display().to_string(),
        why: "has a name that is not UTF-8".to_owned(),
    })?;
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let context = Context::open_unfiltered(folder)?;
    let images = vec![bare(&context, name, &[], assembly)?];
    let names = names(name.strip_suffix(".wasm").unwrap_or(name).to_owned());
    Ok(Made { images, names, notes: Vec::new(), build_file: build.context.to_owned() })
}

fn bare(
    context: &Context,
    path: &str,
    wants: &[Want],
    assembly: &Assembly<'_>,
) -> Result<Assembled, Error> {
    let not_there = || Error::NoBuildFile {
        path: context.path().join(path),
        why: "it is not a file".to_owned(),
    };
    if context.find(path)? != Some(Found::File) {
        return Err(not_there());
    }
    let Item::File { source, .. } = context.file(path)? else { return Err(not_there()) };
    let mut spool = Spool::new(assembly.layout.blobs(), Some(context));
    assembly.artifact(&format!("`{path}`"), &source, wants, &mut spool)
}

fn make_from_build_file(
    build: &Build<'_>,
    assembly: &Assembly<'_>,
    path: PathBuf,
    name: String,
    text: &str,
    default_names: Vec<Reference>,
) -> Result<Made, Error> {
    let file = BuildFile::parse(&name, text)?;
    file.run_command(build.context)?;
    let context = Context::open(build.context, Some(&name))?;
    let mut spool = Spool::new(assembly.layout.blobs(), Some(&context));
    let images = match file.describe(&name, &context, &mut spool)? {
        Described::Program { what, source } => {
            vec![assembly.artifact(&what, &source, &file.wants, &mut spool)?]
        }
        Described::Images(stages) => stages
            .into_iter()
            .map(|stage| assembly.image(stage, &mut spool))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let notes = build
        .args
        .keys()
        .map(|arg| format!("the build argument `{arg}` is not used: `{name}` has none"));
    let names = declared_names(&file, &name)?.unwrap_or(default_names);
    Ok(Made { images, names, notes: notes.collect(), build_file: path })
}

/// What `name` and `version` in `margay.toml` say.
fn declared_names(file: &BuildFile, file_name: &str) -> Result<Option<Vec<Reference>>, Error> {
    let Some(name) = &file.name else { return Ok(None) };
    let wrong = |error: spec::ParseError| Error::BuildFile {
        file: file_name.to_owned(),
        line: None,
        why: error.to_string(),
    };
    let mut all = vec![name.parse().map_err(wrong)?];
    if let Some(version) = &file.version {
        all.push(format!("{name}:{version}").parse().map_err(wrong)?);
    }
    Ok(Some(all))
}

fn make_from_dockerfile(
    build: &Build<'_>,
    assembly: &Assembly<'_>,
    path: PathBuf,
    name: String,
    text: &str,
    names: Vec<Reference>,
) -> Result<Made, Error> {
    let context = Context::open(build.context, Some(&name))?;
    let mut spool = Spool::new(assembly.layout.blobs(), Some(&context));
    let input = Input {
        file: name,
        text,
        context: &context,
        layout: build.layout,
        cache: assembly.cache,
        args: &build.args,
        target: build.target,
        native: &host_platforms(),
    };
    let read = execute::read(&input, &mut spool)?;
    let images = vec![assembly.image(read.stage, &mut spool)?];
    Ok(Made { images, names, notes: read.notes, build_file: path })
}

fn folder_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    full.file_name().map_or_else(|| "app".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// `name` as a local image, with everything that cannot stand in one replaced.
fn names(name: String) -> Vec<Reference> {
    let lower = name.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-");
    let reference = name.parse().or_else(|_| "app".parse());
    vec![reference.expect("`app` is the name of an image")]
}

#[cfg(test)]
mod tests;
