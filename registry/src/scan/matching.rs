//! Whether a version is affected.

use std::cmp::Ordering;

use super::version::Scheme;
use crate::protocol::Event;

/// Whether an advisory is about a version, and since which version it is not any more, where that
/// is known. `None` when it is not about it.
///
/// # Spec
/// Open Source Vulnerability format, "Evaluation".
pub(super) fn affects(
    scheme: Scheme,
    ranges: &[Vec<Event>],
    versions: &[String],
    version: &str,
) -> Option<Option<String>> {
    let is_same = |listed: &String| scheme.compare(listed, version).is_eq();
    let is_listed = versions.iter().any(is_same);
    let in_range = ranges.iter().any(|events| is_in(scheme, events, version));
    if !is_listed && !in_range {
        return None;
    }
    let fixes = ranges.iter().flatten().filter_map(|event| match event {
        Event::Fixed(fixed) => Some(fixed),
        _ => None,
    });
    let later = fixes.filter(|fixed| scheme.compare(fixed, version).is_gt());
    Some(later.min_by(|one, other| scheme.compare(one, other)).cloned())
}

/// `events` are in the order of versions.
fn is_in(scheme: Scheme, events: &[Event], version: &str) -> bool {
    let at = |bound: &str| match bound {
        // Before every version.
        "0" => Ordering::Greater,
        bound => scheme.compare(version, bound),
    };
    let limits = events.iter().filter_map(|event| match event {
        Event::Limit(limit) if limit != "*" => Some(limit),
        _ => None,
    });
    let mut limits = limits.peekable();
    if limits.peek().is_some() && !limits.any(|limit| at(limit).is_lt()) {
        return false;
    }
    let mut is_in = false;
    for event in events {
        match event {
            Event::Introduced(bound) if at(bound).is_ge() => is_in = true,
            Event::Fixed(bound) if at(bound).is_ge() => is_in = false,
            Event::LastAffected(bound) if at(bound).is_gt() => is_in = false,
            _ => {}
        }
    }
    is_in
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduced(version: &str) -> Event {
        Event::Introduced(version.to_owned())
    }

    fn fixed(version: &str) -> Event {
        Event::Fixed(version.to_owned())
    }

    #[test]
    fn ranges_begin_with_and_end_before_their_versions() {
        let two = vec![introduced("1.0.0"), fixed("1.2.0"), introduced("2.0.0"), fixed("2.1.0")];
        let last = vec![introduced("0"), Event::LastAffected("1.5.0".to_owned())];
        let limited = vec![introduced("1.0.0"), Event::Limit("3.0.0".to_owned())];
        let open = vec![introduced("2.0.0")];
        for (events, version, want) in [
            (&two, "0.9.0", None),
            (&two, "1.0.0", Some(Some("1.2.0"))),
            (&two, "1.2.0-rc.1", Some(Some("1.2.0"))),
            (&two, "1.2.0", None),
            (&two, "2.0.5", Some(Some("2.1.0"))),
            (&two, "2.1.0", None),
            (&last, "0.0.0-alpha", Some(None)),
            (&last, "1.5.0", Some(None)),
            (&last, "1.5.1", None),
            (&limited, "2.9.9", Some(None)),
            (&limited, "3.0.0", None),
            (&open, "99.0.0", Some(None)),
            (&open, "1.9.9", None),
        ] {
            let got = affects(Scheme::Semver, std::slice::from_ref(events), &[], version);
            assert_eq!(got, want.map(|fixed| fixed.map(str::to_owned)), "{version} in {events:?}");
        }
        let listed = ["1.0".to_owned(), "1.1".to_owned()];
        assert_eq!(affects(Scheme::Pep440, &[], &listed, "1.0.0"), Some(None));
        assert_eq!(affects(Scheme::Pep440, &[], &listed, "1.2"), None);
        let debian = [vec![introduced("0"), fixed("3.0.11-1~deb12u2")]];
        let at = |version| affects(Scheme::Dpkg, &debian, &[], version).is_some();
        assert!(at("3.0.11-1~deb12u1") && !at("3.0.11-1~deb12u2") && !at("3.0.13-1"));
    }
}
