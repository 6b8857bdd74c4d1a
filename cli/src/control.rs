//! The way to the control plane: its socket in the home, or the credential that somebody handed us.

use std::path::PathBuf;

use anyhow::Context as _;
use orchestrator::{Client, Credential};

use crate::{
    failure::{Advice, fail},
    home::Home,
};

/// Options of every verb that talks to a control plane.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Control {
    /// Reach a control plane on another machine with the credential in this file (see `margay token credential`)
    #[arg(long, env = "MARGAY_CREDENTIAL", hide_env_values = true, value_name = "FILE")]
    credential: Option<PathBuf>,
}

impl Control {
    /// A client; nothing is connected yet, but a platform of ours that does not run is said so in words.
    pub fn client(&self, home: &Home) -> anyhow::Result<Client> {
        if let Some(path) = &self.credential {
            let named = || format!("cannot read the credential in `{}`", path.display());
            let bytes = std::fs::read(path).with_context(named)?;
            let credential: Credential = serde_json::from_slice(&bytes).with_context(named)?;
            return Ok(Client::tls(credential));
        }
        let socket = home.server_socket();
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => Ok(Client::unix(socket)),
            Err(_) => fail(
                Advice::new(format!("no control plane runs in `{}`", home.path().display()))
                    .hint("start it: margay up"),
            ),
        }
    }
}
