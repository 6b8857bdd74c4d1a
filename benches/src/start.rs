//! From `exec` to exit of a hello, as a shell sees it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, ensure};

use crate::{
    docker::Docker,
    machine,
    measure::{self, Contender},
    platform::Margay,
};

const ROUNDS: usize = 40;
const ECHO: [&str; 3] = ["/bin/busybox", "echo", "hello"];
const IMAGE: &str = "margay-bench-echo";

/// `margay run hello`, `runc run` and `docker run` of busybox's echo.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("hello")?;
    let folder = tempfile::tempdir()?;
    let busybox = machine::peer("busybox", "apt-get install busybox-static");
    if let Some(busybox) = &busybox {
        std::fs::create_dir_all(folder.path().join("rootfs/bin"))?;
        std::fs::copy(busybox, folder.path().join("rootfs/bin/busybox"))?;
    }
    let docker = if busybox.is_some() { Docker::find()? } else { None };
    let mut contenders = vec![Contender::new("margay run hello", || {
        timed(&mut margay.command(["run", "--rm", "hello"]))
    })];
    if let Some(runc) = machine::peer("runc", "apt-get install runc").filter(|_| busybox.is_some())
    {
        bundle(&runc, folder.path(), &ECHO)?;
        let mut turn = 0;
        let bundle = folder.path();
        contenders.push(Contender::new("runc run (busybox echo)", move || {
            turn += 1;
            let id = format!("margay-bench-{}-{turn}", std::process::id());
            timed(Command::new(&runc).args(["run", &id]).current_dir(bundle))
        }));
    }
    if let Some(docker) = &docker {
        docker.import(&folder.path().join("rootfs"), &serde_json::to_string(&ECHO)?, IMAGE)?;
        let run = || timed(docker.command().args(["run", "--rm", IMAGE]));
        contenders.push(Contender::new("docker run (busybox echo)", run));
    }
    let results = measure::in_turn(ROUNDS, contenders)?;
    let margay = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, samples)| {
            [
                name.clone(),
                samples.show("ms"),
                format!("{:.1} ms", samples.quantile(0.99)),
                format!("{:.2}", samples.median() / margay),
            ]
        })
        .collect();
    measure::table(
        ["to exit, machine code cached", "median (min to max)", "p99", "times margay"],
        &rows,
    );
    Ok(())
}

/// Milliseconds from `exec` to success.
pub fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let output = command.output()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(time)
}

/// A runtime-spec bundle of the `rootfs` in `folder`, with `args` as its program.
pub fn bundle(runc: &Path, folder: &Path, args: &[&str]) -> Result<()> {
    let status = Command::new(runc).arg("spec").current_dir(folder).status()?;
    ensure!(status.success(), "runc spec failed");
    let path = folder.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(args);
    std::fs::write(&path, serde_json::to_vec(&spec)?)?;
    Ok(())
}
