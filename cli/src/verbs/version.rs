use serde::Serialize;
use serde_json::{Value, json};

use crate::{listing::Single, output::Output};

/// Show the version and what it was built for
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields: .Version .Os .Arch, and the same below .Client and .Server")]
pub struct Args {
    #[command(flatten)]
    form: Single,
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
        match self.form.template()? {
            Some(lines) => lines.print(&version.docker()),
            None => self
                .output
                .record(&version, |v| format!("margay {} {}/{}", v.version, v.os, v.architecture)),
        }
    }
}

impl Version {
    /// One binary is Docker's client and server.
    fn docker(&self) -> Value {
        let arch = match self.architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let part = json!({"Version": self.version, "Os": self.os, "Arch": arch});
        json!({
            "Client": part, "Server": part,
            "Version": self.version, "Os": self.os, "Arch": arch,
        })
    }
}
