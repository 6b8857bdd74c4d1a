use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// margay as a user starts it, in a home of its own.
pub struct Margay {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Margay {
    /// The binary beside this one, in a fresh home.
    pub fn at_home() -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("margay");
        ensure!(program.is_file(), "`{}` is not there: cargo build --release", program.display());
        Ok(Self { program, home: private()? })
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The binary that the environment variable `MARGAY_BEFORE` names, in a fresh home: what this
    /// one is compared with.
    pub fn before() -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("MARGAY_BEFORE").map(PathBuf::from) else {
            return Ok(None);
        };
        ensure!(program.is_file(), "`{}` is not there: see MARGAY_BEFORE", program.display());
        Ok(Some(Self { program, home: private()? }))
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `margay ARGS`.
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("MARGAY_HOME", self.home.path());
        command
    }

    /// `margay ARGS` on core 0, where the servers under load live.
    pub fn pinned<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = crate::machine::pinned(0, &self.program);
        command.args(args).env("MARGAY_HOME", self.home.path());
        command
    }

    /// Runs `margay ARGS` to success and gives what it printed.
    pub fn run<const N: usize>(&self, args: [&str; N]) -> Result<String> {
        let output = self.command(args).output()?;
        ensure!(
            output.status.success(),
            "margay {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Builds one of the samples and tags it with its name.
    pub fn build(&self, sample: &str) -> Result<()> {
        let folder = samples().join(sample);
        self.run(["build", "-t", sample, folder.to_str().context("a path in UTF-8")?]).map(drop)
    }
}

/// A folder for a home: margay refuses one with files in it that others may read.
fn private() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir()
}

/// The samples of this checkout.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")
}
