//! What a distribution calls its package of a program: fixes that it has taken over are in that
//! version, and not in the one that the program prints.

use std::{cmp::Ordering, path::Path};

/// The records of dpkg: some megabytes on a full system.
const STATUS: &str = "/var/lib/dpkg/status";
const STATUS_BYTES_MAX: u64 = 64 << 20;

/// The version of the installed package `name`, where dpkg has installed `program`. One in another
/// folder came from somewhere else.
pub(crate) fn version(name: &str, program: &Path) -> Option<String> {
    let of_packages = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let folder = program.parent()?.to_str()?;
    let size = std::fs::metadata(STATUS).ok()?.len();
    if !of_packages.contains(&folder) || size > STATUS_BYTES_MAX {
        return None;
    }
    version_in(&std::fs::read_to_string(STATUS).ok()?, name)
}

fn version_in(status: &str, name: &str) -> Option<String> {
    let field = |record: &str, field: &str| {
        let line = record.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim().to_owned())
    };
    let is_it = |record: &&str| {
        field(record, "Package:").as_deref() == Some(name)
            && field(record, "Status:").is_some_and(|status| status.ends_with(" installed"))
    };
    field(status.split("\n\n").find(is_it)?, "Version:")
}

/// Compares versions as dpkg does: epoch, upstream version, revision.
pub(crate) fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (parts(one), parts(other));
    one.0
        .cmp(&other.0)
        .then_with(|| compare_part(one.1, other.1))
        .then_with(|| compare_part(one.2, other.2))
}

fn parts(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Text and numbers in turn. In text `~` comes before the end, and letters before the rest.
fn compare_part(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let text = |part: &str| part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
        let (a, b) = (text(one), text(other));
        let weight = |c: Option<char>| match c {
            Some('~') => -1,
            None => 0,
            Some(c) if c.is_ascii_alphabetic() => c as i32,
            Some(c) => c as i32 + 256,
        };
        for at in 0..a.max(b) {
            let weights = [&one[..a], &other[..b]].map(|part| weight(part.chars().nth(at)));
            if weights[0] != weights[1] {
                return weights[0].cmp(&weights[1]);
            }
        }
        (one, other) = (&one[a..], &other[b..]);
        let number = |part: &str| part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (a, b) = (number(one), number(other));
        let digits = |part: &str| part.parse::<u128>().unwrap_or(0);
        let order = digits(&one[..a]).cmp(&digits(&other[..b]));
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (&one[a..], &other[b..]);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_packages_are_ordered_as_dpkg_orders_them() {
        for (one, other, want) in [
            ("1.1.5+ds1-1+deb12u1", "1.1.5+ds1-1+deb12u1", Ordering::Equal),
            ("1.1.5+ds1-1", "1.1.5+ds1-1+deb12u1", Ordering::Less),
            ("1.1.5+ds1-1+deb12u2", "1.1.5+ds1-1+deb12u1", Ordering::Greater),
            ("1.1.5+ds1-1+deb12u10", "1.1.5+ds1-1+deb12u9", Ordering::Greater),
            ("1.1.15-1", "1.1.5-1", Ordering::Greater),
            ("1.2.0~rc1-1", "1.2.0-1", Ordering::Less),
            ("1:1.0-1", "2.0-1", Ordering::Greater),
            ("1.0", "1.0-1", Ordering::Less),
        ] {
            assert_eq!(compare(one, other), want, "{one} {other}");
            assert_eq!(compare(other, one), want.reverse(), "{other} {one}");
        }
    }

    #[test]
    fn the_record_of_an_installed_package_is_found() {
        let status = "Package: runc-tools\nStatus: install ok installed\nVersion: 9\n\n\
                      Package: runc\nStatus: install ok installed\nVersion: 1.1.5-1\n\n\
                      Package: crun\nStatus: deinstall ok config-files\nVersion: 1.8\n";
        assert_eq!(version_in(status, "runc").as_deref(), Some("1.1.5-1"));
        assert_eq!(version_in(status, "crun"), None);
        assert_eq!(version_in(status, "youki"), None);
        assert_eq!(version("runc", Path::new("/opt/runc")), None);
    }
}
