use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use http::StatusCode;
use spec::{Digest, Forbidden};

use crate::Exceeded;
use crate::limits::{
    IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX, REDIRECTS_MAX,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Failures of a registry and of its client.
///
/// `registry` is always `HOST:PORT` as the user wrote it, and `subject` what the request was about:
/// a reference, a digest, a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reference names a local image.
    #[error("`{reference}` names no registry")]
    NoRegistry { reference: String },
    /// Nothing listens at the address, or the name does not resolve.
    #[error("cannot reach the registry at `{registry}`")]
    Unreachable { registry: String, source: io::Error },
    /// The registry is on an internal network, which the platform does not call.
    #[error("the registry at `{registry}` is at the internal address {address} ({why})")]
    InternalAddress { registry: String, address: IpAddr, why: Forbidden },
    /// Connected, without progress for too long.
    #[error(
        "the registry at `{registry}` was too slow: {subject} made almost no progress for {} s",
        .after.as_secs()
    )]
    TimedOut { registry: String, subject: String, after: Duration },
    /// The connection broke in the middle, more often than the client retries.
    #[error("the registry at `{registry}` cut the connection: {subject}")]
    Disconnected { registry: String, subject: String, source: BoxError },
    /// The secure connection could not be made.
    #[error("cannot speak TLS with `{registry}`")]
    Tls { registry: String, source: io::Error },
    #[error("the registry at `{registry}` does not accept that password for `{user}`")]
    WrongPassword { registry: String, user: String },
    /// The request needs credentials, or others than these.
    #[error("the registry at `{registry}` wants a login for `{subject}`")]
    LoginNeeded { registry: String, subject: String },
    /// The user is known, and has no right to it.
    #[error("the registry at `{registry}` does not allow it: {message}")]
    Denied { registry: String, message: String },
    /// It does not exist, or the user may not read it.
    #[error("the registry at `{registry}` has no `{subject}`")]
    NotFound { registry: String, subject: String },
    /// Too many wrong passwords or requests. `after` is when the registry wants the next.
    #[error("the registry at `{registry}` asks to wait: {message}")]
    TooManyRequests { registry: String, message: String, after: Option<Duration> },
    /// Any other error response.
    #[error("the registry at `{registry}` refused {subject}: {message} ({})", .status.as_u16())]
    ErrorResponse { registry: String, subject: String, status: StatusCode, message: String },
    /// The server does not follow the distribution-spec.
    #[error("`{registry}` does not answer as a registry")]
    Protocol { registry: String, source: ProtocolFault },
    /// The bytes do not match their digest.
    #[error("`{registry}` sent wrong bytes for `{expected}`: they are `{actual}`")]
    WrongDigest { registry: String, expected: Box<Digest>, actual: Box<Digest> },
    /// More or fewer bytes than the descriptor states. `actual` is a lower bound.
    #[error("`{registry}` sent {actual} bytes for `{digest}`, which has {expected}")]
    WrongSize { registry: String, digest: Digest, expected: u64, actual: u64 },
    /// The token server is another host, which must not get the credentials.
    #[error("`{registry}` sends for a token to `{realm}`, which must not see its credentials")]
    ForeignRealm { registry: String, realm: String },
    /// `subject` is the reference or digest of the manifest.
    #[error("cannot use the manifest `{subject}`")]
    Manifest { subject: String, source: ManifestFault },
    /// The source of a push failed.
    #[error("cannot read blob `{digest}`")]
    Source { digest: Digest, source: io::Error },
    /// The sink of a pull failed.
    #[error("cannot store blob `{digest}`")]
    Sink { digest: Digest, source: io::Error },
    /// The file of a blob changed after its commit.
    #[error("the file of blob `{digest}` has {actual} bytes, and was committed with {expected}")]
    Damaged { digest: Digest, expected: u64, actual: u64 },
    /// The file of a blob is gone.
    #[error("the file of blob `{digest}` is missing")]
    Missing { digest: Digest },
    /// A file of the registry's data folder.
    #[error("cannot {action} `{}`", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {action} in the registry's metadata")]
    Metadata { action: &'static str, source: store::Error },
    /// The database of what was found in images.
    #[error("cannot {action} in the database of scans")]
    Scans { action: &'static str, source: rusqlite::Error },
    #[error(transparent)]
    QuotaExceeded(#[from] Exceeded),
    #[error("tag `{tag}` of `{repository}` is immutable: push another tag, or delete it first")]
    ImmutableTag { repository: String, tag: String },
    #[error("this client may not {verb} tag `{tag}` of `{repository}`: it lacks role `{role}`")]
    TagRefused { repository: String, tag: String, verb: &'static str, role: &'static str },
    #[error("the tags of `{repository}` change too fast: try again")]
    Contended { repository: String },
    #[error("`{name}` is not the name of a repository")]
    InvalidRepository { name: String },
    #[error("`{registry}` is not the HOST:PORT of a registry")]
    InvalidRegistry { registry: String },
    #[error("`{url}` is no URL of HTTPS, or of HTTP on this machine")]
    InvalidUrl { url: String },
    /// An error response on the admin socket, in the registry's words.
    #[error("the registry refused: {message}")]
    Admin { message: String },
    #[error("`{}` is not a key of a registry", .path.display())]
    InvalidKey { path: PathBuf },
    #[error("`{}` is no backup of a registry: {why}", .path.display())]
    NoBackup { path: PathBuf, why: &'static str },
    #[error("another backup into `{}` is under way", .path.display())]
    BackupUnderWay { path: PathBuf },
    #[error("there is a registry in `{}` already", .path.display())]
    RegistryThere { path: PathBuf },
}

/// How a server deviates from the distribution-spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolFault {
    #[error("it has no `/v2/`")]
    NoApi,
    #[error("its {what} is not valid")]
    Json { what: &'static str, source: serde_json::Error },
    #[error("{subject} has more than {bytes_max} bytes")]
    TooLarge { subject: String, bytes_max: usize },
    #[error("its token response has no token")]
    NoToken,
    #[error("it asks for a login in no supported way")]
    UnknownChallenge,
    #[error("its redirect has no usable Location")]
    NoLocation,
    #[error("it redirects to an address without TLS")]
    InsecureRedirect,
    #[error("it redirects {subject} more than {REDIRECTS_MAX} times")]
    TooManyRedirects { subject: String },
    /// A token, host name, path or address of the registry.
    #[error("its {what} cannot stand in a request")]
    NotSendable { what: &'static str },
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestFault {
    #[error("it is not valid")]
    Json(#[source] serde_json::Error),
    #[error("it has more than {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it names more than {IMAGE_MANIFESTS_MAX} manifests")]
    TooManyManifests,
    #[error("its indexes are nested more than {INDEX_DEPTH_MAX} deep")]
    TooDeep,
    #[error("it names more than {IMAGE_BLOBS_MAX} blobs")]
    TooManyBlobs,
    #[error("it has more signatures, or longer ones, than are read")]
    TooManySignatures,
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        match error {
            blobs::Error::Io { action, path, source } => Self::File { action, path, source },
            blobs::Error::Missing(digest) => Self::Missing { digest },
            other => Self::File { action: "use", path: "blobs".into(), source: other.into() },
        }
    }
}

impl Error {
    /// The next thing a user could try, when there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoRegistry { reference } => {
                format!("tag it for one: margay tag {reference} HOST:PORT/USER/NAME:TAG")
            }
            // A host name with a dot is not of this machine, and so not a registry of `margay up`.
            Self::Unreachable { registry, .. }
                if registry.contains('.') && registry.contains(|c: char| c.is_alphabetic()) =>
            {
                format!("is `{registry}` its name, and does this machine reach it?")
            }
            Self::Unreachable { registry, .. } => format!(
                "is it running (`margay up` starts one), and is `{registry}` its host and port?"
            ),
            Self::InternalAddress { address, .. } => format!(
                "the operator of the platform can open it: margay up --private-network {address}"
            ),
            Self::TimedOut { .. } | Self::Disconnected { .. } => {
                "try again: what has arrived is kept".to_owned()
            }
            Self::Tls { registry, source } => match net::tls::hint_about_time(source) {
                Some(hint) => hint.to_owned(),
                None => format!(
                    "trust the authority that signed its certificate: --ca FILE; or, if `{registry}` \
                     speaks plain HTTP, say so with --plain-http"
                ),
            },
            Self::WrongPassword { registry, user } => {
                format!("log in again: margay login -u {user} {registry}")
            }
            Self::LoginNeeded { registry, .. } => {
                format!("log in first: margay login -u USER {registry}")
            }
            Self::NotFound { .. } => {
                "check the spelling, and log in if the repository is private: margay login"
                    .to_owned()
            }
            Self::Denied { message, .. } => hint_of_denial(message).to_owned(),
            Self::WrongDigest { .. } | Self::WrongSize { .. } => {
                "nothing was stored; the operator of the registry should check its disk".to_owned()
            }
            Self::Protocol { .. } => "check host and port".to_owned(),
            Self::RegistryThere { path } => {
                format!("stop it, and move it away: mv {0} {0}.old", path.display())
            }
            Self::ErrorResponse { status, message, .. } => {
                return hint_of_response(*status, message).map(str::to_owned);
            }
            Self::TooManyRequests { .. }
            | Self::ForeignRealm { .. }
            | Self::Manifest { .. }
            | Self::Source { .. }
            | Self::Sink { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::File { .. }
            | Self::Metadata { .. }
            | Self::Scans { .. }
            | Self::QuotaExceeded(_)
            | Self::Contended { .. }
            | Self::ImmutableTag { .. }
            | Self::TagRefused { .. }
            | Self::InvalidRepository { .. }
            | Self::InvalidRegistry { .. }
            | Self::InvalidUrl { .. }
            | Self::Admin { .. }
            | Self::BackupUnderWay { .. }
            | Self::NoBackup { .. }
            | Self::InvalidKey { .. } => return None,
        })
    }

    /// The message with what has caused it, for a list or a log.
    pub(crate) fn with_causes(&self) -> String {
        let (mut text, mut cause) = (self.to_string(), std::error::Error::source(self));
        while let Some(source) = cause {
            text.push_str(&format!(": {source}"));
            cause = source.source();
        }
        text
    }

    /// Whether another try could succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Disconnected { .. }
            | Self::TooManyRequests { .. } => true,
            Self::ErrorResponse { status, .. } => matches!(status.as_u16(), 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn hint_of_denial(message: &str) -> &'static str {
    if message.starts_with("the quota of") {
        "delete what is not needed, or ask the operator of the registry: margay registry quota ls"
    } else if message.contains("is not signed") {
        "a client that may push has to sign it: margay sign --key FILE IMAGE"
    } else if message.contains("is refused by the scan policy") {
        "see what it has: margay registry scan IMAGE; an operator may let it pass: margay registry scan-policy waive"
    } else {
        "a user owns the repositories USER/…; others may only read public ones"
    }
}

fn hint_of_response(status: StatusCode, message: &str) -> Option<&'static str> {
    let is_read_only = status == StatusCode::METHOD_NOT_ALLOWED && message.contains("read-only");
    is_read_only
        .then_some("pulling still works; its operator ends that: margay registry read-only off")
}
