use crate::{
    limits::PACKAGES_MAX,
    scan::package::{Kind, Package},
};

/// The packages of `/lib/apk/db/installed`.
pub fn apk_installed(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let mut packages = Vec::new();
    let mut fields = [""; 5];
    for line in text.lines().chain([""]) {
        if packages.len() > PACKAGES_MAX {
            break;
        }
        if line.is_empty() {
            let [name, version, origin, architecture, license] = std::mem::take(&mut fields);
            if let Some(package) = Package::new(Kind::Apk, name, version) {
                let origin = if origin.is_empty() { name } else { origin };
                let package = package.described(license, architecture);
                packages.push(package.built_of(origin, version));
            }
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        if let Some(place) = ["P", "V", "o", "A", "L"].iter().position(|known| *known == key) {
            fields[place] = value;
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_with_their_origins() {
        let text = "C:Q1x=\nP:libcrypto3\nV:3.1.4-r2\nA:x86_64\nL:Apache-2.0\no:openssl\n\n\
            P:musl\nV:1.2.4-r2\no:musl\n\nP:broken\n\nF:usr\nR:P:x\n";
        let shown: Vec<_> = apk_installed(text.as_bytes())
            .into_iter()
            .map(|p| format!("{} {} {:?} {}", p.name, p.version, p.source, p.license))
            .collect();
        assert_eq!(
            shown,
            [
                "libcrypto3 3.1.4-r2 Some((\"openssl\", \"3.1.4-r2\")) Apache-2.0",
                "musl 1.2.4-r2 None ",
            ]
        );
    }
}
