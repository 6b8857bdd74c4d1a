use crate::{
    limits::PACKAGES_MAX,
    scan::package::{Kind, Package},
};

/// The installed packages of `/var/lib/dpkg/status`, or of one file in `status.d`.
pub fn dpkg_status(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let mut packages = Vec::new();
    let mut stanza = Stanza::default();
    for line in text.lines().chain([""]) {
        if packages.len() > PACKAGES_MAX {
            break;
        }
        if line.trim().is_empty() {
            packages.extend(std::mem::take(&mut stanza).package());
        } else if let Some((key, value)) = line.split_once(':').filter(|_| !is_continued(line)) {
            stanza.set(key, value.trim());
        }
    }
    packages
}

/// A line that belongs to the field before.
fn is_continued(line: &str) -> bool {
    line.starts_with([' ', '\t'])
}

#[derive(Default)]
struct Stanza<'a> {
    name: &'a str,
    version: &'a str,
    source: &'a str,
    status: &'a str,
    architecture: &'a str,
}

impl<'a> Stanza<'a> {
    fn set(&mut self, key: &str, value: &'a str) {
        match key {
            "Package" => self.name = value,
            "Version" => self.version = value,
            "Source" => self.source = value,
            "Status" => self.status = value,
            "Architecture" => self.architecture = value,
            _ => {}
        }
    }

    /// What was removed, and has left its settings, is no package. Images without dpkg have no
    /// status.
    fn package(self) -> Option<Package> {
        if !self.status.is_empty() && !self.status.ends_with(" installed") {
            return None;
        }
        let package = Package::new(Kind::Deb, self.name, self.version)?;
        let package = package.described("", self.architecture);
        // `openssl (1.1.1n-0+deb11u4)`, or the name alone when the version is the same.
        let (name, version) = match self.source.split_once('(') {
            Some((name, version)) => (name.trim(), version.trim_end_matches(')').trim()),
            None if self.source.is_empty() => (self.name, self.version),
            None => (self.source, self.version),
        };
        Some(package.built_of(name, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_with_their_sources() {
        let text = "Package: libssl3\nStatus: install ok installed\nArchitecture: amd64\n\
            Source: openssl\nVersion: 3.0.11-1~deb12u2\nDescription: text\n Package: no\n\n\
            Package: libc6\nStatus: install ok installed\nSource: glibc (2.36-9)\n\
            Version: 2.36-9+deb12u1\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: half\nStatus: install ok installed\n\n\
            Package: tzdata\nVersion: 2024a-0\n";
        let shown: Vec<_> = dpkg_status(text.as_bytes())
            .into_iter()
            .map(|package| format!("{} {} {:?}", package.name, package.version, package.source))
            .collect();
        assert_eq!(
            shown,
            [
                "libssl3 3.0.11-1~deb12u2 Some((\"openssl\", \"3.0.11-1~deb12u2\"))",
                "libc6 2.36-9+deb12u1 Some((\"glibc\", \"2.36-9\"))",
                "tzdata 2024a-0 None",
            ]
        );
    }
}
