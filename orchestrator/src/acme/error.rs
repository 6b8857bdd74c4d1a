use std::error::Error;

use instant_acme::Problem;
use spec::HostName;

use super::web::WebError;
use crate::{limits::ACME_DECISION_TIME_MAX, state::chain::InvalidChain};

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("there is no account at the authority")]
    Account(#[source] Box<OrderError>),
    #[error("the authority refused: {}", told(.0))]
    Refused(Problem),
    #[error("the authority did not find `{host}` here: {}", told(.problem))]
    Unproven { host: HostName, problem: Problem },
    #[error("the authority offers no proof by HTTP (`http-01`) for `{0}`")]
    NoHttpChallenge(HostName),
    #[error("the authority asks for a token that is none")]
    Token,
    #[error("the authority left the order undecided for {} s", ACME_DECISION_TIME_MAX.as_secs())]
    Undecided,
    #[error("the certificate that was issued is not taken")]
    Chain(#[source] InvalidChain),
    #[error("the certificate that was issued is for {issued}, not for `{host}` alone")]
    OtherName { host: HostName, issued: String },
    #[error("a tenant has as many certificates as it may have")]
    Full,
    #[error(transparent)]
    Web(Box<WebError>),
    #[error("the authority does not keep to ACME")]
    Protocol(#[source] instant_acme::Error),
    #[error("cannot keep the account or the certificate")]
    Kept(#[source] Box<dyn Error + Send + Sync>),
}

fn told(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next());
    let detail = problem.detail.as_deref().unwrap_or("it does not say why");
    match kind {
        Some(kind) => format!("{detail} ({kind})"),
        None => detail.to_owned(),
    }
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => Self::Refused(problem),
            instant_acme::Error::Timeout(_) => Self::Undecided,
            instant_acme::Error::Other(other) => match other.downcast::<WebError>() {
                Ok(web) => Self::Web(web),
                Err(other) => Self::Protocol(instant_acme::Error::Other(other)),
            },
            other => Self::Protocol(other),
        }
    }
}

impl OrderError {
    /// Whether it is about the authority, and so would happen to every other order now.
    pub fn is_of_all(&self) -> bool {
        match self {
            Self::Account(_) | Self::Web(_) => true,
            Self::Refused(problem) => kind_of(problem) == "rateLimited",
            _ => false,
        }
    }

    /// Whether the authority does not know the account.
    pub fn is_lost_account(&self) -> bool {
        matches!(self, Self::Refused(problem) if kind_of(problem) == "accountDoesNotExist")
    }

    /// In one sentence, with its causes.
    pub fn sentence(&self) -> String {
        let mut said = vec![self.to_string()];
        let mut cause = self.source();
        while let Some(error) = cause {
            said.push(error.to_string());
            cause = error.source();
        }
        said.dedup();
        said.join(": ")
    }

    /// The next thing to try, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Account(error) => return error.hint(),
            Self::Unproven { host, .. } => {
                return Some(format!(
                    "`http://{host}/` (port 80) must lead to an ingress of this platform, from the \
                     authority too"
                ));
            }
            Self::Refused(problem) => match kind_of(problem) {
                "externalAccountRequired" => {
                    "give the account that you have there: --acme-eab-key-id and --acme-eab-key"
                }
                "rateLimited" => "it is asked again by itself, when it may be",
                "rejectedIdentifier" | "caa" => {
                    "see that the host is public, and that its CAA record names the authority"
                }
                "invalidContact" | "unsupportedContact" => "give another --acme-email",
                _ => return None,
            },
            Self::NoHttpChallenge(_) => {
                "upload a certificate instead: margay certificate create NAME --cert FILE \
                 --key FILE"
            }
            Self::Full => "remove one that is not shown any more: margay certificate ls",
            Self::Web(error) => match **error {
                WebError::Untrusted { .. } => {
                    "for an authority that the web does not trust: --acme-ca FILE"
                }
                WebError::Url(_) | WebError::Unreachable { .. } | WebError::Status { .. } => {
                    "--acme is the URL of the directory of an authority that this machine reaches"
                }
                WebError::TimedOut { .. } | WebError::Broken { .. } | WebError::Body { .. } => {
                    return None;
                }
            },
            Self::Chain(error) => error.hint(),
            Self::Token
            | Self::Undecided
            | Self::OtherName { .. }
            | Self::Protocol(_)
            | Self::Kept(_) => return None,
        };
        Some(hint.to_owned())
    }
}

fn kind_of(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default()
}
