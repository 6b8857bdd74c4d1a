use std::fmt;

use super::grammar::Line;
use crate::limits::VARIABLE_NAME_BYTES_MAX;

/// `env:LOG_LEVEL`: an environment variable, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvGrant {
    /// The variable's name.
    pub name: String,
}

impl EnvGrant {
    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, String> {
        let name = line.target;
        let good = !name.is_empty()
            && name.len() <= VARIABLE_NAME_BYTES_MAX
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match good {
            true => Ok(Self { name: name.to_owned() }),
            false => Err(format!("`{name}` is not the name of an environment variable")),
        }
    }
}

impl fmt::Display for EnvGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "env:{}", self.name)
    }
}
