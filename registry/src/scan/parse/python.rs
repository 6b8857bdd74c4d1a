use serde::Deserialize;

use crate::{
    limits::PACKAGES_MAX,
    scan::package::{Kind, Package, pypi_name},
};

fn package(name: &str, version: &str) -> Option<Package> {
    Package::new(Kind::Pypi, &pypi_name(name), version)
}

/// The headers of `METADATA` in `*.dist-info`, or of `PKG-INFO` in `*.egg-info`.
pub fn metadata(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let (mut name, mut version, mut license) = ("", "", "");
    for line in text.lines().take_while(|line| !line.is_empty()) {
        match line.split_once(':') {
            Some(("Name", value)) => name = value,
            Some(("Version", value)) => version = value,
            Some(("License" | "License-Expression", value)) => license = value,
            _ => {}
        }
    }
    package(name, version).map(|found| found.described(license, "")).into_iter().collect()
}

/// The packages of `poetry.lock` and of `uv.lock`.
pub fn poetry_lock(bytes: &[u8]) -> Vec<Package> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: Option<String>,
    }
    let lock = toml::from_str::<Lock>(&String::from_utf8_lossy(bytes)).ok();
    let locked = lock.map(|lock| lock.package).unwrap_or_default();
    let versioned = locked.iter().filter_map(|one| Some((&one.name, one.version.as_ref()?)));
    versioned.filter_map(|(name, version)| package(name, version)).collect()
}

/// What `requirements.txt` pins to one version. A range names no version that is there.
pub fn requirements(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let pinned = text.lines().filter_map(|line| {
        let line = line.split('#').next()?.split(';').next()?.trim();
        let (name, version) = line.split_once("==")?;
        let name = name.split('[').next()?;
        let version = version.trim_start_matches('=').split_whitespace().next()?;
        let is_one = !version.contains(['*', ',']) && !name.contains(['<', '>', ',', ' ']);
        package(name, version.trim_end_matches('\\')).filter(|_| is_one)
    });
    pinned.take(PACKAGES_MAX + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_and_locked_packages_have_the_names_of_the_index() {
        let shown = |packages: Vec<Package>| {
            let all = packages.into_iter().map(|found| format!("{}@{}", found.name, found.version));
            all.collect::<Vec<_>>().join(" ")
        };
        for (got, want) in [
            (
                metadata(b"Metadata-Version: 2.1\nName: Zope.Interface\nVersion: 5.0\n\nName: x\n"),
                "zope-interface@5.0",
            ),
            (metadata(b"Version: 5.0"), ""),
            (poetry_lock(b"[[package]]\nname = \"Jinja2\"\nversion = \"3.1.2\"\n"), "jinja2@3.1.2"),
            (
                requirements(
                    b"# x\nflask==2.0.1 # y\nreq[sec]==2.28.0 ; python_version>'3'\nd>=1\n\
                    e==1.*\nf__g==1.0 \\\n  --hash=sha256:00\n",
                ),
                "flask@2.0.1 req@2.28.0 f-g@1.0",
            ),
        ] {
            assert_eq!(shown(got), want);
        }
    }
}
