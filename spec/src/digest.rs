use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256, Sha512};

use crate::text::{ParseError, hex_bytes, written_as_text};

/// The name of some bytes, computed from them. Printed as the algorithm, `:`, and lowercase hex
/// digits. Holding one proves that it parsed, not that any store has the bytes.
///
/// # Spec
/// OCI image-spec 1.1, "Digests".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// `sha256:` and 64 hex digits, the usual one.
    Sha256([u8; 32]),
    /// `sha512:` and 128 hex digits.
    Sha512([u8; 64]),
}

/// The function that turns bytes into a [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Algorithm::Sha256.digest(bytes)
    }

    /// The function that made this digest.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The lowercase hex digits, without the algorithm. Safe as a file name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut text = String::with_capacity(self.bytes().len() * 2);
        for byte in self.bytes() {
            write!(text, "{byte:02x}").expect("writing to a String does not fail");
        }
        text
    }

    /// The first twelve hex digits, as tables show them.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }
}

impl Algorithm {
    /// The digest of `bytes` by this algorithm.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Sha256 => Digest::Sha256(Sha256::digest(bytes).into()),
            Self::Sha512 => Digest::Sha512(Sha512::digest(bytes).into()),
        }
    }

    /// The name as it stands before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |why: &str| ParseError::about(text, format_args!("is not a digest: {why}"));
        match text.split_once(':') {
            Some(("sha256", hex)) => sized(hex)
                .map(Self::Sha256)
                .ok_or_else(|| wrong("sha256 takes 64 lowercase hex digits")),
            Some(("sha512", hex)) => sized(hex)
                .map(Self::Sha512)
                .ok_or_else(|| wrong("sha512 takes 128 lowercase hex digits")),
            Some(_) => Err(wrong("the algorithm must be sha256 or sha512")),
            None => Err(wrong("it has no `:`")),
        }
    }
}

written_as_text!(
    Digest,
    "The name of some bytes, computed from them (OCI image-spec, Digests).",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
);

/// Computes a [`Digest`] while bytes stream by.
pub struct Hasher(State);

enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            State::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

fn sized<const N: usize>(hex: &str) -> Option<[u8; N]> {
    hex_bytes(hex)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_prints_what_it_parsed_and_refuses_the_rest() {
        let sha256 = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(Digest::of(b"test").to_string(), sha256);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"te");
        hasher.update(b"st");
        let sha512 = hasher.finish().to_string();
        for text in [sha256, sha512.as_str()] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("", "it has no `:`"),
            ("sha256:", "64 lowercase hex digits"),
            (&sha256.to_uppercase(), "must be sha256 or sha512"),
            (&sha256[..70], "64 lowercase hex digits"),
            (&sha256.replace('f', "F"), "64 lowercase hex digits"),
            ("sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "must be sha256 or sha512"),
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains(why), "parsing {text}: {error}");
        }
    }
}
