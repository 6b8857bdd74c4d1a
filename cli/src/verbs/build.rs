use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use packager::{Built, Pull};
use spec::{Platform, Reference};

use super::push;
use crate::{
    failure::{self, Advice},
    flags::remote,
    home::Home,
    images,
    output::{Paint, duration, line, notice, printable, size},
    progress::Progress,
    serve::block_on,
    transfer::{self, Remote},
    unfinished::Unfinished,
};

/// Build an image from a Dockerfile, a margay.toml or a .wasm file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The same input gives the same digest, wherever and whenever it is built. RUN is not executed: build
outside of the image and COPY the result.

Examples:
  margay build -t cats samples/cats
  margay build -t hello hello.wasm
  margay build -t app --build-arg VERSION=1.2 -f Dockerfile.small .
  margay build -t app - < context.tar.gz"
)]
pub struct Args {
    /// Name the image; more than once for several names [default: the `name` of margay.toml, else
    /// that of the folder or file]
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<Reference>,
    /// The build file, `-` for standard input [default: margay.toml, Dockerfile or Containerfile in
    /// the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set an ARG of the Dockerfile; without a value to that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Build for this platform: it is in `TARGETARCH` and its kin, and chooses bases
    #[arg(long, value_name = "OS/ARCH", value_parser = platform)]
    platform: Option<Platform>,
    /// Put a label on the image
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Stop at this stage of the Dockerfile
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// When to fetch the images of FROM and COPY --from: `missing`, `always` (as `--pull` alone) or
    /// `never` (as `--pull=false`)
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "missing",
        default_missing_value = "always",
        hide_default_value = true
    )]
    pull: When,
    /// Send the image to the registries of its names
    #[arg(long)]
    push: bool,
    #[command(flatten)]
    remote: Remote,
    /// Use nothing that earlier builds found out
    #[arg(long)]
    no_cache: bool,
    /// Check the Dockerfile and what it copies, and make no image
    #[arg(long, conflicts_with_all = ["push", "iidfile"])]
    check: bool,
    /// Write the digest of the image into a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// How to show what is done: a build says a line for each layer in any case, and nothing with
    /// `quiet`
    #[arg(long, value_name = "KIND", default_value = "auto", hide_default_value = true)]
    progress: Show,
    /// A secret for RUN, which is not supported: no other instruction can use one
    #[arg(long, value_name = "id=NAME[,src=FILE]")]
    secret: Vec<String>,
    /// Say nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// The folder with the files, one .wasm file, or `-` for a tar or a Dockerfile on standard
    /// input
    #[arg(default_value = ".")]
    context: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Missing,
    #[value(alias = "true")]
    Always,
    #[value(alias = "false")]
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Show {
    Auto,
    Plain,
    Tty,
    Quiet,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name.is_empty() {
        true => Err(format!("`{text}` is not NAME=VALUE")),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

fn platform(text: &str) -> Result<Platform, String> {
    match text.contains(',') {
        true => Err("a build makes an image for one platform: build once for each".to_owned()),
        false => packager::parse_platform(text)
            .ok_or_else(|| format!("`{text}` is not a platform like linux/amd64")),
    }
}

impl Args {
    /// Prints `NAME@DIGEST` for each name.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let quiet = self.quiet || self.progress == Show::Quiet;
        let layout = images::layout(home)?;
        let input = Input::of(&self.context, self.file.as_deref())?;
        let fetch = |image: &Reference| fetch(home, image, &self.remote, quiet);
        let build = packager::Build {
            file: input.file.as_deref(),
            args: arguments(&self.build_arg),
            platform: self.platform.clone(),
            labels: self.label.iter().cloned().collect(),
            target: self.target.as_deref(),
            tags: self.tags.clone(),
            source_date: source_date()?,
            reuse: !self.no_cache,
            pull: match self.pull {
                When::Missing => Pull::Missing(&fetch),
                When::Always => Pull::Always(&fetch),
                When::Never => Pull::Never,
            },
            ..packager::Build::of(&input.context, &layout)
        };
        if self.check {
            return check(&build).map_err(|error| input.explain(error));
        }
        let built = packager::build(&build).map_err(|error| input.explain(error.into()))?;
        if !quiet {
            if !self.secret.is_empty() {
                warn("`--secret` is for RUN, which no build executes: it is not used");
            }
            tell(&built, &input);
        }
        if let Some(path) = &self.iidfile {
            let text = built.descriptor.digest.to_string();
            fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        match quiet {
            true => line(format_args!("{}", built.descriptor.digest)),
            false => images::print_pinned(&built.references, built.descriptor.digest),
        }
        match self.push {
            true => self.push_all(home, &built, quiet),
            false => Ok(()),
        }
    }

    fn push_all(&self, home: &Home, built: &Built, quiet: bool) -> anyhow::Result<()> {
        if self.tags.is_empty() {
            bail!(
                Advice::new(
                    "`--push` sends the image to the registry of its name, and it has none"
                )
                .hint("name it: -t HOST:PORT/NAME")
            );
        }
        for image in &built.references {
            let pushed = push::push(home, image, &self.remote, Progress::new(quiet));
            let pushed = block_on(pushed)?;
            if !quiet {
                let s = if pushed.layers == 1 { "" } else { "s" };
                let size = size(pushed.bytes);
                notice(format_args!("Pushed {} blob{s} ({size}) to {image}.", pushed.layers));
            }
        }
        Ok(())
    }
}

/// What is read, and the folder that holds it when it came through standard input.
struct Input {
    context: PathBuf,
    file: Option<PathBuf>,
    /// Standard input was a Dockerfile, with no files beside it.
    is_bare: bool,
    /// Removed at the end.
    folder: Option<(tempfile::TempDir, Unfinished)>,
}

impl Input {
    fn of(context: &Path, file: Option<&Path>) -> anyhow::Result<Self> {
        let stdin = Path::new("-");
        let (from_stdin, file_from_stdin) = (context == stdin, file == Some(stdin));
        if let Some(address) = remote(context) {
            bail!(
                Advice::new(format!("`{address}` is no folder: a build fetches no context"))
                    .hint(format!(
                        "git clone {address}, and build the folder; an archive: curl -sSfL {address} | \
                         margay build -"
                    ))
            );
        }
        let name = context.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if context.is_file() && images::is_build_file(name) {
            let folder = context.parent().filter(|folder| !folder.as_os_str().is_empty());
            let (file, folder) = (context.display(), folder.unwrap_or(Path::new(".")).display());
            bail!(
                Advice::new(format!("`{file}` is a build file, and a build starts from a folder"))
                    .hint(format!("name both: margay build -t NAME -f {file} {folder}"))
            );
        }
        ensure!(
            !(from_stdin && file_from_stdin),
            "standard input is either the build file or the context, and not both"
        );
        if !from_stdin && !file_from_stdin {
            let (context, file) = (context.to_owned(), file.map(Path::to_owned));
            return Ok(Self { context, file, is_bare: false, folder: None });
        }
        let folder = tempfile::tempdir().context("cannot make a folder for standard input")?;
        let removed = Unfinished::new(folder.path())?;
        let inside = folder.path().join("context");
        fs::create_dir(&inside).context("cannot make a folder for standard input")?;
        if from_stdin && unpacked(&inside)? {
            let file = file.map(|file| inside.join(file));
            return Ok(Self {
                context: inside,
                file,
                is_bare: false,
                folder: Some((folder, removed)),
            });
        }
        let path = folder.path().join("Dockerfile");
        let read = folder.path().join("stdin");
        match from_stdin {
            true => fs::rename(&read, &path).context("cannot keep standard input")?,
            false => keep_stdin(&path)?,
        }
        let context = if from_stdin { inside } else { context.to_owned() };
        let is_bare = from_stdin;
        Ok(Self { context, file: Some(path), is_bare, folder: Some((folder, removed)) })
    }

    /// A fault of what came through standard input names that, and not the folder that holds it.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let Some((folder, _)) = &self.folder else { return error };
        let advice = failure::about_stdin(&error, &folder.path().join("context"));
        let advice = match self.is_bare && advice.to_string().contains("in the build context `-`") {
            true => advice.hint(
                "a Dockerfile on standard input has no files beside it: name their folder, \
                 margay build -f - FOLDER",
            ),
            false => advice,
        };
        advice.into()
    }
}

fn keep_stdin(path: &Path) -> anyhow::Result<()> {
    let mut file = fs::File::create(path).context("cannot keep standard input")?;
    let mut input = std::io::stdin().lock().take(packager::ARCHIVE_BYTES_MAX);
    std::io::copy(&mut input, &mut file).context("cannot read standard input")?;
    file.flush().context("cannot keep standard input")
}

/// Whether standard input is a tar; then it is in `folder`, else in the file `stdin` beside it.
fn unpacked(folder: &Path) -> anyhow::Result<bool> {
    let path = folder.with_file_name("stdin");
    keep_stdin(&path)?;
    Ok(packager::unpack_context(&path, folder)?)
}

/// `NAME` is that of the environment, where it has one.
fn arguments(given: &[String]) -> BTreeMap<String, String> {
    let pairs = given.iter().filter_map(|text| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    });
    pairs.collect()
}

