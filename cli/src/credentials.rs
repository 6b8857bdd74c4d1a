//! Registry logins: `credentials.json` in the home, readable by its owner only.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::{
    failure::Advice,
    home::{Home, read_json, write_private},
};

/// The version that we write; a newer one is refused by name.
const VERSION: u32 = 1;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// Every login, by the registry's host and port as images name it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    version: u32,
    registries: BTreeMap<String, Login>,
    #[serde(skip)]
    path: PathBuf,
}

impl Default for Credentials {
    fn default() -> Self {
        Self { version: VERSION, registries: BTreeMap::new(), path: PathBuf::new() }
    }
}

impl Credentials {
    pub fn read(home: &Home) -> anyhow::Result<Self> {
        let path = home.credentials();
        let file: Self = read_json(&path)?.unwrap_or_default();
        let (shown, version) = (path.display(), file.version);
        ensure!(
            version <= VERSION,
            Advice::new(format!(
                "`{shown}` has version {version}, and this margay knows {VERSION}"
            ))
            .hint("update margay, or log in again with another MARGAY_HOME")
        );
        Ok(Self { path, ..file })
    }

    pub fn login(&self, registry: &str) -> Option<&Login> {
        self.registries.get(registry)
    }

    pub fn keep(&mut self, registry: &str, login: Login) -> anyhow::Result<()> {
        self.registries.insert(registry.to_owned(), login);
        self.write()
    }

    /// Forgets the login for `registry`; says whether there was one.
    pub fn forget(&mut self, registry: &str) -> anyhow::Result<bool> {
        let known = self.registries.remove(registry).is_some();
        if known {
            self.write()?;
        }
        Ok(known)
    }

    fn write(&self) -> anyhow::Result<()> {
        write_private(&self.path, &serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_login_is_kept_privately_until_it_is_forgotten() {
        let folder =
            std::env::temp_dir().join(format!("margay-credentials-{}", std::process::id()));
        let home = Home::open(Some(folder.clone())).unwrap();
        let login = Login { user: "me".to_owned(), password: "secret".to_owned() };
        Credentials::read(&home).unwrap().keep("localhost:5000", login).unwrap();
        assert_eq!(fs::metadata(home.credentials()).unwrap().permissions().mode() & 0o777, 0o600);
        let mut credentials = Credentials::read(&home).unwrap();
        assert_eq!(credentials.login("localhost:5000").unwrap().user, "me");
        assert!(credentials.login("localhost:5001").is_none());
        assert!(credentials.forget("localhost:5000").unwrap());
        assert!(!credentials.forget("localhost:5000").unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
