//! From `exec` to exit of a hello, as a shell sees it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{
    machine,
    measure::{self, Contender},
    platform::{Margay, samples},
};

const ROUNDS: usize = 40;

/// `margay run hello`, `runc run` of a native hello, `docker run` where an engine answers.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("hello")?;
    let bundles = tempfile::tempdir()?;
    let runc = machine::peer("runc", "apt-get install runc busybox-static");
    if runc.is_some() {
        bundle(bundles.path())?;
    }
    let mut contenders =
        vec![Contender::new("margay run hello", || timed(&mut margay.command(["run", "--rm", "hello"])))];
    if let Some(runc) = &runc {
        let mut turn = 0;
        let bundle = bundles.path();
        contenders.push(Contender::new("runc run (busybox echo)", move || {
            turn += 1;
            let id = format!("margay-bench-{}-{turn}", std::process::id());
            timed(Command::new(runc).args(["run", &id]).current_dir(bundle))
        }));
    }
    if docker() {
        let run = || timed(Command::new("docker").args(["run", "--rm", "hello-world"]));
        contenders.push(Contender::new("docker run --rm hello-world", run));
    } else {
        println!("No Docker engine answers: docker is left out.\n");
    }
    let results = measure::in_turn(ROUNDS, contenders)?;
    let ours = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, samples)| {
            [
                name.clone(),
                samples.show("ms"),
                format!("{:.1} ms", samples.quantile(0.99)),
                format!("{:.2}", samples.median() / ours),
            ]
        })
        .collect();
    measure::table(["to exit, machine code cached", "median (min to max)", "p99", "times margay"], &rows);
    Ok(())
}

fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let output = command.output()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(time)
}

fn docker() -> bool {
    Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success())
}

/// A runtime-spec bundle whose program is busybox's echo.
fn bundle(folder: &Path) -> Result<()> {
    let busybox = machine::find("busybox").context("busybox is not installed: apt-get install busybox-static")?;
    std::fs::create_dir_all(folder.join("rootfs/bin"))?;
    std::fs::copy(busybox, folder.join("rootfs/bin/busybox"))?;
    let status = Command::new(machine::find("runc").context("runc")?).arg("spec").current_dir(folder).status()?;
    ensure!(status.success(), "runc spec failed");
    let path = folder.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/busybox", "echo", "hello"]);
    std::fs::write(&path, serde_json::to_vec(&spec)?)?;
    ensure!(samples().is_dir(), "the samples are not there");
    Ok(())
}
