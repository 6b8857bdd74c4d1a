//! A request's path as routes see it. Only where a host has rules for paths: elsewhere no path
//! decides anything.

use std::borrow::Cow;

/// `path` with percent-encoded letters, digits and `-._~` decoded, which mean the same; `None` when
/// it has dot segments or empty ones in front of its end, which the router and a program could take
/// for two different paths.
pub(super) fn plain(path: &str) -> Option<Cow<'_, str>> {
    let decoded = match path.contains('%') {
        true => Cow::Owned(decoded(path)?),
        false => Cow::Borrowed(path),
    };
    let is_odd = |segment: &str| matches!(segment, "." | "..") || segment.contains('\\');
    let is_ambiguous = decoded.contains("//") || decoded.split('/').any(is_odd);
    (!is_ambiguous).then_some(decoded)
}

/// `None` for an encoded slash or backslash, and for what is no encoding.
fn decoded(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3)?;
        let byte = u8::from_str_radix(code, 16).ok()?;
        match byte {
            b'/' | b'\\' => return None,
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                plain.push(char::from(byte));
            }
            _ => plain.push_str(&rest[at..at + 3]),
        }
        rest = &rest[at + 3..];
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_mean_two_things_is_none() {
        for (path, want) in [
            ("/", Some("/")),
            ("/api/v1/", Some("/api/v1/")),
            ("/%61pi", Some("/api")),
            ("/a%20b", Some("/a%20b")),
            ("/a%2fb", None),
            ("/a%5Cb", None),
            ("/a\\b", None),
            ("/a/../b", None),
            ("/a/%2e%2E/b", None),
            ("/./a", None),
            ("//a", None),
            ("/a..b", Some("/a..b")),
            ("/%", None),
            ("/%zz", None),
            ("/%é", None),
        ] {
            assert_eq!(plain(path).as_deref(), want, "{path}");
        }
    }
}
