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
            Self::Api(ClientError::Connect { to, source }) => Some(
                net::tls::hint_about_time(source).map_or_else(|| how_to_reach(to), str::to_owned),
            ),
            Self::Api(ClientError::NoAnswer { to }) => Some(how_to_reach(to)),
            Self::Api(ClientError::BrokenOff { .. }) => {
                Some("see whether it runs: margay node ls; and begin again".to_owned())
            }
            Self::Store(error) => error.hint(),
            Self::Credential { .. } => {
                Some("make its file and folder writable, and try again".to_owned())
            }
            Self::Api(ClientError::Answer { .. }) | Self::Io { .. } | Self::Crypto { .. } => None,
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

/// What to do about a control plane that does not answer: on this machine it can be started, at an
/// address elsewhere only looked for.
fn how_to_reach(to: &str) -> String {
    match to.starts_with('/') {
        true => "start it: margay up".to_owned(),
        false => format!(
            "see whether it runs there, whether `{to}` is its address as seen from here, and \
             whether a firewall lets you through: the address is in the file of --credential"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_elsewhere_cannot_be_started_from_here() {
        for (to, want) in [("/home/x/server.sock", "margay up"), ("10.0.0.7:7443", "firewall")] {
            let error = Error::Api(ClientError::NoAnswer { to: to.to_owned() });
            let hint = error.hint().unwrap();
            assert!(hint.contains(want), "{to}: {hint}");
            assert_eq!(hint.contains("margay up"), to.starts_with('/'), "{hint}");
        }
    }
}
