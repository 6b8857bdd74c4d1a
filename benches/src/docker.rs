//! A Docker engine to measure beside: the one that runs, or one started here without a network.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{load::Server, machine};

/// A client whose engine answers.
pub struct Docker {
    client: PathBuf,
    /// Socket and files of an engine that was started here.
    own: Option<(tempfile::TempDir, Server)>,
}

impl Docker {
    /// The engine that answers; else one that root starts, which ends with the value. What is
    /// missing is said.
    pub fn find() -> Result<Option<Self>> {
        let how =
            "tests/run puts an engine into target/clients/engine/usr/{bin,sbin}; add both to PATH";
        let Some(client) = machine::peer("docker", how) else { return Ok(None) };
        let mut docker = Self { client, own: None };
        if docker.answers() {
            return Ok(Some(docker));
        }
        let Some(engine) = machine::peer("dockerd", how) else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let server = Server::start(
            // Its containers get no network: that is less work for it than a bridge is.
            Command::new(engine)
                .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
                .args([
                    "--data-root",
                    &path("data"),
                    "--exec-root",
                    &path("exec"),
                    "--pidfile",
                    &path("pid"),
                ])
                .args(["--host", &format!("unix://{}", path("socket"))]),
        )?;
        docker.own = Some((folder, server));
        for _ in 0..150 {
            if docker.answers() {
                return Ok(Some(docker));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("dockerd does not answer (it needs root) and is left out.\n");
        Ok(None)
    }

    /// `docker`, told where its engine is.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        if let Some((folder, _)) = &self.own {
            command
                .env("DOCKER_HOST", format!("unix://{}", folder.path().join("socket").display()));
        }
        command
    }

    /// Makes the image `name` of everything in `rootfs`, with `arguments` as its command, in JSON.
    pub fn import(&self, rootfs: &std::path::Path, arguments: &str, name: &str) -> Result<()> {
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(rootfs)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = tar.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let change = format!("CMD {arguments}");
        let output =
            self.command().args(["import", "-c", &change, "-", name]).stdin(stdout).output()?;
        ensure!(
            tar.wait()?.success() && output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn answers(&self) -> bool {
        self.command().arg("info").output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some((folder, server)) = self.own.take() {
            drop(server);
            // The engine mounts its folder on itself and leaves it so.
            let _ = Command::new("umount")
                .arg(folder.path().join("data"))
                .stderr(Stdio::null())
                .status();
        }
    }
}
