use std::cmp::Ordering;

use super::{digits, leading_digits};

/// `EPOCH:VERSION-RELEASE`. Where one of them has no release, these are not compared.
///
/// # Spec
/// rpm, "Dependencies", "Versioning".
pub fn compare(one: &str, other: &str) -> Ordering {
    let ((epoch, rest), (other_epoch, other_rest)) = (epoch(one), epoch(other));
    let ((version, release), (other_version, other_release)) = (release(rest), release(other_rest));
    digits(epoch, other_epoch).then_with(|| part(version, other_version)).then_with(|| {
        match (release, other_release) {
            (Some(one), Some(other)) => part(one, other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        }
    })
}

fn epoch(text: &str) -> (&str, &str) {
    match text.split_once(':') {
        Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => (epoch, rest),
        _ => ("", text),
    }
}

fn release(text: &str) -> (&str, Option<&str>) {
    text.rsplit_once('-').map_or((text, None), |(version, release)| (version, Some(release)))
}

/// Segments of digits or of letters; everything between them separates. A tilde is before the end,
/// a caret behind it.
fn part(mut one: &str, mut other: &str) -> Ordering {
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^';
    loop {
        one = one.trim_start_matches(is_separator);
        other = other.trim_start_matches(is_separator);
        match (one.strip_prefix('~'), other.strip_prefix('~')) {
            (Some(rest), Some(other_rest)) => {
                (one, other) = (rest, other_rest);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        match (one.strip_prefix('^'), other.strip_prefix('^')) {
            (Some(rest), Some(other_rest)) => {
                (one, other) = (rest, other_rest);
                continue;
            }
            (Some(_), None) if other.is_empty() => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) if one.is_empty() => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        if one.is_empty() || other.is_empty() {
            return one.is_empty().cmp(&other.is_empty()).reverse();
        }
        let is_number = one.starts_with(|c: char| c.is_ascii_digit());
        if is_number != other.starts_with(|c: char| c.is_ascii_digit()) {
            // Digits are newer than letters.
            return is_number.cmp(&!is_number);
        }
        let ((segment, rest), (other_segment, other_rest)) = match is_number {
            true => (leading_digits(one), leading_digits(other)),
            false => (leading_letters(one), leading_letters(other)),
        };
        let ordered = match is_number {
            true => digits(segment, other_segment),
            false => segment.cmp(other_segment),
        };
        if ordered.is_ne() {
            return ordered;
        }
        (one, other) = (rest, other_rest);
    }
}

fn leading_letters(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len()))
}
