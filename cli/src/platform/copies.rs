//! Copies of a certificate, each in the folder of a server that shows it: the user of a server
//! reads its own folder and nothing else, while a certificate may be root's alone and lie behind
//! links.

use std::{
    convert::Infallible,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use net::tls::{CertificateFiles, Renewal};
use node::ingress::CERTIFICATE_FILE;

use crate::{home::Home, output::notice};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What an earlier version called certificate and key.
const EARLIER: [&str; 2] = ["tls.crt", "tls.key"];

/// A server that shows a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    ControlPlane,
    Registry,
    Ingress,
}

impl Holder {
    pub const ALL: [Self; 3] = [Self::ControlPlane, Self::Registry, Self::Ingress];

    fn folder(self, home: &Home) -> PathBuf {
        match self {
            Self::ControlPlane => home.path().join("server"),
            Self::Registry => home.path().join("registry"),
            Self::Ingress => home.node().ingress(),
        }
    }

    /// As arguments of the server that reads its copy.
    pub fn arguments(self, home: &Home) -> Vec<String> {
        let file = self.folder(home).join(CERTIFICATE_FILE).display().to_string();
        ["--tls-cert", &file, "--tls-key", &file].map(str::to_owned).to_vec()
    }

    fn write(self, home: &Home, text: &str) -> anyhow::Result<()> {
        let folder = self.folder(home);
        match self {
            Self::Ingress => node::ingress::keep_certificate(home.node(), text)?,
            Self::ControlPlane | Self::Registry => {
                write_for_owner(&folder, CERTIFICATE_FILE, text.as_bytes())?;
            }
        }
        // A key that is renewed no more is of no use there.
        EARLIER.iter().try_for_each(|name| disk::remove(&folder.join(name)))?;
        Ok(())
    }
}

/// Keeps the copies like their original.
pub struct Copies {
    files: CertificateFiles,
    home: Home,
    holders: Vec<Holder>,
}

impl Copies {
    /// Makes them, before a server is started that reads one.
    pub fn make(files: CertificateFiles, home: &Home, holders: &[Holder]) -> anyhow::Result<Self> {
        let copies = Self { files, home: home.clone(), holders: holders.to_vec() };
        copies.write()?;
        Ok(copies)
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = self.files.text()?;
        self.holders.iter().try_for_each(|holder| holder.write(&self.home, &text))
    }

    pub async fn keep_up(&self) -> Infallible {
        // A copy that could not be written is tried again, and said once.
        let mut behind = false;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let renewal = self.files.refresh();
            let is_news = !matches!(renewal, Renewal::None);
            let copied = match renewal {
                Renewal::None if !behind => continue,
                Renewal::None | Renewal::Taken => {
                    let written = self.write();
                    behind = written.is_err();
                    written
                }
                Renewal::Refused(error) => Err(error.into()),
            };
            if let Err(error) = copied
                && is_news
            {
                notice(format_args!("The certificate stays as it was: {error:#}"));
            }
        }
    }
}

/// Replaces a file in the folder of a server, for the user that the folder belongs to.
pub fn write_for_owner(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    disk::private_folder(folder)?;
    let owner = std::fs::metadata(folder)?;
    let path = folder.join(name);
    let fill = |file: &mut disk::NewFile| {
        file.write_all(bytes)?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(file.file(), Some(owner.uid()), Some(owner.gid()))?;
        }
        file.set_mode(0o600)
    };
    disk::write_with(&path, disk::Survives::Crash, fill)
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Keeps the copies like their original, if there is one.
pub async fn keep_up(copies: Option<&Copies>) -> Infallible {
    match copies {
        Some(copies) => copies.keep_up().await,
        None => std::future::pending().await,
    }
}
