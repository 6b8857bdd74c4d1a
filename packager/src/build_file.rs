use std::{collections::BTreeMap, path::Path, process::Stdio};

use serde::Deserialize;
use spec::{ExecutionConfig, Want};

use crate::{
    context::{Context, Found, joined},
    error::Error,
    execute::{empty_object, ports, set_env, wants_text},
    layer::items::{Item, Items, MODE_EXECUTABLE, Source},
    layer::spool::Spool,
    program::elf_architecture,
    stage::{Added, Stage},
};

/// `margay.toml`: everything is optional. Keys that are not known are refused by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuildFile {
    /// The image's name, where no `-t` says it.
    pub(crate) name: Option<String>,
    /// A second tag beside `latest`.
    pub(crate) version: Option<String>,
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
    /// Native programs for hosts without us: `linux-amd64 = "path"`.
    #[serde(default)]
    native: BTreeMap<String, String>,
}

/// What a build file describes.
pub(crate) enum Described {
    /// One program, nothing else: an artifact.
    Program { what: String, source: Source },
    /// Images of layers: Wasm first, then native ones.
    Images(Vec<Stage>),
}

/// Its name in a build context.
pub(crate) const NAME: &str = "margay.toml";

impl BuildFile {
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::BuildFile {
                file: file.to_owned(),
                line,
                why: error.message().trim().replace('\n', ", "),
            }
        })
    }

    /// Runs the build command, if there is one, in `folder`. What it prints goes to our standard
    /// error.
    pub(crate) fn run_command(&self, folder: &Path) -> Result<(), Error> {
        let Some(command) = &self.build else { return Ok(()) };
        let failed = |why: String| Error::Command { command: command.clone(), why };
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .status()
            .map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
    }

    /// What to build, out of `context`.
    pub(crate) fn describe(
        &self,
        file: &str,
        context: &Context,
        spool: &mut Spool<'_>,
    ) -> Result<Described, Error> {
        let wrong = |why: String| Error::BuildFile { file: file.to_owned(), line: None, why };
        let wasm = match &self.wasm {
            Some(path) => path.trim_start_matches("./").to_owned(),
            None => only_wasm(context)?,
        };
        let program = program_file(context, file, &wasm)?;
        let bare = self.files.is_empty()
            && self.env.is_empty()
            && self.args.is_empty()
            && self.ports.is_empty()
            && self.labels.is_empty()
            && self.native.is_empty();
        if bare {
            let Item::File { source, .. } = program else {
                return Err(wrong(format!("`{wasm}` is no file")));
            };
            return Ok(Described::Program { what: format!("`{wasm}`"), source });
        }
        let name = wasm.rsplit('/').next().unwrap_or(&wasm).to_owned();
        let files = self.file_layers(file, context)?;
        let mut stages = vec![self.stage(&name, program, "wasm", files.clone())?];
        for (platform, path) in &self.native {
            let program = program_file(context, file, path.trim_start_matches("./"))?;
            check_native(platform, path, &program, spool).map_err(wrong)?;
            let name = path.rsplit('/').next().unwrap_or(path);
            stages.push(self.stage(name, program, &format!("native.{platform}"), files.clone())?);
        }
        Ok(Described::Images(stages))
    }

    fn stage(
        &self,
        name: &str,
        program: Item,
        made_by: &str,
        files: Vec<Added>,
    ) -> Result<Stage, Error> {
        let mut stage = Stage::scratch();
        let mut items = Items::default();
        let program = match program {
            Item::File { source, .. } => Item::File { mode: MODE_EXECUTABLE, source },
            other => other,
        };
        items.put(name, program, &|_| None);
        stage.added.push(Added { items, made_by: made_by.to_owned() });
        stage.added.extend(files);
        let mut config = ExecutionConfig {
            entrypoint: Some(vec![format!("/{name}")]),
            ..ExecutionConfig::default()
        };
        config.entrypoint.get_or_insert_default().extend(self.args.iter().cloned());
        for (name, value) in &self.env {
            set_env(config.env.get_or_insert_default(), name, value);
        }
        for port in &self.ports {
            let port = ports(&port.to_string()).map_err(|why| Error::BuildFile {
                file: NAME.to_owned(),
                line: None,
                why,
            })?;
            config
                .exposed_ports
                .get_or_insert_default()
                .extend(port.into_iter().map(|port| (port, empty_object())));
        }
        let mut labels = self.labels.clone();
        if !self.wants.is_empty() {
            labels.insert(image::WANTS_KEY.to_owned(), wants_text(&self.wants));
        }
        config.labels = (!labels.is_empty()).then_some(labels);
        stage.config = config;
        Ok(stage)
    }

    fn file_layers(&self, file: &str, context: &Context) -> Result<Vec<Added>, Error> {
        let layer = |(guest, host): (&String, &String)| {
            let wrong = |why: String| Error::BuildFile { file: file.to_owned(), line: None, why };
            let target = guest
                .strip_prefix('/')
                .ok_or_else(|| wrong(format!("`{guest}` in `files` is not absolute")))?;
            let bad = |why| wrong(format!("`{guest}` in `files` cannot be in an image: {why}"));
            let target =
                image::normal_name(if target.is_empty() { b"." } else { target.as_bytes() })
                    .map_err(bad)?;
            let host = host.trim_start_matches("./").trim_end_matches('/');
            let found = context.walk(if host == "." { "" } else { host })?;
            if found.is_empty() {
                return Err(missing(file, host, context));
            }
            let mut items = Items::default();
            for (below, item) in found {
                let path = joined(target, &below);
                if let Item::Symlink { target } = &item
                    && image::link_leaves(&path, target)
                {
                    return Err(wrong(format!(
                        "`{path}` would be a link that leaves the image, to `{target}`"
                    )));
                }
                image::normal_name(if path.is_empty() { b"." } else { path.as_bytes() })
                    .map_err(bad)?;
                items.put(&path, item, &|_| None);
            }
            Ok(Added { items, made_by: format!("files.\"{guest}\"") })
        };
        self.files.iter().map(layer).collect()
    }
}

