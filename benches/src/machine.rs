use std::{path::PathBuf, process::Command};

/// One line for the top of a report.
pub fn describe() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown processor");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} x {}, Linux {}, load average before: {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?")
    )
}

/// Where `tool` is installed: on PATH, in sbin, or where the environment variable `MARGAY_PEERS`
/// points.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let peers = std::env::var_os("MARGAY_PEERS").map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(peers)
        .map(|folder| folder.join(tool))
        .find(|candidate| candidate.is_file())
}

/// `find`, saying on the report what is left out when it is not there.
pub fn peer(tool: &str, how_to_install: &str) -> Option<PathBuf> {
    let found = find(tool);
    if found.is_none() {
        println!("{tool} is not installed and left out ({how_to_install}).\n");
    }
    found
}

/// A command on one core, where `taskset` is there to pin it.
pub fn pinned(core: usize, program: &std::path::Path) -> Command {
    match find("taskset") {
        Some(taskset) => {
            let mut command = Command::new(taskset);
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    }
}
