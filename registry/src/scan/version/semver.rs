use std::cmp::Ordering;

use super::digits;

/// Also of two numbers or one, as versions of Go have them, and with a `v` in front.
///
/// # Spec
/// Semantic Versioning 2.0.0, "Precedence".
pub fn compare(one: &str, other: &str) -> Ordering {
    let ((core, pre), (other_core, other_pre)) = (parts(one), parts(other));
    numbers(core, other_core).then_with(|| match (pre, other_pre) {
        (Some(pre), Some(other_pre)) => identifiers(pre, other_pre),
        (pre, other_pre) => pre.is_none().cmp(&other_pre.is_none()),
    })
}

fn parts(text: &str) -> (&str, Option<&str>) {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split('+').next().unwrap_or_default();
    text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)))
}

fn numbers(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (part, other_part) => {
                let (part, other_part) = (part.unwrap_or("0"), other_part.unwrap_or("0"));
                let ordered = identifier(part, other_part);
                if ordered.is_ne() {
                    return ordered;
                }
            }
        }
    }
}

fn identifiers(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let ordered = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (Some(part), Some(other_part)) => identifier(part, other_part),
            (part, other_part) => part.is_some().cmp(&other_part.is_some()),
        };
        if ordered.is_ne() {
            return ordered;
        }
    }
}

/// Numbers come before texts.
fn identifier(one: &str, other: &str) -> Ordering {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match (is_number(one), is_number(other)) {
        (true, true) => digits(one, other),
        (false, false) => one.cmp(other),
        (number, other_number) => other_number.cmp(&number),
    }
}
