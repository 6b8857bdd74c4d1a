use std::cmp::Ordering;

use super::{digits, leading_digits};

/// A version, taken apart.
struct Version<'a> {
    epoch: &'a str,
    release: Vec<&'a str>,
    /// 0 to 2 for alpha, beta and release candidate.
    pre: Option<(u8, &'a str)>,
    post: Option<&'a str>,
    dev: Option<&'a str>,
    local: Option<&'a str>,
    /// What is no part of a version.
    rest: &'a str,
}

const PRE: [(&str, u8); 8] = [
    ("alpha", 0),
    ("beta", 1),
    ("preview", 2),
    ("pre", 2),
    ("rc", 2),
    ("a", 0),
    ("b", 1),
    ("c", 2),
];

/// # Spec
/// PEP 440, "Summary of permitted suffixes and relative ordering".
pub fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim().to_ascii_lowercase(), other.trim().to_ascii_lowercase());
    let (one, other) = (parse(&one), parse(&other));
    digits(one.epoch, other.epoch)
        .then_with(|| release(&one.release, &other.release))
        .then_with(|| pre(&one).cmp(&pre(&other)))
        .then_with(|| number(one.pre.map(|pre| pre.1), other.pre.map(|pre| pre.1)))
        .then_with(|| number(one.post, other.post))
        // A development release comes before what it leads to.
        .then_with(|| one.dev.is_none().cmp(&other.dev.is_none()))
        .then_with(|| number(one.dev, other.dev))
        .then_with(|| local(one.local, other.local))
        .then_with(|| one.rest.cmp(other.rest))
}

fn parse(text: &str) -> Version<'_> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (text, local) = text.split_once('+').map_or((text, None), |(text, l)| (text, Some(l)));
    let (epoch, text) = match text.split_once('!') {
        Some((epoch, rest)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => (epoch, rest),
        _ => ("", text),
    };
    let (first, mut rest) = leading_digits(text);
    let mut release = vec![first];
    while let Some(after) = rest.strip_prefix('.') {
        let (number, after) = leading_digits(after);
        if number.is_empty() {
            break;
        }
        release.push(number);
        rest = after;
    }
    let mut version = Version { epoch, release, pre: None, post: None, dev: None, local, rest };
    for (name, rank) in PRE {
        if let Some((number, after)) = suffix(version.rest, name) {
            (version.pre, version.rest) = (Some((rank, number)), after);
            break;
        }
    }
    let implicit = version.rest.strip_prefix('-').map(leading_digits);
    let implicit = implicit.filter(|(number, _)| !number.is_empty());
    let posts = ["post", "rev", "r"].iter().find_map(|name| suffix(version.rest, name));
    if let Some((number, after)) = implicit.or(posts) {
        (version.post, version.rest) = (Some(number), after);
    }
    if let Some((number, after)) = suffix(version.rest, "dev") {
        (version.dev, version.rest) = (Some(number), after);
    }
    version
}

/// The number of a suffix that is next, and what is behind it.
fn suffix<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let separators = ['.', '-', '_'];
    let rest = text.strip_prefix(separators).unwrap_or(text).strip_prefix(name)?;
    let (number, after) = leading_digits(rest.strip_prefix(separators).unwrap_or(rest));
    Some((number, after))
}

/// Before every pre-release a development release of the release itself, behind it the release.
fn pre(version: &Version<'_>) -> (u8, u8) {
    match (version.pre, version.post, version.dev) {
        (Some((rank, _)), _, _) => (1, rank),
        (None, None, Some(_)) => (0, 0),
        (None, _, _) => (2, 0),
    }
}

/// Without one it comes first.
fn number(one: Option<&str>, other: Option<&str>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) => digits(one, other),
        (one, other) => one.is_some().cmp(&other.is_some()),
    }
}

fn release(one: &[&str], other: &[&str]) -> Ordering {
    for place in 0..one.len().max(other.len()) {
        let at =
            |list: &[&str]| list.get(place).map_or_else(String::new, |part| (*part).to_owned());
        let ordered = digits(&at(one), &at(other));
        if ordered.is_ne() {
            return ordered;
        }
    }
    Ordering::Equal
}

fn local(one: Option<&str>, other: Option<&str>) -> Ordering {
    let (Some(one), Some(other)) = (one, other) else {
        return one.is_some().cmp(&other.is_some());
    };
    let separators = ['.', '-', '_'];
    let (mut one, mut other) = (one.split(separators), other.split(separators));
    loop {
        let ordered = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (Some(part), Some(other_part)) => {
                let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                match (is_number(part), is_number(other_part)) {
                    (true, true) => digits(part, other_part),
                    (false, false) => part.cmp(other_part),
                    (number, other_number) => number.cmp(&other_number),
                }
            }
            (part, other_part) => part.is_some().cmp(&other_part.is_some()),
        };
        if ordered.is_ne() {
            return ordered;
        }
    }
}
