use serde::Serialize;

use crate::output::Output;

/// Show the version and what it was built for
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    os: &'static str,
    architecture: &'static str,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let version = Version {
            version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        };
        self.output
            .record(&version, |v| format!("margay {} {}/{}", v.version, v.os, v.architecture))
    }
}
