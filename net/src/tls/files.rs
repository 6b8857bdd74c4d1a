use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::{certificates, private_key, provider};
use crate::limits::{CERTIFICATE_BYTES_MAX, CERTIFICATE_LOOK_EVERY};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is larger than a certificate or a key is", .path.display())]
    TooLarge { path: PathBuf },
    #[error("there is no certificate in `{}`", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("there is no private key in `{}`", .path.display())]
    NoKey { path: PathBuf },
    #[error("the key in `{}` is not that of the certificate in `{}`", .key.display(), .chain.display())]
    Pair { chain: PathBuf, key: PathBuf, source: rustls::Error },
}

impl CertificateError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "give the path of a PEM file, as of a certificate with its chain: fullchain.pem"
            }
            Self::Read { .. } => {
                "the process that serves reads it, again after each change: let its user do so"
            }
            Self::TooLarge { .. } | Self::NoCertificate { .. } => {
                "--tls-cert takes a PEM file: the certificate first, then its intermediates"
            }
            Self::NoKey { .. } => "--tls-key takes a PEM file with a key that has no password",
            Self::Pair { .. } => "give the key that the certificate was made for",
        }
    }
}

/// What a look at the files of a certificate has found.
#[derive(Debug)]
pub enum Renewal {
    /// They are as they were.
    None,
    /// Another pair, which is shown from now on.
    Taken,
    /// What is no pair: the one before stays.
    Refused(CertificateError),
}

/// A certificate with its key, in two files that something else renews.
#[derive(Debug)]
pub struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(RwLock<(Arc<CertifiedKey>, Stamps)>);

/// Which files were read: two of them, with their time, inode and length.
type Stamps = [Option<(SystemTime, u64, u64)>; 2];

impl CertificateFiles {
    /// Reads the PEM files `chain`, the certificate of the server first, and `key`.
    ///
    /// # Errors
    /// When they cannot be read, or are no pair.
    pub fn open(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let stamps = stamps(chain, key);
        let (pair, _) = read_pair(chain, key)?;
        let current = Arc::new(Current(RwLock::new((pair, stamps))));
        Ok(Self { chain: chain.to_owned(), key: key.to_owned(), current })
    }

    /// The same pair, to be looked for at these paths from now on.
    #[must_use]
    pub fn moved(self, chain: &Path, key: &Path) -> Self {
        Self { chain: chain.to_owned(), key: key.to_owned(), ..self }
    }

    /// TLS 1.2 and 1.3 with the pair as it is at each handshake, for clients without a certificate.
    pub fn server(&self) -> Arc<ServerConfig> {
        server_of(self.current.clone(), &[HTTP_1])
    }

    /// The pair as it is at each handshake.
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.current.clone()
    }

    /// The same, with `own` for clients that name no server, which call it by its address, and for
    /// those that name one of `names`.
    pub fn server_beside(&self, own: Pair, names: &'static [&'static str]) -> Arc<ServerConfig> {
        server_of(self.beside(own, names), &[HTTP_1])
    }

    /// Which of two pairs a client is shown.
    pub(super) fn beside(
        &self,
        own: Pair,
        names: &'static [&'static str],
    ) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Beside { own, names, others: self.current.clone() })
    }

    /// Takes up each new pair. A bad one changes nothing but the log.
    pub async fn keep_up(&self) -> Infallible {
        loop {
            sleep(CERTIFICATE_LOOK_EVERY).await;
            match self.refresh() {
                Renewal::None => {}
                Renewal::Taken => {
                    tracing::info!(file = %self.chain.display(), "took up another certificate");
                }
                Renewal::Refused(error) => {
                    let hint = error.hint();
                    tracing::warn!(%error, hint, "the certificate stays as it was");
                }
            }
        }
    }

    /// Looks at the files once, and takes up a new pair. One that is refused is not read again.
    pub fn refresh(&self) -> Renewal {
        let seen = stamps(&self.chain, &self.key);
        if self.current.stamps() == seen {
            return Renewal::None;
        }
        match read_pair(&self.chain, &self.key) {
            Ok((pair, _)) => {
                self.current.replace(Some(pair), seen);
                Renewal::Taken
            }
            Err(error) => {
                self.current.replace(None, seen);
                Renewal::Refused(error)
            }
        }
    }

    /// Certificates and key as they are in the files now, in PEM: one text, so that a copy of it
    /// is never half of one pair and half of another.
    ///
    /// # Errors
    /// When they cannot be read, or are no pair.
    pub fn text(&self) -> Result<String, CertificateError> {
        read_pair(&self.chain, &self.key).map(|(_, text)| text)
    }
}

impl Current {
    fn stamps(&self) -> Stamps {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1
    }

    fn replace(&self, pair: Option<Arc<CertifiedKey>>, stamps: Stamps) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let pair = pair.unwrap_or_else(|| current.0.clone());
        *current = (pair, stamps);
    }
}

/// TLS 1.2 and 1.3 with one pair, for clients without a certificate.
pub fn server_with(pair: Pair) -> Arc<ServerConfig> {
    server_of(Arc::new(Always(pair)), &[HTTP_1])
}

/// A certificate chain with its key.
pub type Pair = Arc<CertifiedKey>;

/// A pair in PEM.
///
/// # Errors
/// When the key is not that of the certificate, or either is damaged.
pub fn pair(chain: &str, key: &str) -> Result<Pair, rustls::Error> {
    let damaged = |error: rustls::pki_types::pem::Error| rustls::Error::General(error.to_string());
    let (chain, key) = (certificates(chain).map_err(damaged)?, private_key(key).map_err(damaged)?);
    pair_of(chain, key)
}

