use crate::{
    home::Home,
    output::{Paint, duration, line, notice},
    platform::{self, Platform, Settings, record::Record},
    serve::{ShutdownSignal, block_on},
};

/// The ports of `margay up`, as `margay doctor` looks at them.
pub const DEFAULT_PORTS: [(&str, u16); 3] = [
    ("control plane port", platform::SERVER_PORT),
    ("registry port", platform::REGISTRY_PORT),
    ("ingress port", platform::INGRESS_PORT),
];

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
    /// Starts it, says where it is, and stays until it is asked to end.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        block_on(async {
            let started = std::time::Instant::now();
            let mut shutdown = ShutdownSignal::listen()?;
            let Some(mut platform) = Platform::start(home, &self.settings, &mut shutdown).await?
            else {
                return Ok(());
            };
            line(format_args!("margay is up ({}); Ctrl-C ends it", duration(started.elapsed())));
            introduce(&platform.record, home);
            warn_others(&platform.record);
            let result = tokio::select! {
                () = shutdown.recv() => Ok(()),
                result = platform.supervise() => result,
            };
            platform.stop(&mut shutdown).await;
            result
        })
    }
}

/// Passwords of the registry travel as they are typed.
fn warn_others(record: &Record) {
    if !record.registry.ip().is_loopback() {
        let warning = Paint::on_stderr().warn("note:");
        notice(format_args!(
            "{warning} other machines reach the registry at {} in plain HTTP: use it in a network that you trust, or behind \
             a proxy that ends TLS",
            record.registry
        ));
    }
}

fn introduce(record: &Record, home: &Home) {
    let Record { user, server, .. } = record;
    let registry = record.registry_name();
    line(format_args!("  registry       {registry}    margay login -u {user} {registry}"));
    line(format_args!("  ingress        {}", record.url("SERVICE.CLUSTER.localhost")));
    line(format_args!(
        "  control plane  {server}    a second node: margay token create, margay node join TOKEN"
    ));
    line(format_args!(
        "  password       of `{user}` at the registry: {}",
        platform::password_file(home).display()
    ));
}
