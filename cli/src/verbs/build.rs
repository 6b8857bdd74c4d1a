use std::path::PathBuf;

use anyhow::Context as _;
use packager::Built;
use spec::Reference;

use crate::{
    home::Home,
    images,
    output::{Paint, duration, line, notice, printable, size},
};

/// Build an image from a Dockerfile, a margay.toml or a .wasm file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The same input gives the same digest, wherever and whenever it is built. RUN is not executed: build
outside of the image and COPY the result.

Examples:
  margay build -t cats samples/cats
  margay build -t hello hello.wasm
  margay build -t app --build-arg VERSION=1.2 -f Dockerfile.small ."
)]
pub struct Args {
    /// Name the image; more than once for several names [default: the `name` of margay.toml, else
    /// that of the folder or file]
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<Reference>,
    /// The build file [default: Dockerfile or margay.toml in the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set an ARG of the Dockerfile
    #[arg(long, value_name = "NAME=VALUE", value_parser = argument)]
    build_arg: Vec<(String, String)>,
    /// Stop at this stage of the Dockerfile
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Use nothing that earlier builds found out
    #[arg(long)]
    no_cache: bool,
    /// Say nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// The folder with the files, or one .wasm file
    #[arg(default_value = ".")]
    context: PathBuf,
}

fn argument(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

impl Args {
    /// Prints `NAME@DIGEST` for each name.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let Self { tags, file, build_arg, target, no_cache, quiet, context } = self;
        let layout = images::layout(home)?;
        let built = packager::build(&packager::Build {
            file: file.as_deref(),
            args: build_arg.into_iter().collect(),
            target: target.as_deref(),
            tags,
            source_date: source_date()?,
            reuse: !no_cache,
            ..packager::Build::of(&context, &layout)
        })?;
        if quiet {
            line(format_args!("{}", built.descriptor.digest));
            return Ok(());
        }
        tell(&built);
        images::print_pinned(&built.references, built.descriptor.digest);
        Ok(())
    }
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

fn tell(built: &Built) {
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
        let text = warning.to_string();
        notice(format_args!("{} {}", Paint::on_stderr().warn("note:"), printable(&text)));
    }
    for want in &built.wants {
        notice(format_args!("wants {want}"));
    }
    notice(format_args!("Built from {} in {}.", built.build_file.display(), duration(built.took)));
}
