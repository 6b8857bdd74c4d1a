use std::fmt;

use super::grammar::Line;
use crate::secret::SecretName;

/// `secret:db-password`: a secret, by name; a file under `/run/secrets`, or with `;as=env` a
/// variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretGrant {
    /// The secret's name.
    pub name: SecretName,
    /// Hand it over as an environment variable of the same name instead of a file.
    pub as_env: bool,
}

impl SecretGrant {
    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, String> {
        let as_env = match line.value("as")? {
            None | Some("file") => false,
            Some("env") => true,
            Some(other) => {
                return Err(format!("a secret comes `as=file` or `as=env`, not `{other}`"));
            }
        };
        let name = line.target.parse::<SecretName>().map_err(|error| error.to_string())?;
        Ok(Self { name, as_env })
    }
}

impl fmt::Display for SecretGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret:{}{}", self.name, if self.as_env { ";as=env" } else { "" })
    }
}
