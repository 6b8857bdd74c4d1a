use std::cmp::Ordering;

use super::{digits, leading_digits};

/// # Spec
/// Debian Policy, "Version".
pub fn compare(one: &str, other: &str) -> Ordering {
    let ((epoch, rest), (other_epoch, other_rest)) = (epoch(one), epoch(other));
    let ((upstream, revision), (other_upstream, other_revision)) =
        (revision(rest), revision(other_rest));
    digits(epoch, other_epoch)
        .then_with(|| part(upstream, other_upstream))
        .then_with(|| part(revision, other_revision))
}

fn epoch(text: &str) -> (&str, &str) {
    match text.split_once(':') {
        Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => (epoch, rest),
        _ => ("", text),
    }
}

fn revision(text: &str) -> (&str, &str) {
    text.rsplit_once('-').unwrap_or((text, ""))
}

/// Texts without digits and digits in turn.
fn part(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let (text, other_text) = (leading_text(one), leading_text(other));
        let ordered = letters(text.0, other_text.0);
        if ordered.is_ne() {
            return ordered;
        }
        let ((number, rest), (other_number, other_rest)) =
            (leading_digits(text.1), leading_digits(other_text.1));
        let ordered = digits(number, other_number);
        if ordered.is_ne() {
            return ordered;
        }
        (one, other) = (rest, other_rest);
    }
    Ordering::Equal
}

fn leading_text(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()))
}

/// A tilde is before the end, the end before letters, letters before everything else.
fn letters(one: &str, other: &str) -> Ordering {
    let weight = |byte: Option<u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    };
    let (mut one, mut other) = (one.bytes(), other.bytes());
    loop {
        let (next, other_next) = (one.next(), other.next());
        let ordered = weight(next).cmp(&weight(other_next));
        if ordered.is_ne() || next.is_none() {
            return ordered;
        }
    }
}
