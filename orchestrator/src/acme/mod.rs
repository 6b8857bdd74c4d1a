//! Certificates for the hosts of services, asked for and renewed by ACME (RFC 8555).
//!
//! An order is decided in `due`, carried out in `order`, and its proof (`http-01`) is a part of the
//! routes, so that whichever ingress the authority reaches answers. What comes of it is a
//! certificate like those that clients upload: sealed in the store and handed to the nodes that
//! serve its host. Absent on purpose: certificates for wildcards, which need a proof in DNS.

mod web; // HTTPS with the authority
mod error; // why there is no certificate, and what to do about it
mod account; // the account at the authority, and its key
mod due; // which host is next, and when
mod order; // one order, from the request to the certificate
mod keeper; // orders when they are due, one after the other

use spec::SecretValue;

pub(crate) use due::is_public;
pub(crate) use keeper::Keeper;

/// Which authority is asked for certificates, and as which client.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The URL of its directory, of `https`.
    pub directory: String,
    /// Where it writes to, when it has something to say.
    pub email: Option<String>,
    /// The certificates by which its server is trusted, in PEM; nothing for what the web trusts.
    pub roots_pem: Option<String>,
    /// The account of its customer that the account belongs to (RFC 8555, section 7.3.4).
    pub external_account: Option<ExternalAccount>,
}

/// The id of an account at an authority outside of ACME, and the key that proves it.
#[derive(Debug, Clone)]
pub struct ExternalAccount {
    pub id: String,
    /// The bytes of the key for HMAC.
    pub key: SecretValue,
}
