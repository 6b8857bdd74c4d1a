use std::{borrow::Cow, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::text::{ParseError, written_as_text};

/// The name of a secret: the last part of its path in a guest, so nothing in it can lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SecretName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
            })
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseError::about(
                text,
                "cannot name a secret: use 1 to 63 lower-case letters, digits, `-`, `_` and `.`, \
                 beginning with a letter or digit",
            )),
        }
    }
}

written_as_text!(
    SecretName,
    "The name of a secret: 1 to 63 lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or digit.",
    "db-password",
    "^[a-z0-9][a-z0-9._-]{0,62}$"
);

/// Bytes that only a guest with the grant should see. Prints as its length; crosses a wire as
/// base64.
///
/// It can be serialized for the messages that carry it to a guest: it is a field of no record that
/// is stored, shown or logged.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Fits a certificate chain with its key many times over. Values lie in the memory of every
    /// worker that has them.
    pub const BYTES_MAX: usize = 64 << 10;

    /// Secrets of one container: more belong in a volume. Together with the size it bounds what a
    /// node fetches at one time.
    pub const COUNT_MAX: usize = 16;

    /// These bytes as a secret.
    ///
    /// # Errors
    /// When there are none, or too many. The error never repeats them.
    pub fn new(bytes: Vec<u8>) -> Result<Self, ParseError> {
        match bytes.len() {
            0 => Err(ParseError("a secret needs at least one byte".to_owned())),
            1..=Self::BYTES_MAX => Ok(Self(bytes)),
            _ => Err(ParseError(format!("a secret has at most {} bytes", Self::BYTES_MAX))),
        }
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

impl serde::Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for SecretValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        // The decoder's own error would quote a byte of it.
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(|_| serde::de::Error::custom("a secret is base64"))?;
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for SecretValue {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("The bytes of a secret, 1 to 65,536 of them, in base64."))
            .examples([serde_json::Value::from("aHVudGVyMg==")])
            .into()
    }
}

impl utoipa::ToSchema for SecretValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_secret_stays_in_its_folder() {
        for text in ["a", "db-password", "tls.key", "0_a", "a..b"] {
            assert_eq!(text.parse::<SecretName>().unwrap().as_str(), text);
        }
        for text in
            ["", ".", "..", ".a", "-a", "_a", "a/b", "../a", "A", "é", "a b", &"a".repeat(64)]
        {
            let error = text.parse::<SecretName>().expect_err(text).to_string();
            assert!(error.contains("cannot name a secret"), "{error}");
        }
    }

    #[test]
    fn a_secret_round_trips_and_never_prints_its_bytes() {
        let value = SecretValue::new(b"hunter2\0\xff".to_vec()).unwrap();
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(json, "\"aHVudGVyMgD/\"");
        assert_eq!(serde_json::from_str::<SecretValue>(&json).unwrap(), value);
        assert_eq!(format!("{value:?}"), "SecretValue(9 bytes)");
        assert!(SecretValue::new(vec![0; SecretValue::BYTES_MAX]).is_ok());
        for (bytes, want) in
            [(0, "at least one byte"), (SecretValue::BYTES_MAX + 1, "at most 65536 bytes")]
        {
            let error = SecretValue::new(vec![b'x'; bytes]).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        for text in ["\"hunter2!\"", "\"\"", "\"aHVudGVyMg\""] {
            let error = serde_json::from_str::<SecretValue>(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("aHVu"), "{error}");
        }
    }
}