fn fetch(home: &Home, image: &Reference, remote: &Remote, quiet: bool) -> Result<(), String> {
    let (entries, progress) = (transfer::entry_of_this_machine(), Progress::new(quiet));
    let pulled = block_on(transfer::pull(home, image, remote, entries, progress));
    pulled.map(drop).map_err(|error| format!("{error:#}"))
}

fn check(build: &packager::Build<'_>) -> anyhow::Result<()> {
    let warnings = packager::check(build)?;
    for warning in &warnings {
        warn(&warning.to_string());
    }
    match warnings.len() {
        0 => line(format_args!("Check complete, no warnings found.")),
        1 => line(format_args!("Check complete, 1 warning has been found!")),
        count => line(format_args!("Check complete, {count} warnings have been found!")),
    }
    Ok(())
}

/// <https://reproducible-builds.org/specs/source-date-epoch>: the one way in which time reaches an
/// image.
pub fn source_date() -> anyhow::Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| {
            format!("SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds")
        }),
        Err(_) => Ok(0),
    }
}

fn warn(text: &str) {
    notice(format_args!("{} {}", Paint::on_stderr().warn("note:"), printable(text)));
}

fn tell(built: &Built, input: &Input) {
    for layer in &built.layers {
        let state = if layer.reused { "there already" } else { "new" };
        notice(format_args!(
            "{}  {:>9}  {state:<13}  {}",
            layer.digest.short(),
            size(layer.size),
            printable(&layer.created_by)
        ));
    }
    for warning in &built.warnings {
        warn(&warning.to_string());
    }
    for want in &built.wants {
        notice(format_args!("wants {want}"));
    }
    // What came through standard input lies in a folder that means nothing to its reader.
    let file = match &input.folder {
        Some((folder, _)) if built.build_file.starts_with(folder.path()) => Path::new("-"),
        _ => &built.build_file,
    };
    notice(format_args!("Built from {} in {}.", file.display(), duration(built.took)));
}
