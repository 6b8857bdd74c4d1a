use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Rev};

/// A key, its value, and what the store knows about both (R6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kv {
    /// The key.
    pub key: Arc<str>,
    /// Its value; empty in an answer without values.
    pub value: Arc<[u8]>,
    /// The revision that made it.
    pub create_rev: Rev,
    /// The revision that last changed it.
    pub mod_rev: Rev,
    /// How often it was written since it was made, with 1 for the making.
    pub version: i64,
}

/// `value` as JSON behind one byte that says which version of its format this is.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Arc<[u8]> {
    let mut bytes = vec![version];
    serde_json::to_writer(&mut bytes, value)
        .expect("stored objects have string keys, and a Vec takes every write");
    bytes.into()
}

/// Reads what [`encode`] wrote under a version up to `known`.
///
/// # Errors
/// [`Error::Newer`] and [`Error::Damaged`], naming `key`.
pub fn decode<T: DeserializeOwned>(known: u8, key: &str, bytes: &[u8]) -> Result<T, Error> {
    let (version, json) = match bytes {
        [version, json @ ..] => (*version, json),
        [] => (0, bytes),
    };
    if version > known {
        return Err(Error::Newer { key: key.to_owned(), found: version, known });
    }
    serde_json::from_slice(json).map_err(|source| Error::Damaged { key: key.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_value_is_refused_by_name_and_an_older_one_is_read() {
        let bytes = encode(2, &"cat");
        assert_eq!(decode::<String>(2, "/k", &bytes).unwrap(), "cat");
        assert_eq!(decode::<String>(3, "/k", &bytes).unwrap(), "cat");
        let error = decode::<String>(1, "/k", &bytes).unwrap_err();
        assert_eq!(error.to_string(), "`/k` has format 2, and this margay knows 1");
        for bytes in [&[][..], &[1], &[1, b'{']] {
            assert!(
                matches!(decode::<String>(1, "/k", bytes), Err(Error::Damaged { .. })),
                "{bytes:?}"
            );
        }
    }
}
