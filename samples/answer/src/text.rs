/// `text` with its `%XX` replaced, or `None` where a percent sign stands alone or the bytes are not
/// UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => nibble(rest.next()?)? << 4 | nibble(rest.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The value of `key` in a query or a form: `+` is a space and percent signs are replaced.
pub fn query_value(query: &str, key: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| *name == key)?;
    percent_decode(&value.replace('+', " "))
}

/// `text` as it may stand inside an HTML element or a quoted attribute.
pub fn escape_html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            plain => safe.push(plain),
        }
    }
    safe
}

fn nibble(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_replaced_once() {
        for (text, want) in [
            ("/cats", Some("/cats")),
            ("/%2e%2E/x", Some("/../x")),
            ("/%252e", Some("/%2e")), // once, or a second look would see another path
            ("/a%00", Some("/a\0")),
            ("/%", None),
            ("/%2", None),
            ("/%zz", None),
            ("/%ff", None),
        ] {
            assert_eq!(percent_decode(text).as_deref(), want, "decoding {text}");
        }
    }

    #[test]
    fn a_query_gives_its_values() {
        assert_eq!(query_value("cat=Ada+L&name=%3Cme%3E", "cat").as_deref(), Some("Ada L"));
        assert_eq!(query_value("cat=Ada+L&name=%3Cme%3E", "name").as_deref(), Some("<me>"));
        assert_eq!(query_value("cat", "cat"), None);
    }
}
