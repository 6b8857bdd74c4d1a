//! Versions, compared as the managers of packages do it. Every text has a place in the order: a
//! version of an image is whatever its author wrote.

mod dpkg; // Debian, Ubuntu
mod apk; // Alpine, Wolfi
mod rpm; // Red Hat, SUSE
mod semver; // npm, crates.io, Go
mod pep440; // Python

use std::cmp::Ordering;

/// How versions of an ecosystem compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Dpkg,
    Apk,
    Rpm,
    Semver,
    Pep440,
}

impl Scheme {
    /// That of an ecosystem of OSV; `None` where it is not known here.
    pub fn of(base: &str) -> Option<Self> {
        Some(match base {
            "Debian" | "Ubuntu" => Self::Dpkg,
            "Alpine" | "Wolfi" | "Chainguard" => Self::Apk,
            "Red Hat" | "Rocky Linux" | "AlmaLinux" | "Azure Linux" | "openSUSE" => Self::Rpm,
            "crates.io" | "npm" | "Go" => Self::Semver,
            "PyPI" => Self::Pep440,
            _ => return None,
        })
    }

    pub fn compare(self, one: &str, other: &str) -> Ordering {
        match self {
            Self::Dpkg => dpkg::compare(one, other),
            Self::Apk => apk::compare(one, other),
            Self::Rpm => rpm::compare(one, other),
            Self::Semver => semver::compare(one, other),
            Self::Pep440 => pep440::compare(one, other),
        }
    }
}

/// Digits as a number of any length.
fn digits(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// The digits at the start of a text, and what is behind them.
fn leading_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each list is in order, with `=` between equal ones.
    const ORDERED: [(Scheme, &str); 14] = [
        (
            Scheme::Dpkg,
            "1.0~~ 1.0~~a 1.0~ 1.0~rc1 1.0 1.0-1 1.0-1+deb12u1 1.0-1.1 1.0-2 1.0a 1.0+b 1.0.1 1.10",
        ),
        (Scheme::Dpkg, "1.0 0:1.1 1:0.5 2:0.1"),
        (Scheme::Dpkg, "0 = 00 = 0:0 0a 1"),
        (Scheme::Dpkg, "2.36-9+deb12u1 2.36-9+deb12u4 2.36-9+deb12u10"),
        (
            Scheme::Apk,
            "1.0_alpha1 1.0_beta 1.0_pre1 1.0_rc1 1.0 1.0-r1 1.0-r2 1.0_p1 1.0a 1.0b 1.0.1 1.1 1.10",
        ),
        (Scheme::Apk, "3.1.4-r2 3.1.4-r5 3.1.4-r10"),
        (Scheme::Rpm, "1.0~rc1 1.0 1.0^git1 1.0.1 1.1-1 1.1-2 1:0.1 2:0"),
        (Scheme::Rpm, "1.0a 1.0b 1.0.1 1.0.10"),
        (Scheme::Rpm, "3.0.7-24.el9 3.0.7-25.el9 3.0.7-25.el9_3 3.0.7-100.el9"),
        (
            Scheme::Semver,
            "0.1.0-alpha 0.1.0-alpha.1 0.1.0-alpha.beta 0.1.0-beta.2 0.1.0-beta.11 0.1.0-rc 0.1.0",
        ),
        (
            Scheme::Semver,
            "1.0.0 = v1.0.0 = 1.0.0+build 1.2.0 1.10.0 2.0.0-0.20230101000000-abcdefabcdef 2.0.0",
        ),
        (Scheme::Semver, "1 = 1.0 = 1.0.0 1.21.0 1.21.3 1.22"),
        (
            Scheme::Pep440,
            "1.0.dev1 1.0a1.dev1 1.0a1 1.0a2 1.0b1 1.0rc1 1.0 = 1.0.0 1.0+local 1.0.post1 1.1.dev1 1.1 1.10 1!0.1",
        ),
        (Scheme::Pep440, "2.0alpha1 = 2.0-a1 2.0c1 = 2.0rc1 2.0 2.0-1 = 2.0.post1"),
    ];

    #[test]
    fn versions_are_ordered_as_their_managers_order_them() {
        for (scheme, text) in ORDERED {
            let (mut ranked, mut rank) = (Vec::new(), 0);
            let mut words = text.split(' ').peekable();
            while let Some(word) = words.next() {
                ranked.push((word, rank));
                match words.peek() {
                    Some(&"=") => drop(words.next()),
                    _ => rank += 1,
                }
            }
            for (one, rank) in &ranked {
                for (other, other_rank) in &ranked {
                    let got = scheme.compare(one, other);
                    assert_eq!(got, rank.cmp(other_rank), "{scheme:?}: {one} and {other}");
                }
            }
        }
    }

    #[test]
    fn any_text_has_a_place() {
        let texts = [
            "",
            "-",
            ":",
            "1:",
            "~",
            "é",
            "1.é",
            "_",
            "1_p",
            "^",
            "..",
            "a1!",
            "99999999999999999999999",
        ];
        for scheme in [Scheme::Dpkg, Scheme::Apk, Scheme::Rpm, Scheme::Semver, Scheme::Pep440] {
            for one in texts {
                assert_eq!(scheme.compare(one, one), Ordering::Equal, "{scheme:?} {one}");
                for other in texts {
                    let there = scheme.compare(one, other);
                    let back = scheme.compare(other, one);
                    assert_eq!(there, back.reverse(), "{scheme:?}: {one} and {other}");
                }
            }
        }
    }
}
