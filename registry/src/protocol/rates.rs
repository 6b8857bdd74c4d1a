//! How many requests clients may send.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// Requests that clients may send each second, in the long run; without limit where nothing is
/// said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// Of one login.
    #[serde(default)]
    pub login: Option<NonZeroU32>,
    /// Of one address, without a login.
    #[serde(default)]
    pub address: Option<NonZeroU32>,
}
