use http::{Request, header};

use super::{Fault, head::Head};

/// Judges a head that came in frames of HTTP/2 as one that came in lines.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Fault> {
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut head =
        Head::in_fields(request.method().as_str().as_bytes(), path.as_bytes(), authority)?;
    let mut cookies = 0;
    for (name, value) in request.headers() {
        // Clients send one header in as many pieces as there are cookies (RFC 9113 8.2.3).
        cookies += usize::from(name == header::COOKIE);
        // A parser of lines takes them away, and then it is another value (RFC 9113 8.2.1).
        if [value.as_bytes().first(), value.as_bytes().last()].iter().any(is_blank) {
            return Err(Fault::bad("the value of a header begins or ends with a blank"));
        }
        if name != header::COOKIE || cookies == 1 {
            head.field(name.as_str().as_bytes(), value.as_bytes())?;
        }
    }
    head.end_of_fields().map(drop)
}

fn is_blank(byte: &Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_in_fields_is_held_to_the_rules_of_one_in_lines() {
        let many: Vec<(String, &str)> = (0..101).map(|n| (format!("x-{n}"), "1")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, *value)).collect();
        for (uri, headers, want) in [
            ("https://a.example/x?y", &[][..], ""),
            ("https://a.example:8443/", &[("host", "a.example:8443")], ""),
            ("https://a.example/", &[("host", "a.example:443")], ""),
            ("https://a.example/", &[("cookie", "a=1"); 120], ""),
            ("https://a.example/", &[("x", ""), ("y", "a b")], ""),
            ("https://a.example/", &[("x", " a")], "begins or ends with a blank"),
            ("https://a.example/", &[("x", "a\t")], "begins or ends with a blank"),
            ("/x", &[("host", "a.example")], ""),
            ("/x", &[], "no Host"),
            ("https://a.example/", &[("host", "b.example")], "two different hosts"),
            ("https://a.example/", &[("host", "a.example"); 2], "more than one Host"),
            ("https://a.example/", &[("host", "a.example/b")], "names no host"),
            ("https://u@a.example/", &[], "names no host"),
            ("https://a.example/", &[("content-length", "1"); 2], "more than one Content-Length"),
            ("https://a.example/", &[("content-length", "+1")], "not a number"),
            ("https://a.example/", &[("content_length", "1")], "misspelled"),
            ("https://a.example/", &[("transfer-encoding", "chunked, x")], "not `chunked`"),
            ("https://a.example/", &[("authorization", "a"); 2], "more than one Authorization"),
            ("https://a.example/", &many, "more than 100 headers"),
        ] {
            let mut request = Request::builder().uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let said = check(&request.body(()).unwrap()).err().map_or("", |fault| fault.text);
            assert_eq!(said.is_empty(), want.is_empty(), "{uri} {headers:?}: {said}");
            assert!(said.contains(want), "{uri} {headers:?}: {said}");
        }
        let connect = Request::builder().method("CONNECT").uri("a.example:443").body(()).unwrap();
        assert!(check(&connect).unwrap_err().text.contains("CONNECT"));
    }
}
