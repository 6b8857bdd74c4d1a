//! A second build of an unchanged tree.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, ensure};

use crate::{
    machine,
    measure::{self, Contender},
    platform::Margay,
};

const ROUNDS: usize = 20;

/// A context with a program and 1 MB of files, by margay, and by podman where it is installed.
pub fn run(margay: &Margay) -> Result<()> {
    let context = tempfile::tempdir()?;
    let folder = context.path().to_str().expect("temporary folders have UTF-8 names");
    std::fs::create_dir(context.path().join("files"))?;
    std::fs::copy(
        crate::platform::samples().join("hello/hello.wasm"),
        context.path().join("app.wasm"),
    )?;
    for n in 0..16u8 {
        let noise: Vec<u8> = (0..65_536u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(u32::from(n)) >> 24) as u8)
            .collect();
        std::fs::write(context.path().join(format!("files/{n}")), noise)?;
    }
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM scratch\nCOPY files /files\nCOPY app.wasm /app.wasm\nENTRYPOINT [\"/app.wasm\"]\n",
    )?;
    let mut contenders = vec![Contender::new("margay build", || {
        timed(&mut margay.command(["build", "-t", "bench", folder]))
    })];
    if let Some(podman) = machine::peer("podman", "apt-get install podman") {
        let build =
            move || timed(Command::new(&podman).args(["build", "-q", "-t", "bench", folder]));
        contenders.push(Contender::new("podman build", build));
    }
    let results = measure::in_turn(ROUNDS, contenders)?;
    let margay = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, times)| {
            [name.clone(), times.show("ms"), format!("{:.1}", times.median() / margay)]
        })
        .collect();
    measure::table(["nothing changed, 1 MB context", "median (min to max)", "times margay"], &rows);
    Ok(())
}

fn timed(command: &mut Command) -> Result<f64> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let output = command.output()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(time)
}