/// A pair in DER.
///
/// # Errors
/// When the key is not that of the certificate.
pub fn pair_of(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Pair, rustls::Error> {
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new)
}

/// What a server speaks, as it is named in a handshake (ALPN).
const HTTP_1: &[u8] = b"http/1.1";
pub const HTTP_2: &[u8] = b"h2";
/// Both versions, the newer one first.
pub const WEB: [&[u8]; 2] = [HTTP_2, HTTP_1];

/// Whether HTTP/2 was chosen in the handshake of a connection.
pub fn speaks_http2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP_2)
}

pub(super) fn server_of(
    resolver: Arc<dyn ResolvesServerCert>,
    protocols: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[derive(Debug)]
struct Beside {
    own: Pair,
    names: &'static [&'static str],
    others: Arc<Current>,
}

impl ResolvesServerCert for Beside {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(name) if !self.names.iter().any(|own| own.eq_ignore_ascii_case(name)) => {
                self.others.resolve(hello)
            }
            None | Some(_) => Some(self.own.clone()),
        }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

/// Of what links lead to, as those of a secret in a volume do.
fn stamps(chain: &Path, key: &Path) -> Stamps {
    [chain, key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    })
}

/// A pair, and its text.
fn read_pair(chain: &Path, key: &Path) -> Result<(Pair, String), CertificateError> {
    let (chain_path, key_path) = (|| chain.to_owned(), || key.to_owned());
    let no_certificate = || CertificateError::NoCertificate { path: chain_path() };
    let chain_text = read(chain)?;
    let certificates = certificates(&chain_text).map_err(|_| no_certificate())?;
    if certificates.is_empty() {
        return Err(no_certificate());
    }
    let key_text = read(key)?;
    let secret =
        private_key(&key_text).map_err(|_| CertificateError::NoKey { path: key_path() })?;
    let pair = CertifiedKey::from_der(certificates, secret, &provider());
    let text = match chain == key {
        true => chain_text,
        false => format!("{}\n{key_text}", chain_text.trim_end()),
    };
    pair.map(|pair| (Arc::new(pair), text)).map_err(|source| CertificateError::Pair {
        chain: chain_path(),
        key: key_path(),
        source,
    })
}

fn read(path: &Path) -> Result<String, CertificateError> {
    let failed = |source| CertificateError::Read { path: path.to_owned(), source };
    match fs::metadata(path).map_err(failed)?.len() > CERTIFICATE_BYTES_MAX {
        true => Err(CertificateError::TooLarge { path: path.to_owned() }),
        false => fs::read_to_string(path).map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(folder: &Path, name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(folder.join("new.crt"), &chain).unwrap();
        fs::write(folder.join("new.key"), &key).unwrap();
        fs::rename(folder.join("new.crt"), folder.join("tls.crt")).unwrap();
        fs::rename(folder.join("new.key"), folder.join("tls.key")).unwrap();
        (chain, key)
    }

    fn shown(files: &CertificateFiles) -> String {
        let pair = files.current.0.read().unwrap().0.clone();
        super::super::fingerprint(&pair.cert[0])
    }

    #[test]
    fn a_new_pair_is_taken_up_and_a_bad_one_leaves_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        write_pair(folder.path(), "a.example");
        let files = CertificateFiles::open(&chain, &key).unwrap();
        let first = shown(&files);
        files.refresh();
        assert_eq!(shown(&files), first);
        write_pair(folder.path(), "b.example");
        files.refresh();
        let second = shown(&files);
        assert_ne!(second, first);
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\0"] {
            fs::write(&chain, bad).unwrap();
            files.refresh();
            assert_eq!(shown(&files), second, "{bad:?}");
        }
        fs::remove_file(&chain).unwrap();
        files.refresh();
        assert_eq!(shown(&files), second);
        // The certificate of one pair with the key of another, as in the middle of a renewal.
        let (other, _) = write_pair(folder.path(), "c.example");
        write_pair(folder.path(), "d.example");
        fs::write(&chain, other).unwrap();
        files.refresh();
        assert_eq!(shown(&files), second);
        let error = CertificateFiles::open(&chain, &key).unwrap_err();
        assert!(matches!(error, CertificateError::Pair { .. }), "{error}");
        write_pair(folder.path(), "e.example");
        files.refresh();
        assert_ne!(shown(&files), second);
    }

    #[test]
    fn a_pair_is_copied_as_one_text_and_refused_once() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        write_pair(folder.path(), "a.example");
        let files = CertificateFiles::open(&chain, &key).unwrap();
        let copy = folder.path().join("tls.pem");
        fs::write(&copy, files.text().unwrap()).unwrap();
        let copied = CertificateFiles::open(&copy, &copy).unwrap();
        assert_eq!(shown(&copied), shown(&files));
        assert_eq!(copied.text().unwrap(), files.text().unwrap());
        fs::write(&chain, "no certificate").unwrap();
        assert!(matches!(files.refresh(), Renewal::Refused(_)));
        assert!(matches!(files.refresh(), Renewal::None));
        assert!(files.text().is_err());
    }

    #[test]
    fn what_is_no_pair_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let open = || CertificateFiles::open(&chain, &key).unwrap_err().to_string();
        assert!(open().starts_with("cannot read `"), "{}", open());
        fs::write(&chain, "").unwrap();
        assert!(open().starts_with("there is no certificate in `"), "{}", open());
        let (good, _) = write_pair(folder.path(), "a.example");
        fs::write(&key, good).unwrap();
        assert!(open().starts_with("there is no private key in `"), "{}", open());
        fs::write(&key, vec![b'x'; 1 << 21]).unwrap();
        assert!(open().contains("is larger than"), "{}", open());
    }
}