/// The file at `path`, to be run.
fn program_file(context: &Context, file: &str, path: &str) -> Result<Item, Error> {
    match context.find(path)? {
        Some(Found::File) => context.file(path),
        Some(Found::Folder) => Err(Error::Context {
            path: path.to_owned(),
            why: "is a folder, and not a program".into(),
        }),
        None => Err(missing(file, path, context)),
    }
}

fn missing(file: &str, path: &str, context: &Context) -> Error {
    Error::CopyMissing {
        file: file.to_owned(),
        line: None,
        source_path: path.to_owned(),
        tree: format!("the build context `{}`", context.path().display()),
        ignored: context.leaves_out(path),
    }
}

/// The one `.wasm` directly in the context.
pub(crate) fn only_wasm(context: &Context) -> Result<String, Error> {
    let mut found = context.glob("*.wasm")?;
    let none = |why: String| Error::NoBuildFile { path: context.path().to_owned(), why };
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (Some(_), more) => {
            Err(none(format!("there are {} `.wasm` files in it: say which", more + 1)))
        }
        (None, _) => {
            let sources = [
                ("Cargo.toml", "cargo build --release --target wasm32-wasip2"),
                ("go.mod", "GOOS=wasip1 GOARCH=wasm go build -o app.wasm"),
            ];
            for (name, command) in sources {
                if context.find(name)? == Some(Found::File) {
                    let why = format!(
                        "it has a `{name}` and no `.wasm`: build it first, as with `{command}`"
                    );
                    return Err(none(why));
                }
            }
            Err(none("it has no `Dockerfile`, no `margay.toml` and no `.wasm`".to_owned()))
        }
    }
}

/// Compares the key in `[native]` with what the program is.
fn check_native(
    platform: &str,
    path: &str,
    program: &Item,
    spool: &mut Spool<'_>,
) -> Result<(), String> {
    let wanted = platform.strip_prefix("linux-").filter(|name| !name.is_empty());
    let wanted =
        wanted.ok_or_else(|| format!("`{platform}` in `native` is not like `linux-amd64`"))?;
    let Item::File { source, .. } = program else { return Err(format!("`{path}` is no file")) };
    let head = spool.head(source, 64).map_err(|error| error.to_string())?;
    match (image::sniff(&head), elf_architecture(&head)) {
        (image::Sniffed::Elf, Some(found)) if found == wanted => Ok(()),
        (image::Sniffed::Elf, found) => Err(format!(
            "`{path}` is for {}, not for `{platform}`",
            found.unwrap_or("another machine")
        )),
        (other, _) => Err(format!("`{path}` is {}, not a native program", other.name())),
    }
}
