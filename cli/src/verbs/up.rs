use std::{process::ExitCode, time::Instant};

use anyhow::Context as _;

use crate::{
    home::Home,
    output::{Paint, duration, line, notice, raw},
    platform::{
        self, Restarts, Settings, background, log_file::LogFile, reboot, record::Record,
        service_manager,
    },
    serve::block_on,
};

/// Run a platform here: control plane, registry, ingress and one node
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Four processes; one that dies is started again. Ctrl-C ends them and every task on the node; a
second one does not wait for them, and the next `margay up` takes over what then still runs. With -d
`margay down` ends them, and what they have to say is in MARGAY_HOME/run/up.log.
Everything is kept in MARGAY_HOME, so the next `margay up` goes on where this one stopped.
Tasks of `margay run` that a reboot has ended come back with it, as their --restart says."
)]
pub struct Args {
    /// Return once it serves; it runs on in the background
    #[arg(short, long)]
    detach: bool,
    /// Print a unit of systemd that runs it with these options, and start nothing
    #[arg(long)]
    systemd_unit: bool,
    /// The process that waits until this one serves in the background
    #[arg(long, hide = true, value_name = "PID")]
    caller: Option<i32>,
    #[command(flatten)]
    settings: Settings,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        if self.systemd_unit {
            raw(service_manager::unit(home, &unit_arguments(std::env::args()))?.as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
        if self.detach && self.caller.is_none() {
            return background::start(home);
        }
        self.caller.map_or(Ok(()), background::settle)?;
        let started = Instant::now();
        // What a shell left open, no process of the platform inherits.
        sandbox::close_other_descriptors(&[]).context("cannot close inherited descriptors")?;
        block_on(platform::run(home, &self.settings, Restarts::Always, async |record| {
            let end = if self.caller.is_some() { "margay down" } else { "Ctrl-C" };
            line(format_args!("margay is up ({}); {end} ends it", duration(started.elapsed())));
            introduce(&record, home);
            warn_others(&record, &self.settings);
            service_manager::tell("READY=1");
            reboot::bring_back(home);
            if self.caller.is_none() {
                return std::future::pending().await;
            }
            let log = LogFile::open(home)?;
            line(format_args!("  log            {}", LogFile::path(home).display()));
            background::let_go()?;
            match log.keep_short().await {}
        }))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Of the words of this command line, those that a unit has too; it names the home itself.
fn unit_arguments(mut words: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let is_ours = |word: &str| ["--systemd-unit", "-d", "--detach"].contains(&word);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--home" => drop(words.next()),
            word if is_ours(word) || word.starts_with("--home=") => {}
            _ => kept.push(word),
        }
    }
    // The program, and this verb.
    kept.drain(..kept.len().min(2));
    kept
}

/// With `--insecure` passwords of the registry travel as they are typed.
fn warn_others(record: &Record, settings: &Settings) {
    if !record.registry.ip().is_loopback() && settings.url.insecure {
        let warning = Paint::on_stderr().warn("note:");
        notice(format_args!(
            "{warning} other machines may reach the registry at {} in plain HTTP: use it in a network that you trust",
            record.registry
        ));
    }
}

fn introduce(record: &Record, home: &Home) {
    let Record { user, server, .. } = record;
    let registry = record.registry_name();
    line(format_args!("  registry       {registry}    margay login -u {user} {registry}"));
    if !record.registry.ip().is_loopback() {
        let ca = home.path().join("server/ca.pem");
        line(format_args!("  its authority  {}    for margay login --ca", ca.display()));
    }
    line(format_args!(
        "  ingress        {}",
        record.url(&format!("SERVICE.CLUSTER.{}", record.domain))
    ));
    line(format_args!(
        "  control plane  {server}    a second node: margay node token, margay node join TOKEN"
    ));
    line(format_args!(
        "  password       of `{user}` at the registry: {}",
        platform::password_file(home).display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_the_options_of_its_command_line() {
        for (line, want) in [
            ("margay up --systemd-unit", ""),
            (
                "margay up -d --leave --systemd-unit --domain a.example",
                "--leave --domain a.example",
            ),
            ("margay --home /h up --leave --systemd-unit", "--leave"),
            ("margay up --systemd-unit --home=/h --listen 0.0.0.0", "--listen 0.0.0.0"),
        ] {
            let words = line.split(' ').map(str::to_owned);
            assert_eq!(unit_arguments(words).join(" "), want, "{line}");
        }
    }
}
