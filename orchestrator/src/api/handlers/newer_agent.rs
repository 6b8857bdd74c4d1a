//! What agents send that may be newer than this control plane.

use serde::{Deserialize, de::DeserializeOwned};
use spec::wire;

use crate::api::{call::Call, error::ApiError};

const OWN: &str = env!("CARGO_PKG_VERSION");

/// What every version says of itself.
#[derive(Debug, Default, Deserialize)]
struct Sender {
    #[serde(default)]
    version: u32,
    #[serde(default)]
    spec: SenderSpec,
}

#[derive(Debug, Default, Deserialize)]
struct SenderSpec {
    #[serde(default)]
    version: String,
}

/// The body of an agent's request. Where an agent is too new to be understood, the answer says so,
/// and what to do.
pub(super) fn message<T: DeserializeOwned>(call: &Call) -> Result<T, ApiError> {
    let sender: Sender = serde_json::from_slice(&call.body).unwrap_or_default();
    if sender.version > wire::VERSION {
        return Err(refused(&sender));
    }
    call.json().map_err(|error| match is_newer(&sender.spec.version, OWN) {
        true => refused(&sender),
        false => error,
    })
}

fn refused(sender: &Sender) -> ApiError {
    let version: String = sender.spec.version.chars().take(32).collect();
    let agent = if version.is_empty() { "a later version".to_owned() } else { version };
    ApiError::invalid(format!("this agent is of margay {agent}, and its control plane of {OWN}"))
        .hint(format!(
            "upgrade the control plane first, or run margay {OWN} here: a control plane \
             understands agents of its version and of the one before"
        ))
}

/// Whether version `a` comes after `b`. One that is not numbers with dots is not known to.
fn is_newer(a: &str, b: &str) -> bool {
    let numbers = |version: &str| -> Option<Vec<u64>> {
        let plain = version.split(['-', '+']).next().unwrap_or_default();
        plain.split('.').map(|part| part.parse().ok()).collect()
    };
    numbers(a).zip(numbers(b)).is_some_and(|(a, b)| a > b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_newer_by_its_numbers() {
        for (a, b, want) in [
            ("0.2.0", "0.1.0", true),
            ("0.10.0", "0.9.9", true),
            ("0.1.0", "0.1.0", false),
            ("0.1.0", "0.2.0", false),
            ("1.0.0-rc1", "0.9.0", true),
            ("", "0.1.0", false),
            ("next", "0.1.0", false),
        ] {
            assert_eq!(is_newer(a, b), want, "{a} and {b}");
        }
    }
}
