//! The client of the control plane: over the socket in the home, or with a credential.

use std::{io::ErrorKind, path::PathBuf};

use anyhow::Context as _;
use orchestrator::{Client, Credential};

use crate::{
    failure::{Advice, fail},
    home::Home,
};

/// Options of every verb that talks to a control plane.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Control {
    /// Reach a control plane on another machine with the credential in this file (see
    /// `margay token credential`)
    #[arg(long, env = "MARGAY_CREDENTIAL", hide_env_values = true, value_name = "FILE")]
    credential: Option<PathBuf>,
}

impl Control {
    /// A client that is not connected yet; an error when the control plane of this home does not
    /// run.
    pub fn client(&self, home: &Home) -> anyhow::Result<Client> {
        if let Some(path) = &self.credential {
            let named = || format!("cannot read the credential in `{}`", path.display());
            let bytes = std::fs::read(path).with_context(named)?;
            let credential: Credential = serde_json::from_slice(&bytes).with_context(named)?;
            return Ok(Client::tls(credential));
        }
        let socket = home.server_socket();
        match disk::connect(&socket) {
            Ok(_) => Ok(Client::unix(socket)),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                fail(
                    Advice::new(format!("no control plane runs in `{}`", home.path().display()))
                        .hint("start it: margay up"),
                )
            }
            Err(error) => Err(error).with_context(|| {
                format!("cannot reach the control plane at `{}`", socket.display())
            }),
        }
    }
}
