use std::fmt::Write as _;

use super::package::{Distribution, Kind, Package};

/// The package URL of a package.
///
/// # Spec
/// package-url, "PURL specification" and "PURL types".
pub(crate) fn purl(package: &Package, distribution: Option<&Distribution>) -> String {
    let Package { kind, name, version, .. } = package;
    let mut url = format!("pkg:{}/", kind.name());
    let id = distribution.map_or("linux", |distribution| &*distribution.id);
    if matches!(kind, Kind::Deb | Kind::Apk | Kind::Rpm) {
        url.push_str(&escaped(id, false));
        url.push('/');
    }
    url.push_str(&escaped(name, true));
    let prefix = if *kind == Kind::Golang && name != "stdlib" { "v" } else { "" };
    let (epoch, shown) = match version.split_once(':').filter(|_| *kind == Kind::Rpm) {
        Some((epoch, shown)) => (Some(epoch), shown),
        None => (None, &**version),
    };
    let _ = write!(url, "@{prefix}{}", escaped(shown, false));
    let mut qualifiers = Vec::new();
    if !package.architecture.is_empty() {
        qualifiers.push(format!("arch={}", escaped(&package.architecture, false)));
    }
    if let Some(distribution) = distribution.filter(|_| is_of_distribution(*kind)) {
        let distro = format!("{}-{}", distribution.id, distribution.version);
        qualifiers.push(format!("distro={}", escaped(distro.trim_end_matches('-'), false)));
    }
    qualifiers.extend(epoch.map(|epoch| format!("epoch={}", escaped(epoch, false))));
    if !qualifiers.is_empty() {
        let _ = write!(url, "?{}", qualifiers.join("&"));
    }
    url
}

fn is_of_distribution(kind: Kind) -> bool {
    matches!(kind, Kind::Deb | Kind::Apk | Kind::Rpm)
}

fn escaped(text: &str, is_path: bool) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
        match plain || (is_path && byte == b'/') {
            true => escaped.push(char::from(byte)),
            false => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_as_the_specification_writes_them() {
        let debian = Distribution { id: "debian".into(), version: "12".into(), title: "".into() };
        let of = |kind, name, version| Package::new(kind, name, version).unwrap();
        for (package, want) in [
            (
                of(Kind::Deb, "libc6", "2.36-9+deb12u1").described("", "amd64"),
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12",
            ),
            (
                of(Kind::Rpm, "bash", "2:5.2-1"),
                "pkg:rpm/debian/bash@5.2-1?distro=debian-12&epoch=2",
            ),
            (of(Kind::Npm, "@angular/core", "1.0.0"), "pkg:npm/%40angular/core@1.0.0"),
            (of(Kind::Golang, "golang.org/x/net", "0.7.0"), "pkg:golang/golang.org/x/net@v0.7.0"),
            (of(Kind::Golang, "stdlib", "1.21.3"), "pkg:golang/stdlib@1.21.3"),
            (of(Kind::Pypi, "jinja2", "3.1.2"), "pkg:pypi/jinja2@3.1.2"),
            (of(Kind::Cargo, "time", "0.1.44"), "pkg:cargo/time@0.1.44"),
        ] {
            assert_eq!(purl(&package, Some(&debian)), want);
        }
    }
}
