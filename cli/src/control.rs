//! The client of the control plane: over the socket in the home, or with a credential.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orchestrator::{Client, Credential};
use serde::Serialize;

use crate::{failure::Advice, home::Home, output::Output, serve::block_on};

/// Options of every verb that talks to a control plane.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Control {
    /// Reach a control plane on another machine with the credential in this file (see
    /// `margay credential create`)
    #[arg(
        long,
        env = "MARGAY_CREDENTIAL",
        hide_env_values = true,
        value_name = "FILE",
        // An empty variable is none.
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    credential: Option<PathBuf>,
}

impl Control {
    /// A client that is not connected yet; an error when the control plane of this home does not
    /// run.
    pub fn client(&self, home: &Home) -> anyhow::Result<Client> {
        if let Some(path) = self.file() {
            let (credential, path) = (read(path)?, path.to_owned());
            return Ok(Client::tls(credential, move |made| write(&path, made)));
        }
        let socket = home.server_socket();
        match disk::connect(&socket) {
            Ok(_) => Ok(Client::unix(socket)),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                bail!(
                    Advice::new(format!("no control plane runs in `{}`", home.path().display()))
                        .hint("start it: margay up")
                )
            }
            Err(error) => Err(error).with_context(|| {
                format!("cannot reach the control plane at `{}`", socket.display())
            }),
        }
    }

    fn file(&self) -> Option<&Path> {
        self.credential.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// Whether the control plane is that of a credential, and not of this home.
    pub fn is_elsewhere(&self) -> bool {
        self.file().is_some()
    }

    /// A client, where there is a control plane to be asked: a credential, or one of this home that
    /// runs.
    pub fn reachable(&self, home: &Home) -> anyhow::Result<Option<Client>> {
        match self.file().is_some() || disk::connect(&home.server_socket()).is_ok() {
            true => self.client(home).map(Some),
            false => Ok(None),
        }
    }

    /// Writes a credential with another secret to the file of `--credential`, when that is the same
    /// credential; says which file.
    pub fn keep_if_used(&self, made: &Credential) -> anyhow::Result<Option<&Path>> {
        let Some(path) = self.file() else { return Ok(None) };
        let used = read(path)?;
        if (&used.tenant, &used.name) != (&made.tenant, &made.name) {
            return Ok(None);
        }
        write(path, made)
            .with_context(|| format!("cannot write the credential to `{}`", path.display()))?;
        Ok(Some(path))
    }
}

/// A credential is some hundred bytes.
const CREDENTIAL_BYTES_MAX: u64 = 16 << 10;

fn read(path: &Path) -> anyhow::Result<Credential> {
    let named = || format!("cannot read the credential in `{}`", path.display());
    let bytes = disk::read_optional(path, CREDENTIAL_BYTES_MAX).with_context(named)?;
    let bytes = bytes.ok_or_else(|| io::Error::from(ErrorKind::NotFound)).with_context(named)?;
    spec::json::from_slice(&bytes).with_context(named)
}

fn write(path: &Path, credential: &Credential) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(credential).map_err(io::Error::other)?;
    disk::write(path, &text, disk::Survives::PowerLoss)
}

/// Options of the subcommands that list objects of a control plane.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl List {
    /// Prints what `ask` gets, one row for each object.
    pub fn run<T: Serialize, R: IntoIterator<Item = String>>(
        self,
        home: &Home,
        ask: impl AsyncFnOnce(&Client) -> Result<Vec<T>, orchestrator::Error>,
        headings: &[&'static str],
        row: impl Fn(&T) -> R,
    ) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        self.output.records(&block_on(ask(&client))?, headings, row)
    }
}
