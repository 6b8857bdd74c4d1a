//! Which keys must have signed what is pulled.

use serde::{Deserialize, Serialize};

use super::policy::RepositoryPattern;
use crate::VerifyingKey;

/// Images of these repositories are served when one of these keys has signed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignaturePolicy {
    pub repositories: RepositoryPattern,
    pub keys: Vec<VerifyingKey>,
}

/// The body of `PUT /admin/signatures`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysBody {
    pub keys: Vec<VerifyingKey>,
}
