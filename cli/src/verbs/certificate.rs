use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Subcommand;
use orchestrator::{Certificate, CertificateOrder, Client};
use serde::Serialize;
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
    /// List certificates, with their hosts, when they expire and how they are renewed
    #[command(alias = "list")]
    Ls(List),
    /// List the certificates that an authority is asked for by ACME, and why there are none yet
    Orders(List),
    /// Ask the authority for other certificates now, in the place of those that it has issued
    Renew {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<CertificateName>,
        #[command(flatten)]
        control: Control,
    },
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
    let bytes = disk::read_stream(path, CHAIN_BYTES_MAX).with_context(named)?;
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
                let headings = ["NAME", "HOSTS", "EXPIRES", "RENEWAL", "ISSUER"];
                list.run(home, listed, &headings, |Listed { certificate, order }| {
                    let hosts: Vec<String> =
                        certificate.hosts.iter().map(ToString::to_string).collect();
                    let expires = expires(certificate.not_after, now());
                    [
                        certificate.name.to_string(),
                        hosts.join(", "),
                        expires,
                        renewal(certificate, order.as_ref()),
                        certificate.issuer.clone(),
                    ]
                })
            }
            Self::Orders(list) => {
                let headings = ["HOST", "CERTIFICATE", "FAILURES", "NEXT", "ERROR"];
                list.run(home, Client::certificate_orders, &headings, |order| {
                    [
                        order.host.to_string(),
                        order.certificate.to_string(),
                        order.failures.to_string(),
                        next(order),
                        order.error.clone().unwrap_or_else(|| "-".to_owned()),
                    ]
                })
            }
            Self::Renew { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.renew_certificate(name))
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

/// A certificate, and the order for the one after it.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    certificate: Certificate,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<CertificateOrder>,
}

async fn listed(client: &Client) -> Result<Vec<Listed>, orchestrator::Error> {
    let mut orders = client.certificate_orders().await?;
    let with_order = |certificate: Certificate| {
        let at = orders.iter().position(|order| order.certificate == certificate.name);
        Listed { order: at.map(|at| orders.swap_remove(at)), certificate }
    };
    Ok(client.certificates().await?.into_iter().map(with_order).collect())
}

/// Whether the platform renews it, and how that goes.
fn renewal(certificate: &Certificate, order: Option<&CertificateOrder>) -> String {
    match order {
        Some(order) if order.failures > 0 => {
            format!("failed, again {}", next(order))
        }
        Some(_) => "ordered".to_owned(),
        None if certificate.acme => "ACME".to_owned(),
        None => "-".to_owned(),
    }
}

fn next(order: &CertificateOrder) -> String {
    match order.next.since(now()) {
        wait if wait.is_zero() => "now".to_owned(),
        wait => format!("in {}", human(wait).to_lowercase()),
    }
}

fn expires(at: Timestamp, now: Timestamp) -> String {
    match at > now {
        true => format!("in {}", human(at.since(now)).to_lowercase()),
        false => format!("expired {} ago", human(now.since(at)).to_lowercase()),
    }
}
