use std::path::PathBuf;

use crate::{home::Home, images, output::line};

/// Take images in from a file: an archive of `docker save`, an OCI layout (tar or folder), or a .wasm
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  docker save app:v1 -o app.tar && margay load -i app.tar
  margay import ./layout")]
pub struct Args {
    /// The file or folder, as `docker load` takes it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    input: Option<PathBuf>,
    /// The file or folder
    #[arg(required_unless_present = "input")]
    file: Option<PathBuf>,
}

impl Args {
    /// Prints `NAME@DIGEST` for each name.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let path = self.input.or(self.file).unwrap_or_default();
        for image in packager::import(&images::layout(home)?, &path)? {
            image
                .references
                .iter()
                .for_each(|name| line(format_args!("{}", images::pinned(name, image.descriptor.digest))));
        }
        Ok(())
    }
}
