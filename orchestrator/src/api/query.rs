//! Values in a query string: bytes that are no letter, digit or one of `-._~` as `%` and two hex
//! digits.

use std::fmt::Write as _;

use super::error::ApiError;

pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    out
}

pub(crate) fn decoded(text: &str) -> Result<String, ApiError> {
    let wrong = || ApiError::invalid("the query string has a `%` that is none of UTF-8 text");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit(), digit());
        let (Some(high), Some(low)) = (high, low) else { return Err(wrong()) };
        out.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    String::from_utf8(out).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_decodes_and_nothing_else_that_is_wrong() {
        for text in ["", "plain", "a b&c=d%", "größe/€", "2026-11-27T10:00:00.000Z"] {
            let there = encoded(text);
            assert!(
                there.bytes().all(|b| b.is_ascii_graphic() && !b"&=#+".contains(&b)),
                "{there}"
            );
            assert_eq!(decoded(&there).unwrap(), text);
        }
        for text in ["%", "%4", "%zz", "%ff"] {
            assert!(decoded(text).is_err(), "{text}");
        }
        assert_eq!(decoded("10:00").unwrap(), "10:00");
    }
}
