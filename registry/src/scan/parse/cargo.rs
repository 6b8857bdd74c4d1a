use std::io::Read as _;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use crate::{
    limits::AUDIT_DATA_BYTES_MAX,
    scan::package::{Kind, Package},
};

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

/// A package of a lock file, or of the list in a program.
#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    /// Absent for what is no dependency: the project itself.
    source: Option<String>,
}

/// The dependencies of a `Cargo.lock`.
pub fn cargo_lock(bytes: &[u8]) -> Vec<Package> {
    let Ok(lock) = toml::from_str::<Lock>(&String::from_utf8_lossy(bytes)) else {
        return Vec::new();
    };
    let from_registry = |locked: &Locked| locked.source.is_some();
    lock.package.iter().filter(|locked| from_registry(locked)).filter_map(Locked::package).collect()
}

/// The list of crates that a program was built of: JSON, compressed with zlib.
pub fn audit_data(section: &[u8]) -> Vec<Package> {
    #[derive(Deserialize)]
    struct Audit {
        packages: Vec<Locked>,
    }
    let mut json = Vec::new();
    let decoder = ZlibDecoder::new(section).take(AUDIT_DATA_BYTES_MAX);
    if { decoder }.read_to_end(&mut json).is_err() {
        return Vec::new();
    }
    let audit: Option<Audit> = serde_json::from_slice(&json).ok();
    let packages = audit.map(|audit| audit.packages).unwrap_or_default();
    packages.iter().filter_map(Locked::package).collect()
}

impl Locked {
    fn package(&self) -> Option<Package> {
        Package::new(Kind::Cargo, &self.name, &self.version)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    #[test]
    fn dependencies_are_read_and_the_project_itself_is_not_one() {
        let text = "version = 4\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\n\
            [[package]]\nname = \"time\"\nversion = \"0.1.44\"\n\
            source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        let found = cargo_lock(text.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, &*found[0].version), ("time", "0.1.44"));
        assert!(cargo_lock(b"not [ toml").is_empty());
    }

    #[test]
    fn the_list_in_a_program_is_unpacked_within_its_limit() {
        let packed = |bytes: &[u8]| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let json = br#"{"packages":[{"name":"time","version":"0.1.44","source":"crates.io"},
            {"name":"bad"}]}"#;
        assert!(audit_data(&packed(json)).is_empty(), "malformed");
        let json = br#"{"packages":[{"name":"time","version":"0.1.44","source":"crates.io"}]}"#;
        assert_eq!(audit_data(&packed(json)).len(), 1);
        let bomb = packed(&vec![b' '; AUDIT_DATA_BYTES_MAX as usize * 4]);
        assert!(audit_data(&bomb).is_empty());
        assert!(audit_data(b"no zlib").is_empty());
    }
}
