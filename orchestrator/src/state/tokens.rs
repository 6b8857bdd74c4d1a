use std::fmt::Write as _;

use spec::Digest;

/// 256 random bits as hex digits.
pub(crate) fn random_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    hex(&bytes)
}

/// A readable name that is not taken: the start of `stem`, and a few random letters and digits.
pub(crate) fn random_name(stem: &str) -> String {
    format!("{}-{}", label_stem(stem), &random_hex()[..8])
}

/// The start of a label, so short that a number and a hash fit behind it.
pub(crate) fn label_stem(label: &str) -> &str {
    label[..label.len().min(40)].trim_end_matches('-')
}

/// SHA-256 as hex digits: the fingerprint of a certificate, and how a token is stored. A reader of
/// the store cannot use it; a token has 256 random bits, so a plain hash is enough.
pub(crate) fn hashed(bytes: impl AsRef<[u8]>) -> String {
    Digest::of(bytes.as_ref()).hex()
}

/// The bytes of an even number of hex digits.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}
