use std::io::{self, Read};

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

/// The status and the length of what is at `url`, or the error that the host gave instead.
pub fn get(url: &str) -> io::Result<String> {
    let (scheme, authority, path) =
        parts(url).ok_or_else(|| io::Error::other("`url` needs a scheme and a host"))?;
    let request = OutgoingRequest::new(Fields::new());
    let odd = |()| io::Error::other("the host calls this URL malformed");
    request.set_scheme(Some(&scheme)).map_err(odd)?;
    request.set_authority(Some(authority)).map_err(odd)?;
    request.set_path_with_query(Some(path)).map_err(odd)?;
    let coming = outgoing_handler::handle(request, None).map_err(refused)?;
    coming.subscribe().block();
    let response =
        coming.get().expect("it is ready").expect("it is taken once").map_err(refused)?;
    let body = response.consume().expect("a new response still has its body");
    let mut bytes = Vec::new();
    body.stream()
        .expect("a new body still has its stream")
        .take(1 << 20)
        .read_to_end(&mut bytes)?;
    Ok(format!("status {}, {} bytes\n", response.status(), bytes.len()))
}

fn parts(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

fn refused(code: outgoing_handler::ErrorCode) -> io::Error {
    io::Error::other(format!("{code:?}"))
}
