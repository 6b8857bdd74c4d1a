use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Subcommand;
use orchestrator::{Certificate, Client};
use spec::{CertificateName, SecretValue, Timestamp};

use crate::{
    control::{Control, List},
    flags,
    home::Home,
    output::{human, json, line, now},
    serve::block_on,
};

/// Create, list, inspect, replace and remove certificates of host names
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Upload a certificate: ingresses show it to clients of its hosts that a service answers for
    Create {
        /// Its name, which the hosts in it do not depend on
        name: CertificateName,
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        control: Control,
    },
    /// Put another certificate in its place, as before it expires
    Update {
        /// Its name
        name: CertificateName,
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        control: Control,
    },
    /// List certificates, with their hosts and when they expire
    #[command(alias = "list")]
    Ls(List),
    /// Show what may be known of certificates, as JSON: everything but their keys
    Inspect {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<CertificateName>,
        #[command(flatten)]
        control: Control,
    },
    /// Remove certificates: their hosts are shown another one, or none
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<CertificateName>,
        #[command(flatten)]
        control: Control,
    },
}

#[derive(Debug, clap::Args)]
pub struct Files {
    /// The certificate and its intermediates, in a PEM file
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its private key, in a PEM file
    #[arg(long, value_name = "FILE|-")]
    key: PathBuf,
}

/// A chain is far shorter; what is wrong with a shorter one, the control plane says.
const CHAIN_BYTES_MAX: u64 = 1 << 20;

impl Files {
    fn read(&self) -> anyhow::Result<(String, SecretValue)> {
        Ok((chain(&self.cert)?, flags::secret(&self.key)?))
    }
}

fn chain(path: &Path) -> anyhow::Result<String> {
    let named = || format!("cannot read a certificate from `{}`", path.display());
    let size = std::fs::metadata(path).with_context(named)?.len();
    ensure!(size <= CHAIN_BYTES_MAX, "`{}` has {size} bytes: no certificate has", path.display());
    // Of a file in DER the control plane says what it should be.
    let bytes = std::fs::read(path).with_context(named)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create { name, files, control } => {
                let (chain, key) = files.read()?;
                let client = control.client(home)?;
                let made = block_on(client.create_certificate(&name, chain, key))?;
                line(format_args!("{}", made.name));
                Ok(())
            }
            Self::Update { name, files, control } => {
                let (chain, key) = files.read()?;
                let client = control.client(home)?;
                let made = block_on(client.replace_certificate(&name, chain, key))?;
                line(format_args!("{}", made.name));
                Ok(())
            }
            Self::Ls(list) => {
                let headings = ["NAME", "HOSTS", "EXPIRES", "ISSUER"];
                list.run(home, Client::certificates, &headings, |certificate: &Certificate| {
                    let hosts: Vec<String> =
                        certificate.hosts.iter().map(ToString::to_string).collect();
                    let expires = expires(certificate.not_after, now());
                    [
                        certificate.name.to_string(),
                        hosts.join(", "),
                        expires,
                        certificate.issuer.clone(),
                    ]
                })
            }
            Self::Inspect { names, control } => {
                let client = control.client(home)?;
                let certificates = names.iter().map(|name| block_on(client.certificate(name)));
                json(&certificates.collect::<Result<Vec<_>, _>>()?)
            }
            Self::Rm { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.remove_certificate(name))
            }
        }
    }
}

fn expires(at: Timestamp, now: Timestamp) -> String {
    match at > now {
        true => format!("in {}", human(at.since(now)).to_lowercase()),
        false => format!("expired {} ago", human(now.since(at)).to_lowercase()),
    }
}
