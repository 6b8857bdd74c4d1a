use std::fmt::Write as _;

use crate::limits::QUERY_PARAMETERS_MAX;

/// `name=value&…`, decoded. Order and repetition are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Pairs that are not UTF-8 are dropped, as are those beyond the limit.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(QUERY_PARAMETERS_MAX);
        Self(
            pairs
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decoded(name)?, decoded(value)?))
                })
                .collect(),
        )
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (
                    char::from(rest.next()?).to_digit(16)?,
                    char::from(rest.next()?).to_digit(16)?,
                );
                u8::try_from(high << 4 | low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// `text`, percent-encoded as the value of a query parameter.
pub(crate) fn encode_query(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => encoded.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'/' | b':' | b',' | b'*' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_pair_by_pair() {
        let query = Query::parse(
            "scope=repository%3Aann%2Fcats%3Apull,push&scope=b+c&empty&bad=%ff&cut=%2&=x",
        );
        assert_eq!(
            query.all("scope").collect::<Vec<_>>(),
            ["repository:ann/cats:pull,push", "b c"]
        );
        assert_eq!(
            (query.get("empty"), query.get("bad"), query.get("cut")),
            (Some(""), None, None)
        );
        assert_eq!(Query::parse(&"a=b&".repeat(1000)).all("a").count(), QUERY_PARAMETERS_MAX);
    }
}
