use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use spec::{Digest, Forbidden};

/// What can go wrong between a person and a registry, at either end.
///
/// `registry` is always `HOST:PORT` as the person wrote it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reference names a local image.
    #[error("`{reference}` names no registry")]
    NoRegistry {
        /// As written.
        reference: String,
    },
    /// Nobody listens there, or the name does not resolve.
    #[error("cannot reach the registry at `{registry}`")]
    Down {
        /// Who was called.
        registry: String,
        /// What the network said.
        source: io::Error,
    },
    /// It is on an internal network, and the platform asks only registries that everybody can
    /// reach.
    #[error("the registry at `{registry}` is at the internal address {address} ({why})")]
    Internal {
        /// Who was to be called.
        registry: String,
        /// Where its name leads.
        address: IpAddr,
        /// Which kind of address that is.
        why: Forbidden,
    },
    /// Connected, but nothing comes.
    #[error("the registry at `{registry}` was too slow: {what} made next to no progress for {} s", .after.as_secs())]
    Slow {
        /// Who was called.
        registry: String,
        /// What was under way.
        what: String,
        /// How long we waited.
        after: Duration,
    },
    /// The connection broke in the middle, more often than we retry.
    #[error("the registry at `{registry}` cut the connection: {what}")]
    Cut {
        /// Who was called.
        registry: String,
        /// What was under way.
        what: String,
        /// What the network said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The secure connection could not be made.
    #[error("cannot speak TLS with `{registry}`")]
    Tls {
        /// Who was called.
        registry: String,
        /// What TLS said.
        source: io::Error,
    },
    /// The credentials are not right.
    #[error("the registry at `{registry}` does not accept that password for `{user}`")]
    WrongPassword {
        /// Who said so.
        registry: String,
        /// Who tried.
        user: String,
    },
    /// Not without credentials, or not with these.
    #[error("the registry at `{registry}` wants a login for `{what}`")]
    LoginNeeded {
        /// Who said so.
        registry: String,
        /// The repository, or the whole registry.
        what: String,
    },
    /// Known, and not allowed.
    #[error("the registry at `{registry}` does not allow it: {message}")]
    Denied {
        /// Who said so.
        registry: String,
        /// In its words.
        message: String,
    },
    /// It is not there, or not for us.
    #[error("the registry at `{registry}` has no `{what}`")]
    NotFound {
        /// Who said so.
        registry: String,
        /// A reference or a digest.
        what: String,
    },
    /// Too many wrong passwords or requests.
    #[error("the registry at `{registry}` asks to wait: {message}")]
    TooMany {
        /// Who said so.
        registry: String,
        /// In its words.
        message: String,
    },
    /// Any other refusal.
    #[error("the registry at `{registry}` refused {what}: {message}")]
    Refused {
        /// Who said so.
        registry: String,
        /// What was asked.
        what: String,
        /// Status and message in its words.
        message: String,
    },
    /// It answers, but not as a registry does.
    #[error("`{registry}` does not answer as a registry: {message}")]
    NotARegistry {
        /// Who was called.
        registry: String,
        /// What was odd.
        message: String,
    },
    /// The bytes are not what their name promises.
    #[error("`{registry}` sent wrong bytes for `{expected}`: they are `{actual}`")]
    WrongBytes {
        /// Who sent them.
        registry: String,
        /// What was asked for.
        expected: Box<Digest>,
        /// What came.
        actual: Box<Digest>,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("`{registry}` sent {actual} bytes for `{digest}`, which has {expected}")]
    WrongSize {
        /// Who sent them.
        registry: String,
        /// What was asked for.
        digest: Digest,
        /// As the descriptor says.
        expected: u64,
        /// What came, or more.
        actual: u64,
    },
    /// Credentials would go to somebody else.
    #[error("`{registry}` sends for a token to `{realm}`, which must not see its credentials")]
    ForeignRealm {
        /// Who was called.
        registry: String,
        /// Where it pointed.
        realm: String,
    },
    /// A manifest that is no manifest, or is out of bounds.
    #[error("`{what}` has no manifest that we can read: {message}")]
    Manifest {
        /// Reference or digest.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// The local end of a push.
    #[error("cannot read blob `{digest}`")]
    Source {
        /// Which one.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// The local end of a pull.
    #[error("cannot keep blob `{digest}`")]
    Sink {
        /// Which one.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// A file of the registry's data folder.
    #[error("cannot {action} `{}`", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The registry's metadata.
    #[error("cannot {action} in the registry's metadata")]
    Metadata {
        /// What was tried.
        action: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A name of a user, a repository or an action that is none.
    #[error("{message}")]
    Name {
        /// What is wrong with it.
        message: String,
    },
    /// The registry's admin socket did not do it.
    #[error("the registry refused: {message}")]
    Admin {
        /// In its words.
        message: String,
    },
    /// A token key that is no key.
    #[error("`{}` is not a token key of a registry", .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
    },
}

impl Error {
    /// The next thing a person could try, when we know one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoRegistry { reference } => {
                format!("tag it for one: margay tag {reference} HOST:PORT/USER/NAME:TAG")
            }
            // A name with a dot is not one of this machine, and so not one that we start.
            Self::Down { registry, .. }
                if registry.contains('.') && registry.contains(|c: char| c.is_alphabetic()) =>
            {
                format!("is `{registry}` its name, and does this machine reach it?")
            }
            Self::Down { registry, .. } => {
                format!(
                    "is it running (`margay up` starts one), and is `{registry}` its host and port?"
                )
            }
            Self::Internal { address, .. } => {
                format!(
                    "whoever runs the platform can open it: margay up --private-network {address}"
                )
            }
            Self::Slow { .. } | Self::Cut { .. } => {
                "try again: what has arrived is kept".to_owned()
            }
            Self::Tls { registry, .. } => {
                format!("if `{registry}` speaks plain HTTP, say so with --plain-http")
            }
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
            Self::Denied { .. } => {
                "a user owns the repositories USER/…; others may only read public ones".to_owned()
            }
            Self::WrongBytes { .. } | Self::WrongSize { .. } => {
                "nothing was kept; whoever runs the registry should look at its disk".to_owned()
            }
            Self::Admin { .. } => return None,
            Self::NotARegistry { .. } => "check host and port".to_owned(),
            Self::TooMany { .. }
            | Self::Refused { .. }
            | Self::ForeignRealm { .. }
            | Self::Manifest { .. }
            | Self::Source { .. }
            | Self::Sink { .. }
            | Self::File { .. }
            | Self::Metadata { .. }
            | Self::Name { .. }
            | Self::Key { .. } => return None,
        })
    }
}
