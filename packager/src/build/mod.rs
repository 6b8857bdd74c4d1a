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
    component,
    context::{Context, IGNORE, Modes, PathKind},
    diagnostic::{ContextProblem, DiagnosticKind, Warning, WarningKind},
    error::{Error, NoBuildFile, io_error},
    execute::{self, Executed, Input, Pull},
    fault::Fault,
    items::Item,
    layer::spool::Spool,
    layout::Layout,
    limits::DOCKERFILE_BYTES_MAX,
    path::as_name,
    program::host_platforms,
    project::BUILD_FILE,
};

/// What to build, from what, into which images.
pub struct Build<'a> {
    /// A folder with a build file, or one `.wasm` file.
    pub context: &'a Path,
    /// The build file, when it is not `margay.toml` or `Dockerfile` in the context (in this order).
    /// Its name decides its kind: `*.toml` is a `margay.toml`, everything else a Dockerfile.
    pub file: Option<&'a Path>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// `--platform`: what a Dockerfile's image is for; this host without it.
    pub platform: Option<Platform>,
    /// `--label`: these stand above those of the Dockerfile.
    pub labels: BTreeMap<String, String>,
    /// Whether images that FROM and `COPY --from` name are fetched.
    pub pull: Pull<'a>,
    /// The stage of a Dockerfile to stop at.
    pub target: Option<&'a str>,
    /// Names for the image. Without one: that of `margay.toml`, else that of the folder or file.
    pub tags: Vec<Reference>,
    /// Seconds since 1970 that files and configs get: SOURCE_DATE_EPOCH, or 0.
    pub source_date: u64,
    /// Whether results of earlier builds may be used.
    pub reuse: bool,
    /// Where base images are found and the image is put.
    pub layout: &'a Layout,
}

impl<'a> Build<'a> {
    /// Everything in `context`, named after it, into `layout`.
    pub fn of(context: &'a Path, layout: &'a Layout) -> Self {
        Self {
            context,
            file: None,
            args: BTreeMap::new(),
            platform: None,
            labels: BTreeMap::new(),
            pull: Pull::Never,
            target: None,
            tags: Vec::new(),
            source_date: 0,
            reuse: true,
            layout,
        }
    }
}

/// An image that was built.
#[derive(Debug)]
pub struct Built {
    /// Every name that it has now.
    pub references: Vec<Reference>,
    /// Its manifest, or its index when it has native bodies too.
    pub descriptor: Descriptor,
    pub build_file: PathBuf,
    /// Wasm first.
    pub platforms: Vec<Platform>,
    /// Its layers, lowest first; of an index, those of its first image.
    pub layers: Vec<BuiltLayer>,
    pub wants: Vec<Want>,
    /// What its Wasm program imports and exports, when this build brought it in.
    pub facts: Option<WasmFacts>,
    pub warnings: Vec<Warning>,
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
    let output = build_images(build, &assembly);
    cache.trim();
    let Output { images, names, mut warnings, build_file } = output?;
    let descriptor = match images.as_slice() {
        [only] => only.manifest.clone(),
        images => assembly.index(images)?,
    };
    let references = if build.tags.is_empty() { names } else { build.tags.clone() };
    for reference in &references {
        // A name that no tag asked for may be that of an image which should have stayed.
        let before = if build.tags.is_empty() { build.layout.resolve(reference)? } else { None };
        if let Some(before) = before.filter(|before| before.digest != descriptor.digest) {
            let (reference, before) = (reference.clone(), before.digest);
            warnings.push(WarningKind::NameTaken { reference, before }.into());
        }
        build.layout.tag(reference, &descriptor)?;
    }
    let platforms = images.iter().map(|image| image.platform.clone()).collect();
    let first = images.into_iter().next().expect("a build makes at least one image");
    warnings.extend(first.note);
    Ok(Built {
        references,
        descriptor,
        build_file,
        platforms,
        layers: first.layers,
        wants: first.wants,
        facts: first.facts,
        warnings,
        took: started.elapsed(),
    })
}

/// The images of a build before they have a name.
struct Output {
    images: Vec<Assembled>,
    /// Names for when no tag was given.
    names: Vec<Reference>,
    warnings: Vec<Warning>,
    build_file: PathBuf,
}

fn build_images(build: &Build<'_>, assembly: &Assembly<'_>) -> Result<Output, Error> {
    let is_file =
        std::fs::metadata(build.context).map_err(io_error("open", build.context))?.is_file();
    if is_file {
        return build_lone_program(build, assembly);
    }
    let names = local_names(&folder_name(build.context));
    let Some(path) = build_file_path(build) else {
        let context = Context::open(build.context, &[&build.context.join(IGNORE)], Modes::Masked)?;
        let wasm = build_file::only_wasm(&context)?;
        let images = vec![artifact_of(&context, &wasm, assembly)?];
        let build_file = build.context.join(wasm);
        return Ok(Output { images, names, warnings: Vec::new(), build_file });
    };
    let (name, text) = read_build_file(&path)?;
    match path.extension().is_some_and(|extension| extension == "toml") {
        true => build_from_toml(build, assembly, path, &name, &text, names),
        false => build_from_dockerfile(build, assembly, path, &name, &text, names),
    }
}

fn build_file_path(build: &Build<'_>) -> Option<PathBuf> {
    if let Some(file) = build.file {
        return Some(file.to_owned());
    }
    let existing = |name: &str| Some(build.context.join(name)).filter(|path| path.is_file());
    let names = [BUILD_FILE, "Dockerfile", "Containerfile"];
    names.into_iter().find_map(existing)
}

