//! Types that are written as one string: they parse once, where text comes in, and print what they
//! parsed.

/// Why a text does not parse. Quotes the text in backticks and names what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) String);

impl ParseError {
    /// Quotes `text`, followed by `predicate`.
    pub fn about(text: &str, predicate: impl std::fmt::Display) -> Self {
        Self(format!("`{}` {predicate}", shortened(text)))
    }
}

/// At most the first 100 characters: an error message is no place for a megabyte of input.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The bytes that lowercase hex digits stand for.
pub(crate) fn hex_bytes(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(nibble(pair[0])? << 4 | nibble(*pair.get(1)?)?)).collect()
}

/// Gives a `FromStr + Display` type its serde form and its place in the API document: a plain
/// string, with the pattern that it has to match where one can say it.
macro_rules! written_as_text {
    ($type:ty, $description:expr, $example:literal) => {
        crate::text::written_as_text!($type, $description, $example, "");
    };
    ($type:ty, $description:expr, $example:literal, $pattern:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text =
                    <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($description))
                    .pattern(Some($pattern).filter(|pattern| !pattern.is_empty()))
                    .examples([serde_json::Value::from($example)])
                    .into()
            }
        }
        impl utoipa::ToSchema for $type {}
    };
}
pub(crate) use written_as_text;
