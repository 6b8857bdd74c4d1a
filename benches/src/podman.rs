//! podman to measure beside, with storage of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::machine;

pub struct Podman {
    client: PathBuf,
    folder: tempfile::TempDir,
}

/// What `run` is told besides. No network is less work than a bridge is; limits as its default has
/// them cannot be set everywhere.
pub const RUN: [&str; 6] =
    ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

impl Podman {
    /// The one that is installed, where it can run a container. What is missing is said.
    pub fn find() -> Result<Option<Self>> {
        let Some(client) = machine::peer("podman", "apt-get install podman") else {
            return Ok(None);
        };
        Ok(Some(Self { client, folder: tempfile::tempdir()? }))
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        for (flag, name) in [("--root", "root"), ("--runroot", "run")] {
            command.arg(flag).arg(self.folder.path().join(name));
        }
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command
    }

    /// Makes the image `name` of everything in `rootfs`.
    pub fn import(&self, rootfs: &Path, name: &str) -> Result<()> {
        let tar = Command::new("tar").arg("-C").arg(rootfs).args(["-c", "."]).output()?;
        let archive = self.folder.path().join("image.tar");
        std::fs::write(&archive, tar.stdout)?;
        let output = self.command().args(["import", "-q"]).arg(&archive).arg(name).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Podman {
    /// With what it mounted: its storage is a mount of itself, each time that it is started anew.
    fn drop(&mut self) {
        let quiet = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        quiet(self.command().args(["rm", "-a", "-f", "-t", "0"]));
        let storage = self.folder.path().join("root/overlay");
        let mut left = 8;
        while left > 0 && quiet(Command::new("umount").arg(&storage)) {
            left -= 1;
        }
    }
}
