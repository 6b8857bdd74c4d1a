use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    limits::PACKAGES_MAX,
    scan::package::{Kind, Package},
};

fn package(name: &str, version: &str) -> Option<Package> {
    // `file:../x`, `link:`, `workspace:` and git are no versions of the registry.
    let is_version = version.starts_with(|c: char| c.is_ascii_digit());
    Package::new(Kind::Npm, name, version).filter(|_| is_version)
}

/// A module that is installed, by its `package.json`.
pub fn installed_module(bytes: &[u8]) -> Vec<Package> {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return Vec::new() };
    let text = |key: &str| json[key].as_str().unwrap_or_default();
    let found = package(text("name"), text("version"));
    found.map(|found| found.described(text("license"), "")).into_iter().collect()
}

/// The packages of `package-lock.json` and `npm-shrinkwrap.json`, of all three versions.
pub fn package_lock(bytes: &[u8]) -> Vec<Package> {
    #[derive(Deserialize)]
    struct Lock {
        packages: Option<BTreeMap<String, Value>>,
        dependencies: Option<BTreeMap<String, Value>>,
    }
    let Ok(lock) = serde_json::from_slice::<Lock>(bytes) else { return Vec::new() };
    let mut found = Vec::new();
    for (path, entry) in lock.packages.iter().flatten() {
        // `node_modules/a/node_modules/@scope/b`; without it the project and its own folders.
        let Some((_, name)) = path.rsplit_once("node_modules/") else { continue };
        let name = entry["name"].as_str().unwrap_or(name);
        found.extend(package(name, entry["version"].as_str().unwrap_or_default()));
    }
    if lock.packages.is_none() {
        let mut levels: Vec<BTreeMap<String, Value>> = lock.dependencies.into_iter().collect();
        // JSON has a limited depth, and so have these.
        while let Some(level) = levels.pop() {
            for (name, mut entry) in level {
                found.extend(package(&name, entry["version"].as_str().unwrap_or_default()));
                if let Value::Object(inner) = entry["dependencies"].take() {
                    levels.push(inner.into_iter().collect());
                }
            }
        }
    }
    found
}

/// The packages of `yarn.lock`, of version 1 and of the later ones.
pub fn yarn_lock(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let (mut found, mut name) = (Vec::new(), None);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if found.len() > PACKAGES_MAX {
            break;
        }
        if !line.starts_with(' ') {
            // `"@scope/b@^1.0.0", "@scope/b@npm:^1.1.0":`
            let first = line.split(", ").next().unwrap_or_default();
            let first = first.trim_end_matches(':').trim_matches('"');
            name =
                first.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| &first[..at]);
        } else if let Some((key, value)) = line.trim().split_once([' ', ':'])
            && key == "version"
            && let Some(name) = name.take()
        {
            found.extend(package(name, value.trim_matches([' ', '"', ':'])));
        }
    }
    found
}

/// The packages of `pnpm-lock.yaml`, by the keys below `packages`.
pub fn pnpm_lock(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let (mut found, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        if found.len() > PACKAGES_MAX {
            break;
        }
        if !line.starts_with(' ') && !line.is_empty() {
            inside = line.trim_end() == "packages:";
        }
        let key = line.strip_prefix("  ").filter(|key| !key.starts_with(' ')).unwrap_or_default();
        let Some(key) = key.trim_end().strip_suffix(':').filter(|_| inside) else { continue };
        // `/@scope/b@1.0.0(peer@2)`, `b@1.0.0`, and before version 6 `/b/1.0.0_peer`.
        let key = key.trim_matches(['\'', '"']).trim_start_matches('/');
        let key = key.split('(').next().unwrap_or_default();
        let at = key.rfind('@').filter(|at| *at > 0).or_else(|| key.rfind('/'));
        if let Some(at) = at {
            let version = key[at + 1..].split('_').next().unwrap_or_default();
            found.extend(package(&key[..at], version));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(packages: Vec<Package>) -> String {
        let all =
            packages.into_iter().map(|package| format!("{}@{}", package.name, package.version));
        all.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lock_files_of_all_managers_are_read() {
        for (got, want) in [
            (
                package_lock(
                    br#"{"lockfileVersion":3,"packages":{"":{"name":"app","version":"1.0.0"},
                    "node_modules/a":{"version":"1.2.3"},
                    "node_modules/a/node_modules/@s/b":{"version":"2.0.0"},
                    "node_modules/c":{"link":true,"resolved":"packages/c"}}}"#,
                ),
                "a@1.2.3 @s/b@2.0.0",
            ),
            (
                package_lock(
                    br#"{"dependencies":{"a":{"version":"1.2.3","dependencies":
                    {"b":{"version":"2.0.0"}}},"c":{"version":"file:../c"}}}"#,
                ),
                "a@1.2.3 b@2.0.0",
            ),
            (
                yarn_lock(
                    b"# yarn lockfile v1\n\n\"@s/b@^1.0.0\", \"@s/b@^1.1.0\":\n  version \"1.1.4\"\n\n\
                    a@^2:\n  version \"2.0.1\"\n  dependencies:\n    version \"9\"\n",
                ),
                "@s/b@1.1.4 a@2.0.1",
            ),
            (
                yarn_lock(b"\"a@npm:^2\":\n  version: 2.0.1\n  resolution: \"a@npm:2.0.1\"\n"),
                "a@2.0.1",
            ),
            (
                pnpm_lock(
                    b"lockfileVersion: '9.0'\nimporters:\n  .:\n    x: 1\npackages:\n\n  \
                    '@s/b@1.1.4(c@1.0.0)':\n    resolution: {}\n  a@2.0.1:\n    x: y\n\
                    snapshots:\n  z@1.0.0:\n",
                ),
                "@s/b@1.1.4 a@2.0.1",
            ),
            (pnpm_lock(b"packages:\n  /a/1.0.0_x:\n  /@s/b/2.0.0:\n"), "a@1.0.0 @s/b@2.0.0"),
            (installed_module(br#"{"name":"a","version":"1.0.0","license":"MIT"}"#), "a@1.0.0"),
            (installed_module(br#"{"name":"a"}"#), ""),
            (package_lock(b"[]"), ""),
        ] {
            assert_eq!(shown(got), want);
        }
    }
}
