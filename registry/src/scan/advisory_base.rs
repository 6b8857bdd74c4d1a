//! Whose advisories are about a package: the ecosystem of OSV, and the release of it.

use super::package::{Distribution, Kind};

/// An ecosystem, without and with its release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advisories {
    pub base: &'static str,
    /// Empty where there is one for all.
    pub release: String,
}

/// Where the vulnerabilities of a package are published; `None` where that is not known.
pub(super) fn advisories_of(kind: Kind, distribution: Option<&Distribution>) -> Option<Advisories> {
    let of = |base, release: &str| Some(Advisories { base, release: release.to_owned() });
    let Distribution { id, version, .. } = match kind {
        Kind::Cargo => return of("crates.io", ""),
        Kind::Npm => return of("npm", ""),
        Kind::Pypi => return of("PyPI", ""),
        Kind::Golang => return of("Go", ""),
        Kind::Generic => return None,
        Kind::Deb | Kind::Apk | Kind::Rpm => distribution?,
    };
    let mut parts = version.split('.');
    let major = parts.next().unwrap_or_default();
    let minor = parts.next().unwrap_or_default();
    match (id.as_str(), kind) {
        (_, _) if major.is_empty() && !matches!(&**id, "wolfi" | "chainguard") => None,
        ("debian", Kind::Deb) => of("Debian", major),
        ("ubuntu", Kind::Deb) => of("Ubuntu", version),
        ("alpine", Kind::Apk) => of("Alpine", &format!("v{major}.{minor}")),
        ("wolfi", Kind::Apk) => of("Wolfi", ""),
        ("chainguard", Kind::Apk) => of("Chainguard", ""),
        ("rhel", Kind::Rpm) => of("Red Hat", major),
        ("rocky", Kind::Rpm) => of("Rocky Linux", major),
        ("almalinux", Kind::Rpm) => of("AlmaLinux", major),
        ("azurelinux", Kind::Rpm) => of("Azure Linux", major),
        ("opensuse-leap", Kind::Rpm) => of("openSUSE", &format!("Leap {version}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_decides_where_advisories_are() {
        for (kind, id, version, want) in [
            (Kind::Deb, "debian", "12", Some(("Debian", "12"))),
            (Kind::Deb, "debian", "12.4", Some(("Debian", "12"))),
            (Kind::Deb, "debian", "", None), // testing
            (Kind::Deb, "ubuntu", "22.04", Some(("Ubuntu", "22.04"))),
            (Kind::Deb, "linuxmint", "21", None),
            (Kind::Apk, "alpine", "3.19.1", Some(("Alpine", "v3.19"))),
            (Kind::Apk, "wolfi", "20230201", Some(("Wolfi", ""))),
            (Kind::Rpm, "rhel", "9.3", Some(("Red Hat", "9"))),
            (Kind::Rpm, "rocky", "9.3", Some(("Rocky Linux", "9"))),
            (Kind::Rpm, "opensuse-leap", "15.5", Some(("openSUSE", "Leap 15.5"))),
            (Kind::Deb, "alpine", "3.19", None),
            (Kind::Cargo, "debian", "12", Some(("crates.io", ""))),
            (Kind::Generic, "debian", "12", None),
        ] {
            let distribution = Distribution {
                id: id.to_owned(),
                version: version.to_owned(),
                title: String::new(),
            };
            let got = advisories_of(kind, Some(&distribution));
            let got = got.as_ref().map(|one| (one.base, one.release.as_str()));
            assert_eq!(got, want, "{kind:?} {id} {version}");
        }
        assert_eq!(advisories_of(Kind::Deb, None), None);
    }
}
