use std::{
    fs::File,
    io::{BufWriter, IsTerminal as _, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use spec::Reference;

use crate::{
    failure::{Advice, MISUSED, fail},
    home::Home,
    images,
};

/// Write an image to a file: a tar of an OCI layout, which `docker load` takes as well
#[derive(Debug, clap::Args)]
#[command(after_help = "The same image gives the same bytes.

Example:
  margay save -o cats.tar cats")]
pub struct Args {
    /// The file to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which image
    image: Reference,
}

impl Args {
    /// Writes the whole file, or none.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let layout = images::layout(home)?;
        let descriptor = images::known(&layout, &self.image)?;
        let Some(path) = self.output else {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                return fail(
                    Advice::new("an image is no text for a terminal")
                        .hint("write a file: margay save -o FILE IMAGE")
                        .code(MISUSED),
                );
            }
            return Ok(packager::export(&layout, &self.image, &descriptor, BufWriter::new(stdout.lock()))?);
        };
        let named = || format!("cannot write `{}`", path.display());
        let mut file = BufWriter::new(File::create(&path).with_context(named)?);
        let written = packager::export(&layout, &self.image, &descriptor, &mut file);
        if let Err(error) = written {
            let _ = std::fs::remove_file(&path);
            return Err(error.into());
        }
        file.flush().with_context(named)
    }
}
