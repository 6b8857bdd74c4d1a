//! A server with a certificate that runs apart from `margay up`: the process that was started goes
//! on reading the files of the certificate, and a second one serves, with less than that.

use std::net::TcpListener;

use crate::{
    home::Home,
    serve::{ShutdownSignal, block_on, keep_agent_capabilities},
};

use super::{
    copies::{self, Holder},
    front::Certificate,
    supervisor::Process,
};

/// Runs the verb `name` with `arguments` and a copy of `certificate` until it ends, and ends as it
/// does. To be called before this process has a second thread.
pub fn serve(
    home: &Home,
    name: &'static str,
    arguments: Vec<String>,
    listeners: Vec<(&'static str, TcpListener)>,
    certificate: &Certificate,
    holder: Holder,
) -> anyhow::Result<()> {
    keep_agent_capabilities()?;
    let copies = certificate.copies(home, &[holder])?;
    let arguments = arguments.into_iter().chain(holder.arguments(home)).collect();
    let mut process = Process::new(name, arguments, listeners);
    let code = block_on(async {
        let mut shutdown = ShutdownSignal::listen()?;
        process.start(home)?;
        let ended = tokio::select! {
            status = process.ended() => Some(status),
            () = shutdown.recv() => None,
            never = copies::keep_up(copies.as_ref()) => match never {},
        };
        anyhow::Ok(match ended {
            Some(status) => status.code(),
            None => process.drain().await.and_then(|status| status.code()),
        })
    })?;
    match code {
        Some(0) => Ok(()),
        // It has said why.
        Some(code) => std::process::exit(code),
        None => anyhow::bail!("the {name} was ended by a signal"),
    }
}
