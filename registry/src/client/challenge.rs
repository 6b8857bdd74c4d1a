use http::{HeaderMap, header};

/// What a registry demands in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token for `service`, from the endpoint `realm`.
    Bearer { realm: String, service: Option<String> },
    /// User and password with each request.
    Basic,
}

impl Challenge {
    /// The strongest challenge that this client can answer.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let all = || {
            headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok())
        };
        all().find_map(bearer).or_else(|| all().find_map(basic))
    }
}

fn bearer(text: &str) -> Option<Challenge> {
    let parameters = parameters(after_scheme(text, "bearer")?);
    let value = |name: &str| {
        parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
    };
    Some(Challenge::Bearer { realm: value("realm")?, service: value("service") })
}

fn basic(text: &str) -> Option<Challenge> {
    after_scheme(text, "basic").map(|_| Challenge::Basic)
}

fn after_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let text = text.trim_start();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    first.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// `name="quoted, with \" escapes", name=token`
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        parameters.push((name, value));
        rest = after;
    }
    parameters
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_as_registries_write_it() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        for (text, want) in [
            (
                r#"Bearer realm="https://a/token",service="r",scope="repository:x:pull""#,
                bearer("https://a/token", Some("r")),
            ),
            (
                r#"bearer service=r, realm="https://a/t?x=1,2""#,
                bearer("https://a/t?x=1,2", Some("r")),
            ),
            (r#"Bearer realm="a\"b""#, bearer("a\"b", None)),
            (r#"Bearer realm="open"#, bearer("open", None)),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            ("Negotiate", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::WWW_AUTHENTICATE, text.parse().unwrap());
            assert_eq!(Challenge::of(&headers), want, "{text}");
        }
    }
}
