//! Which software the images of a registry have.

use clap::ValueEnum;
use registry::{Admin, SbomFormat};

use crate::{output, serve::block_on};

/// Print the bill of material of an image: which software is in it, read from its bytes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packages of Debian, Alpine and Red Hat and their relatives, of npm, Python, Rust and Go, and what a Wasm program says
of itself. Every image is read once, after its push.

Examples:
  margay registry sbom me/cats:1
  margay registry sbom me/cats:1 --format cyclonedx --platform linux/amd64 > cats.json"
)]
pub struct Sbom {
    /// Which one, as in me/cats:1 or me/cats@sha256:…
    #[arg(value_name = "REPOSITORY:TAG")]
    image: String,
    /// The format of the document, JSON in both cases
    #[arg(long, value_enum, default_value = "spdx")]
    format: Format,
    /// Which image of several, as in linux/amd64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// SPDX 2.3
    Spdx,
    /// CycloneDX 1.5
    Cyclonedx,
}

impl Sbom {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let format = match self.format {
            Format::Spdx => SbomFormat::Spdx,
            Format::Cyclonedx => SbomFormat::Cyclonedx,
        };
        let document = block_on(admin.sbom(&self.image, format, self.platform.as_deref()))?;
        output::raw(&document);
        output::line(format_args!(""));
        Ok(())
    }
}
