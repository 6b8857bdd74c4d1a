use std::{collections::BTreeMap, path::Path, process::Stdio};

use image::Sniffed;
use serde::Deserialize;
use spec::{Reference, Want};

use crate::{
    component,
    context::{Context, PathKind},
    diagnostic::{ContextProblem, DiagnosticKind, Place},
    error::{Error, NoBuildFile},
    execute::parse_ports,
    fault::Fault,
    items::{Item, Items, MODE_EXECUTABLE, Meta, Source},
    layer::spool::Spool,
    path::{file_name, joined},
    program::elf_architecture,
    project::{self, Project},
    stage::{NewLayer, Stage},
};

/// `margay.toml`: everything is optional. Keys that are not known are refused by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuildFile {
    /// The image's name, unless `-t` gives one.
    name: Option<String>,
    /// A second tag beside `latest`.
    version: Option<String>,
    /// Run by the shell in the folder of this file, before anything is read.
    build: Option<String>,
    /// The program. Without it: the only `.wasm` in the folder.
    wasm: Option<String>,
    /// What each folder or file of the image is made from; one layer each.
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Arguments behind the program's name.
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) wants: Vec<Want>,
    /// How many requests one instance may answer, one after another.
    pub(crate) reuse: Option<u32>,
    /// Native programs for hosts without margay: `linux-amd64 = "path"`.
    #[serde(default)]
    native: BTreeMap<String, String>,
}

/// The result of a build file.
pub(crate) enum Described {
    /// One program, nothing else: an artifact.
    Program { what: String, source: Source },
    /// Images of layers: Wasm first, then native ones.
    Images(Vec<Stage>),
}

impl BuildFile {
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        toml::from_str(text).map_err(|error| {
            let lines_before = |at: usize| text[..at.min(text.len())].matches('\n').count();
            let line = error.span().map(|span| lines_before(span.start) + 1);
            Fault::Kind { place: line.map(Place::line), kind: DiagnosticKind::Toml(error) }
        })
    }

    /// The names that `name` and `version` give.
    pub(crate) fn names(&self) -> Result<Option<Vec<Reference>>, Fault> {
        let Some(name) = &self.name else { return Ok(None) };
        let mut names = vec![name.parse().map_err(DiagnosticKind::Reference)?];
        if let Some(version) = &self.version {
            let tagged = format!("{name}:{version}");
            names.push(tagged.parse().map_err(DiagnosticKind::Reference)?);
        }
        Ok(Some(names))
    }

    /// Runs the build command, if there is one, in `folder`. Its standard output goes to the
    /// standard error of this process.
    pub(crate) fn run_command(&self, folder: &Path) -> Result<(), Error> {
        let Some(command) = &self.build else { return Ok(()) };
        let command = command.clone();
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", &command])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let missing = Project::recognise(folder).map(|project| project.missing());
                let missing = missing.filter(|steps| !steps.is_empty());
                let missing = missing.map(|steps| project::one_line(&steps));
                Err(Error::Command { command, status, missing })
            }
            Err(source) => Err(Error::CommandStart { command, source }),
        }
    }

    /// What the build command makes, empty where the file does not say; `None` without a command.
    pub(crate) fn product(&self) -> Option<String> {
        self.build.as_ref()?;
        Some(self.wasm.as_deref().unwrap_or_default().trim_start_matches("./").to_owned())
    }

    /// What to build, out of `context`.
    pub(crate) fn describe(
        &self,
        context: &Context,
        spool: &mut Spool<'_>,
    ) -> Result<Described, Fault> {
        if let Some(requests) = self.reuse {
            image::parse_reuse(&requests.to_string()).map_err(DiagnosticKind::Reuse)?;
        }
        let wasm = match &self.wasm {
            Some(path) => path.trim_start_matches("./").to_owned(),
            None => only_wasm(context)?,
        };
        let program = program_file(context, &wasm)?;
        let program = component::program(&format!("`{wasm}`"), program, spool)?;
        if self.is_program_alone() {
            return Ok(Described::Program { what: format!("`{wasm}`"), source: program });
        }
        let files = self.file_layers(context)?;
        let mut stages = vec![self.stage(file_name(&wasm), program, "wasm", &files)?];
        for (platform, path) in &self.native {
            let program = program_file(context, path.trim_start_matches("./"))?;
            check_native(platform, path, &program, spool)?;
            let created_by = format!("native.{platform}");
            stages.push(self.stage(file_name(path), program, &created_by, &files)?);
        }
        Ok(Described::Images(stages))
    }

    fn is_program_alone(&self) -> bool {
        self.files.is_empty()
            && self.env.is_empty()
            && self.args.is_empty()
            && self.ports.is_empty()
            && self.labels.is_empty()
            && self.native.is_empty()
    }

    fn stage(
        &self,
        name: &str,
        program: Source,
        created_by: &str,
        files: &[NewLayer],
    ) -> Result<Stage, DiagnosticKind> {
        let mut stage = Stage::scratch();
        let mut items = Items::default();
        items.put(name, Item::File { meta: Meta::of(MODE_EXECUTABLE), source: program }, &|_| None);
        stage.layers.push(NewLayer { items, created_by: created_by.to_owned() });
        stage.layers.extend_from_slice(files);
        stage.config.entrypoint = Some([&[format!("/{name}")], self.args.as_slice()].concat());
        for (name, value) in &self.env {
            stage.set_env(name, value);
        }
        for port in &self.ports {
            parse_ports(&port.to_string())?.into_iter().for_each(|port| stage.expose(port));
        }
        let mut labels = self.labels.clone();
        if !self.wants.is_empty() {
            labels.insert(image::WANTS_KEY.to_owned(), image::wants_text(&self.wants));
        }
        if let Some(requests) = self.reuse {
            labels.insert(image::REUSE_KEY.to_owned(), requests.to_string());
        }
        stage.config.labels = (!labels.is_empty()).then_some(labels);
        Ok(stage)
    }

    /// One layer for each entry of `files`.
    fn file_layers(&self, context: &Context) -> Result<Vec<NewLayer>, Fault> {
        self.files.iter().map(|(guest, host)| file_layer(guest, host, context)).collect()
    }
}

