use std::{
    fs::File,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    failure::{Advice, MISUSED, fail},
    home::Home,
    images,
    output::line,
};

/// Take images in from a file: an archive of `docker save`, an OCI layout (tar or folder), or a .wasm
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  docker save app:v1 | margay load
  margay load -i app.tar
  margay import ./layout")]
pub struct Args {
    /// The file or folder, as `docker load` takes it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    input: Option<PathBuf>,
    /// The file or folder [default: stdin]
    file: Option<PathBuf>,
}

impl Args {
    /// Prints `NAME@DIGEST` for each name.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self.input.or(self.file) {
            Some(path) if path != Path::new("-") => import(home, &path),
            _ => import_stdin(home),
        }
    }
}

fn import(home: &Home, path: &Path) -> anyhow::Result<()> {
    for image in packager::import(&images::layout(home)?, path)? {
        image
            .references
            .iter()
            .for_each(|name| line(format_args!("{}", images::pinned(name, image.descriptor.digest))));
    }
    Ok(())
}

/// An archive is read more than once, and a pipe only once: it becomes a file first.
fn import_stdin(home: &Home) -> anyhow::Result<()> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return fail(Advice::new("an image is nothing to type").hint("name a file: margay load -i FILE").code(MISUSED));
    }
    let path = home.folder("run")?.join(format!("stdin-{}.tar", std::process::id()));
    let spooled = File::create(&path).and_then(|mut file| std::io::copy(&mut stdin, &mut file));
    let imported =
        spooled.with_context(|| format!("cannot write `{}`", path.display())).and_then(|_| import(home, &path));
    let _ = std::fs::remove_file(&path);
    imported
}
