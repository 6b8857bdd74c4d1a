//! What a client may do to a repository, and how it proves its identity.

mod authorize; // the decision
mod budget; // how many logins may be tried
mod passwords; // login, one password check at a time
mod tokens; // what a login is exchanged for, valid for minutes

pub(crate) use {
    authorize::{Access, Principal, Scopes, Verdict, authorize},
    passwords::{LoginOutcome, Passwords, SetPasswordError},
    tokens::{AUDIENCE, own_repositories},
};
pub use {passwords::Cost, tokens::Tokens};
