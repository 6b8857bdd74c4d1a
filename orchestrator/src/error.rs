use std::{io, path::PathBuf};

use net::ClientError;
use spec::wire::Fault;

/// Why the control plane did not do what it was asked to, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the API has no result.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The store said no.
    #[error("the control plane cannot use its store")]
    Store(#[from] store::Error),
    /// The file system said no.
    #[error("cannot use `{}`", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A credential that takes the place of another could not be stored.
    #[error("cannot store the credential that takes the place of this one")]
    Credential { source: io::Error },
    /// A key or a certificate could not be made or read.
    #[error("cannot {what}")]
    Crypto { what: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    /// The next thing to try, when there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api(ClientError::Refused(fault)) => fault.hint.clone(),
            Self::Api(ClientError::Connect { .. }) => Some("start it: margay up".to_owned()),
            Self::Store(error) => error.hint(),
            Self::Credential { .. } => {
                Some("make its file and folder writable, and try again".to_owned())
            }
            Self::Api(_) | Self::Io { .. } | Self::Crypto { .. } => None,
        }
    }

    /// What the control plane answered, when it is a refusal of its.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Api(ClientError::Refused(fault)) => Some(fault),
            _ => None,
        }
    }
}
