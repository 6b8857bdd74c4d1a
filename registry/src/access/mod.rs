//! What a client may do to a repository, and how it proves its identity.

mod principal; // the client of a request
mod policy; // the decision
mod administration; // which clients may administer what
mod budget; // how many logins may be tried
mod verified; // passwords that were right a short while ago
mod imported; // hashes of htpasswd files
mod passwords; // login, one password check at a time
mod tokens; // what a login is exchanged for, valid for minutes

pub(crate) use {
    administration::{Object, may_administer},
    passwords::{LoginOutcome, Passwords, SetPasswordError},
    policy::{Refusal, Situation, allowed, applies, decide, rights},
    principal::{Principal, Scopes},
    tokens::{AUDIENCE, own_repositories},
};
pub use {passwords::Cost, tokens::Tokens};
