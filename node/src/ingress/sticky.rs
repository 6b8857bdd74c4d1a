use http::{HeaderMap, HeaderValue, header};

/// Names the replica that a client stays with. It says nothing but which one: a client that makes
/// up another gets a replica that it could have got anyway.
const COOKIE: &str = "margay-replica";
/// A client with more cookies than this is not looked for in the rest.
const COOKIES_MAX: usize = 64;

/// The replica that the client names.
pub(super) fn named(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(|line| line.split(';')).take(COOKIES_MAX);
    let mut pairs = cookies.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// Has the client come back to `replica`.
pub(super) fn name(headers: &mut HeaderMap, replica: &str, is_https: bool) {
    let secure = if is_https { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={replica}; Path=/; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(header::SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_names_the_replica() {
        for (lines, want) in [
            (&["margay-replica=ab12"][..], Some("ab12")),
            (&["a=b; margay-replica=ab12; c=d"], Some("ab12")),
            (&["a=b", "margay-replica=ab12"], Some("ab12")),
            (&["xmargay-replica=ab12"], None),
            (&["margay-replica"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(named(&headers), want, "{lines:?}");
        }
        let mut headers = HeaderMap::new();
        name(&mut headers, "ab12", true);
        assert_eq!(
            headers[header::SET_COOKIE],
            "margay-replica=ab12; Path=/; HttpOnly; SameSite=Lax; Secure"
        );
    }
}
