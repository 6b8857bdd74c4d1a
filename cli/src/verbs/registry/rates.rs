//! How many requests clients may send.

use std::{
    fmt::{self, Display},
    num::NonZeroU32,
    str::FromStr,
};

use anyhow::bail;
use registry::{Admin, RateLimits};

use crate::{output::Output, serve::block_on};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A client may be ten seconds ahead of its rate, as with the layers of a push, and is slowed down before it is
refused with status 429 and a Retry-After. Behind a proxy that --trusted-proxy names, an address is that of
the client. Nodes of the platform are not limited.

Examples:
  margay registry rate-limit --login 50 --address 10
  margay registry rate-limit --address none"
)]
pub struct RateLimit {
    /// Requests each second of one login, in the long run; or none
    #[arg(long, value_name = "COUNT", value_parser = Rate::from_str)]
    login: Option<Rate>,
    /// Requests each second of one address, from clients without a login; or none
    #[arg(long, value_name = "COUNT", value_parser = Rate::from_str)]
    address: Option<Rate>,
    #[command(flatten)]
    output: Output,
}

/// As it is given and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<NonZeroU32>);

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match (text, text.parse()) {
            ("none", _) => Ok(Self(None)),
            (_, Ok(rate)) => Ok(Self(Some(rate))),
            (_, Err(_)) => bail!("`{text}` is neither a number of requests, 1 or more, nor none"),
        }
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => rate.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl RateLimit {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let mut rates = block_on(admin.rates())?;
        if self.login.is_some() || self.address.is_some() {
            rates.login = self.login.map_or(rates.login, |rate| rate.0);
            rates.address = self.address.map_or(rates.address, |rate| rate.0);
            rates = block_on(admin.set_rates(&rates))?;
        }
        self.output.record(&rates, |RateLimits { login, address }| {
            format!("login {}\naddress {}", Rate(*login), Rate(*address))
        })
    }
}
