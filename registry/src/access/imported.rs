//! Hashes of passwords that were made elsewhere: those of bcrypt, which htpasswd files of
//! registries have.

use std::ops::RangeInclusive;

/// Of half a second, and of a millisecond: one with more would keep other logins waiting.
pub(super) const COSTS: RangeInclusive<u32> = 4..=14;

/// `$2y$05$` and 53 characters.
const HASH_CHARS: usize = 60;

/// Whether `text` is a hash of bcrypt that may be checked here.
pub(super) fn is_hash(text: &str) -> bool {
    let rest = ["$2y$", "$2b$", "$2a$"].iter().find_map(|start| text.strip_prefix(start));
    let cost = rest.and_then(|rest| rest.split_once('$')).and_then(|(cost, _)| cost.parse().ok());
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"./$".contains(&byte);
    text.len() == HASH_CHARS
        && text.bytes().all(is_known)
        && cost.is_some_and(|c| COSTS.contains(&c))
}

/// Blocks for as long as the cost of the hash says.
pub(super) fn verify(password: &str, hash: &str) -> bool {
    bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_bcrypt_is_told_from_others() {
        // htpasswd -nbB ann 'correct horse'
        let made = "$2y$05$Qk.8S537rLOWsqUmqBdjWOBjMazCW8i4ce/BPsXzcLYtez.ONe6M2";
        assert_eq!(made.len(), HASH_CHARS);
        for (text, want) in [
            (made, true),
            (&made.replace("$2y$", "$2b$"), true),
            (&made.replace("$2y$", "$2x$"), false),
            (&made.replace("$05$", "$14$"), true),
            (&made.replace("$05$", "$15$"), false),
            (&made.replace("$05$", "$03$"), false),
            (&made[..59], false),
            ("$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00", false),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", false),
            ("", false),
        ] {
            assert_eq!(is_hash(text), want, "{text}");
        }
        assert!(verify("correct horse", made) && !verify("correct horses", made));
    }
}
