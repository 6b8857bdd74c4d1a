use std::fmt::Write as _;

use ring::digest;

/// 256 random bits as hex digits.
pub(crate) fn random_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    hex(&bytes)
}

/// A few random letters and digits for readable names.
pub(crate) fn random_suffix() -> String {
    random_hex()[..8].to_owned()
}

/// How a token is stored: a reader of the store cannot use it. It has 256 random bits, so a plain
/// hash is enough.
pub(crate) fn hashed(secret: &str) -> String {
    hex(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
}

/// SHA-256 as hex digits.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}
