use std::cmp::Ordering;

use super::{digits, leading_digits};

/// Suffixes in order; those before the empty one come before the release.
const SUFFIXES: [&str; 10] =
    ["_alpha", "_beta", "_pre", "_rc", "", "_cvs", "_svn", "_git", "_hg", "_p"];
const NONE: usize = 4;

/// A version, taken apart.
struct Version<'a> {
    numbers: Vec<&'a str>,
    letter: &'a str,
    suffixes: Vec<(usize, &'a str)>,
    revision: &'a str,
    /// What is no part of a version.
    rest: &'a str,
}

/// # Spec
/// apk-tools, "apk-package(5)", "Package version".
pub fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (parse(one), parse(other));
    numbers(&one.numbers, &other.numbers)
        .then_with(|| one.letter.cmp(other.letter))
        .then_with(|| suffixes(&one.suffixes, &other.suffixes))
        .then_with(|| digits(one.revision, other.revision))
        .then_with(|| one.rest.cmp(other.rest))
}

fn parse(text: &str) -> Version<'_> {
    let (first, mut rest) = leading_digits(text);
    let mut numbers = vec![first];
    while let Some(after) = rest.strip_prefix('.') {
        let (number, after) = leading_digits(after);
        if number.is_empty() {
            break;
        }
        numbers.push(number);
        rest = after;
    }
    let is_letter = rest.starts_with(|c: char| c.is_ascii_lowercase());
    let (letter, mut rest) = rest.split_at(usize::from(is_letter));
    let mut suffixes = Vec::new();
    // The longest first, because `_p` is the start of `_pre`.
    let longest = |rest: &str| {
        let known = SUFFIXES.iter().enumerate().filter(|(_, name)| !name.is_empty());
        let fitting = known.filter(|(_, name)| rest.starts_with(**name));
        fitting.max_by_key(|(_, name)| name.len()).map(|(rank, name)| (rank, name.len()))
    };
    while let Some((rank, length)) = longest(rest) {
        let (number, after) = leading_digits(&rest[length..]);
        suffixes.push((rank, number));
        rest = after;
    }
    let revision = rest.strip_prefix("-r").map(leading_digits);
    let (revision, rest) = revision.unwrap_or(("", rest));
    Version { numbers, letter, suffixes, revision, rest }
}

/// The first as numbers, the others as fractions where one begins with a zero.
fn numbers(one: &[&str], other: &[&str]) -> Ordering {
    for (place, (number, other_number)) in one.iter().zip(other).enumerate() {
        let is_fraction = place > 0 && (number.starts_with('0') || other_number.starts_with('0'));
        let ordered = match is_fraction {
            true => number.cmp(other_number),
            false => digits(number, other_number),
        };
        if ordered.is_ne() {
            return ordered;
        }
    }
    one.len().cmp(&other.len())
}

fn suffixes(one: &[(usize, &str)], other: &[(usize, &str)]) -> Ordering {
    for place in 0..one.len().max(other.len()) {
        let (rank, number) = one.get(place).copied().unwrap_or((NONE, ""));
        let (other_rank, other_number) = other.get(place).copied().unwrap_or((NONE, ""));
        let ordered = rank.cmp(&other_rank).then_with(|| digits(number, other_number));
        if ordered.is_ne() {
            return ordered;
        }
    }
    Ordering::Equal
}
