use std::time::Instant;

use anyhow::Context as _;

use crate::{
    home::Home,
    output::{Paint, duration, line, notice},
    platform::{self, Restarts, Settings, record::Record},
    serve::block_on,
};

/// Run a platform here: control plane, registry, ingress and one node
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Four processes; one that dies is started again. Ctrl-C ends them and every task on the node; a
second one does not wait for them, and the next `margay up` takes over what then still runs.
Everything is kept in MARGAY_HOME, so the next `margay up` goes on where this one stopped."
)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let started = Instant::now();
        // What a shell left open, no process of the platform inherits.
        sandbox::close_other_descriptors(&[]).context("cannot close inherited descriptors")?;
        block_on(platform::run(home, &self.settings, Restarts::Always, async |record| {
            line(format_args!("margay is up ({}); Ctrl-C ends it", duration(started.elapsed())));
            introduce(&record, home);
            warn_others(&record, &self.settings);
            std::future::pending().await
        }))
    }
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
