//! A Linux image's `true`: from `exec` of the command line to its exit, and inside a container that
//! runs already.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    docker::Docker,
    machine,
    measure::{self, Contender, Samples},
    platform::Margay,
    podman::{self, Podman},
    start::{bundle, timed},
};

const ROUNDS: usize = 40;
const IMAGE: &str = "margay-bench-true";
const TRUE: &str = "/bin/true";
const NAME: &str = "bench-sleeper";
/// Longer than any benchmark.
const SLEEP: [&str; 2] = ["/bin/sleep", "3600"];

/// `margay run --rm IMAGE true` beside `runc run` of the same program, podman and Docker.
pub fn run(margay: &Margay) -> Result<()> {
    let Some(peers) = Peers::find(margay)? else { return Ok(()) };
    let mut contenders = Vec::new();
    if let Some(runc) = machine::peer("runc", "apt-get install runc") {
        let folder = peers.folder.path();
        bundle(&runc, folder, &[TRUE])?;
        let mut turn = 0;
        contenders.push(Contender::new("runc run", move || {
            turn += 1;
            let id = format!("margay-bench-{}-{turn}", std::process::id());
            timed(Command::new(&runc).args(["run", &id]).current_dir(folder))
        }));
    }
    contenders.push(Contender::new("margay run --rm", || {
        timed(&mut margay.command(["run", "--rm", IMAGE, TRUE]))
    }));
    if let Some(podman) = &peers.podman {
        let run =
            || timed(podman.command().args(["run", "--rm"]).args(podman::RUN).args([IMAGE, TRUE]));
        contenders.push(Contender::new("podman run --rm", run));
    }
    if let Some(docker) = &peers.docker {
        let run = || timed(docker.command().args(["run", "--rm", IMAGE, TRUE]));
        contenders.push(Contender::new("docker run --rm", run));
    }
    table("a Linux image's `true`, to exit", &measure::in_turn(ROUNDS, contenders)?);
    Ok(())
}

/// `exec` of `true` in a container of each, and of a Wasm program in a Wasm task.
pub fn exec(margay: &Margay) -> Result<()> {
    let Some(peers) = Peers::find(margay)? else { return Ok(()) };
    margay.run(["run", "-d", "--name", NAME, IMAGE, SLEEP[0], SLEEP[1]])?;
    let _sleeper = Sleeper(margay, NAME);
    let mut contenders =
        vec![Contender::new("margay exec", || timed(&mut margay.command(["exec", NAME, TRUE])))];
    if let Some(podman) = &peers.podman {
        timed(
            podman
                .command()
                .args(["run", "-d", "--name", NAME])
                .args(podman::RUN)
                .arg(IMAGE)
                .args(SLEEP),
        )?;
        contenders.push(Contender::new("podman exec", || {
            timed(podman.command().args(["exec", NAME, TRUE]))
        }));
    }
    if let Some(docker) = &peers.docker {
        timed(docker.command().args(["run", "-d", "--name", NAME, IMAGE]).args(SLEEP))?;
        contenders.push(Contender::new("docker exec", || {
            timed(docker.command().args(["exec", NAME, TRUE]))
        }));
    }
    let results = measure::in_turn(ROUNDS, contenders)?;
    if let Some(docker) = &peers.docker {
        // Its engine would go on without it.
        timed(docker.command().args(["rm", "-f", NAME]))?;
    }
    table("`true` in a Linux task, to exit", &results);
    println!();
    wasm_exec(margay)
}

fn wasm_exec(margay: &Margay) -> Result<()> {
    margay.build("adopt")?;
    let program = crate::platform::samples().join("hello/hello.wasm");
    let program = program.to_str().context("a path in UTF-8")?;
    let name = "bench-adopt";
    margay.run(["run", "-d", "-p", "0:80", "--name", name, "adopt"])?;
    let _adopt = Sleeper(margay, name);
    let exec = || timed(&mut margay.command(["exec", "--program", program, name]));
    let contender = Contender::new("margay exec --program hello.wasm", exec);
    table("a program in a Wasm task, to exit", &measure::in_turn(ROUNDS, vec![contender])?);
    Ok(())
}

/// A root file system of busybox, and the engines that know it as [`IMAGE`].
struct Peers {
    folder: tempfile::TempDir,
    docker: Option<Docker>,
    podman: Option<Podman>,
}

impl Peers {
    /// Nothing without busybox. An engine that cannot run a container here is named and left out.
    fn find(margay: &Margay) -> Result<Option<Self>> {
        let Some(busybox) = machine::peer("busybox", "apt-get install busybox-static") else {
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin"))?;
        for applet in ["true", "sleep"] {
            std::fs::copy(&busybox, rootfs.join("bin").join(applet))?;
        }
        build(margay, folder.path())?;
        let docker = Docker::find()?;
        if let Some(docker) = &docker {
            docker.import(&rootfs, &serde_json::to_string(&[TRUE])?, IMAGE)?;
        }
        let podman = Podman::find()?;
        if let Some(podman) = &podman {
            podman.import(&rootfs, IMAGE)?;
        }
        let runs = |name, command: &mut Command| match timed(command) {
            Ok(_) => true,
            Err(error) => {
                println!("{name} cannot run a container here and is left out: {error}\n");
                false
            }
        };
        let docker =
            docker.filter(|it| runs("docker", it.command().args(["run", "--rm", IMAGE, TRUE])));
        let podman = podman.filter(|it| {
            runs("podman", it.command().args(["run", "--rm"]).args(podman::RUN).args([IMAGE, TRUE]))
        });
        Ok(Some(Self { folder, docker, podman }))
    }
}

fn build(margay: &Margay, folder: &Path) -> Result<()> {
    let file = format!("FROM scratch\nCOPY rootfs /\nCMD [\"{TRUE}\"]\n");
    std::fs::write(folder.join("Dockerfile"), file)?;
    margay.run(["build", "-t", IMAGE, folder.to_str().context("a path in UTF-8")?]).map(drop)
}

/// A task that ends with the value.
struct Sleeper<'a>(&'a Margay, &'a str);

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut command = self.0.command(["rm", "-f", self.1]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// The first is what the others are compared with.
fn table(title: &str, results: &[(String, Samples)]) {
    let first = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, samples)| {
            [name.clone(), samples.show("ms"), format!("{:.2}", samples.median() / first)]
        })
        .collect();
    measure::table([title, "median (min to max)", &format!("times {}", results[0].0)], &rows);
}