fn build_lone_program(build: &Build<'_>, assembly: &Assembly<'_>) -> Result<Output, Error> {
    let (folder, name) = (build.context.parent(), build.context.file_name());
    let name = name.unwrap_or_default().to_str().ok_or_else(|| Error::Context {
        path: build.context.display().to_string(),
        problem: ContextProblem::NameNotUtf8,
    })?;
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let context = Context::open_unfiltered(folder)?;
    let images = vec![artifact_of(&context, name, assembly)?];
    let names = local_names(name.strip_suffix(".wasm").unwrap_or(name));
    let build_file = build.context.to_owned();
    Ok(Output { images, names, warnings: Vec::new(), build_file })
}

fn artifact_of(context: &Context, path: &str, assembly: &Assembly<'_>) -> Result<Assembled, Error> {
    let not_a_file =
        || Error::NoBuildFile { path: context.path().join(path), reason: NoBuildFile::NotAFile };
    if context.find(path)? != Some(PathKind::File) {
        return Err(not_a_file());
    }
    let Item::File { source, .. } = context.file(path)? else { return Err(not_a_file()) };
    let mut spool = Spool::new(assembly.layout.store(), Some(context));
    let what = format!("`{path}`");
    let source = component::program(&what, source, &mut spool)?;
    assembly.artifact(&what, &source, (&[], None), &mut spool)
}

fn build_from_toml(
    build: &Build<'_>,
    assembly: &Assembly<'_>,
    path: PathBuf,
    name: &str,
    text: &str,
    default_names: Vec<Reference>,
) -> Result<Output, Error> {
    let in_file = |fault: Fault| fault.in_file(name);
    let file = BuildFile::parse(text).map_err(in_file)?;
    file.run_command(build.context)?;
    let context = Context::for_build_file(build.context, &path, Modes::Masked)?;
    let mut spool = Spool::new(assembly.layout.store(), Some(&context));
    let images = match file.describe(&context, &mut spool).map_err(in_file)? {
        Described::Program { what, source } => {
            vec![assembly.artifact(&what, &source, (&file.wants, file.reuse), &mut spool)?]
        }
        Described::Images(stages) => stages
            .into_iter()
            .map(|stage| assembly.image(stage, None, &mut spool))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let warnings = build.args.keys().map(|argument| {
        let (argument, file) = (argument.clone(), name.to_owned());
        WarningKind::NoArguments { argument, file }.into()
    });
    let names = file.names().map_err(in_file)?.unwrap_or(default_names);
    Ok(Output { images, names, warnings: warnings.collect(), build_file: path })
}

fn build_from_dockerfile(
    build: &Build<'_>,
    assembly: &Assembly<'_>,
    path: PathBuf,
    name: &str,
    text: &str,
    names: Vec<Reference>,
) -> Result<Output, Error> {
    let context = Context::for_build_file(build.context, &path, Modes::Kept)?;
    let mut spool = Spool::new(assembly.layout.store(), Some(&context));
    let Executed { mut stage, mut warnings } =
        executed(build, assembly.cache, name, text, &context, &mut spool)?;
    for (name, value) in &build.labels {
        stage.config.labels.get_or_insert_default().insert(name.clone(), value.clone());
    }
    let place = stage.program_place;
    let image = assembly.image(stage, build.platform.as_ref(), &mut spool);
    let image = image.map_err(|error| match error {
        Error::Program(source) => {
            Fault::Kind { place, kind: DiagnosticKind::Program(source) }.in_file(name)
        }
        other => other,
    })?;
    if let Some(wanted) = build.platform.clone().filter(|wanted| *wanted != image.platform) {
        let found = image.platform.clone();
        warnings.push(WarningKind::PlatformOfProgram { wanted, found }.into());
    }
    Ok(Output { images: vec![image], names, warnings, build_file: path })
}

fn executed(
    build: &Build<'_>,
    cache: &Cache,
    name: &str,
    text: &str,
    context: &Context,
    spool: &mut Spool<'_>,
) -> Result<Executed, Error> {
    let input = Input {
        file: name,
        text,
        context,
        layout: build.layout,
        cache,
        args: &build.args,
        platform: build.platform.as_ref(),
        target: build.target,
        native: &host_platforms(),
        pull: build.pull,
    };
    execute::execute(&input, spool)
}

/// Carries out the Dockerfile of `build` and writes nothing: what its author should know.
///
/// # Errors
/// As [`build`].
pub fn check(build: &Build<'_>) -> Result<Vec<Warning>, Error> {
    let _hold = build.layout.hold()?;
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let no_dockerfile =
        || Error::NoBuildFile { path: build.context.to_owned(), reason: NoBuildFile::NoDockerfile };
    let path = build_file_path(build).filter(|path| !is_toml(path)).ok_or_else(no_dockerfile)?;
    let (name, text) = read_build_file(&path)?;
    let context = Context::for_build_file(build.context, &path, Modes::Kept)?;
    let mut spool = Spool::new(build.layout.store(), Some(&context));
    let cache = Cache::of(build.layout, build.reuse);
    Ok(executed(build, &cache, &name, &text, &context, &mut spool)?.warnings)
}

fn read_build_file(path: &Path) -> Result<(String, String), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = disk::read_stream(path, DOCKERFILE_BYTES_MAX).map_err(io_error("read", path))?;
    let text =
        String::from_utf8(text).map_err(|_| Fault::from(DiagnosticKind::NotUtf8).in_file(&name))?;
    Ok((name, text))
}

fn folder_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    full.file_name().map_or_else(|| "app".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// `name` as that of a local image.
fn local_names(name: &str) -> Vec<Reference> {
    let reference = as_name(&name.to_lowercase()).parse().or_else(|_| "app".parse());
    vec![reference.expect("`app` is the name of an image")]
}

#[cfg(test)]
mod tests;
