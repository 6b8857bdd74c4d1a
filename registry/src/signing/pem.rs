use base64::{Engine, prelude::BASE64_STANDARD};

/// The first block of a PEM file: its label, and its bytes. Headers and text around it are passed
/// over.
pub(super) fn first_block(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let lines = body.lines().filter(|line| !line.contains(':'));
    let body: String = lines.map(str::trim).collect();
    Some((label, BASE64_STANDARD.decode(body).ok()?))
}

/// A PEM file with one block.
pub(super) fn written(label: &str, bytes: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(bytes);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