fn file_layer(guest: &str, host: &str, context: &Context) -> Result<NewLayer, Fault> {
    let target = guest
        .strip_prefix('/')
        .ok_or_else(|| DiagnosticKind::FilesNotAbsolute(guest.to_owned()))?;
    let target = checked_name(guest, target)?;
    let host = host.trim_start_matches("./").trim_end_matches('/');
    let sources = context.walk(if host == "." { "" } else { host }, &|_| true)?;
    if sources.is_empty() {
        return Err(missing(host, context).into());
    }
    let mut items = Items::default();
    for (below, item) in sources {
        let path = joined(target, &below);
        checked_name(guest, &path)?;
        items.put(&path, item, &|_| None);
    }
    Ok(NewLayer { items, created_by: format!("files.\"{guest}\"") })
}

/// The normal form of `path`, which the entry `guest` of `files` leads to.
fn checked_name<'p>(guest: &str, path: &'p str) -> Result<&'p str, DiagnosticKind> {
    image::normal_name(if path.is_empty() { b"." } else { path.as_bytes() })
        .map_err(|reason| DiagnosticKind::FilesPath { path: guest.to_owned(), reason })
}

/// The bytes of the program at `path`.
fn program_file(context: &Context, path: &str) -> Result<Source, Fault> {
    match context.find(path)? {
        Some(PathKind::File) => match context.file(path)? {
            Item::File { source, .. } => Ok(source),
            Item::Folder { .. } | Item::Symlink { .. } => {
                Err(DiagnosticKind::NotAFile(path.to_owned()).into())
            }
        },
        Some(PathKind::Folder) => {
            let problem = ContextProblem::IsFolder;
            Err(Error::Context { path: path.to_owned(), problem }.into())
        }
        None => Err(missing(path, context).into()),
    }
}

fn missing(path: &str, context: &Context) -> DiagnosticKind {
    DiagnosticKind::missing_in_context(path, context.path(), context.ignores(path))
}

/// The one `.wasm` directly in the context.
pub(crate) fn only_wasm(context: &Context) -> Result<String, Error> {
    let nothing = |reason| Error::NoBuildFile { path: context.path().to_owned(), reason };
    let inside = context.walk("", &|_| false)?.into_iter();
    let programs = inside.filter(|(name, item)| !item.is_folder() && name.ends_with(".wasm"));
    let mut programs: Vec<_> = programs.map(|(name, _)| name).collect();
    match (programs.pop(), programs.len()) {
        (Some(only), 0) => return Ok(only),
        (Some(_), more) => return Err(nothing(NoBuildFile::SeveralPrograms(more + 1))),
        (None, _) => {}
    }
    if let Some(project) = Project::recognise(context.path()) {
        let steps = project::one_line(&project.steps());
        return Err(nothing(NoBuildFile::OnlySources { file: project.marker, steps }));
    }
    Err(nothing(NoBuildFile::Nothing))
}

/// Compares the key in `[native]` with what the program is.
fn check_native(
    platform: &str,
    path: &str,
    program: &Source,
    spool: &mut Spool<'_>,
) -> Result<(), Fault> {
    let wanted = platform.strip_prefix("linux-").filter(|name| !name.is_empty());
    let wanted = wanted.ok_or_else(|| DiagnosticKind::NativePlatform(platform.to_owned()))?;
    let path = path.to_owned();
    let head = spool.head(program, 64)?;
    match (image::sniff(&head), elf_architecture(&head)) {
        (Sniffed::Elf, Some(machine)) if machine == wanted => Ok(()),
        (Sniffed::Elf, machine) => {
            let platform = platform.to_owned();
            Err(DiagnosticKind::WrongMachine { path, machine, platform }.into())
        }
        (kind, _) => Err(DiagnosticKind::NotNative { path, kind }.into()),
    }
}
