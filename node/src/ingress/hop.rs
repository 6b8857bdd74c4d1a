//! What the ingresses of two nodes say to each other about a replica, in a header that is looked at
//! only where a certificate has proven the sender, and that no client and no task sees.

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

/// In a request: the replica that one ingress has chosen on the node of another. In a response:
/// [`Said`].
pub(super) const HOP: HeaderName = HeaderName::from_static("x-margay-hop");

/// What the status line of a probe's answer says where the replica that it named is silent.
pub(super) const SILENT: StatusCode = StatusCode::GATEWAY_TIMEOUT;

/// The replica that another ingress has chosen.
pub(super) fn chosen(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOP)?.to_str().ok()
}

/// The replica that a request without a host asks about. An earlier version refuses it, and has
/// answered with that.
pub(super) fn probed(request: &Request<impl Sized>) -> Option<&str> {
    let has_host =
        request.headers().contains_key(header::HOST) || request.uri().authority().is_some();
    if has_host { None } else { chosen(request.headers()) }
}

/// What no worker and no ingress passes on: a request without a host.
pub(super) const WITHOUT_HOST: &str = "GET / HTTP/1.0\r\n\r\n";

/// A request that asks whether `replica` answers, or, without one, whether anything does.
pub(super) fn probe(replica: Option<&str>) -> String {
    match replica {
        None => WITHOUT_HOST.to_owned(),
        Some(name) => format!("GET / HTTP/1.0\r\n{HOP}: {name}\r\n\r\n"),
    }
}

/// What an ingress adds to a response about the replica that was chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// The replica is silent, so this response is not of it.
    pub ejected: bool,
    /// The request has reached no replica.
    pub unsent: bool,
}

const EJECTED: &str = "ejected";
const UNSENT: &str = "unsent";

impl Said {
    pub fn of(headers: &HeaderMap) -> Self {
        let text = headers.get(HOP).map_or(&b""[..], HeaderValue::as_bytes);
        let says =
            |word: &str| text.split(|byte| *byte == b' ').any(|said| said == word.as_bytes());
        Self { ejected: says(EJECTED), unsent: says(UNSENT) }
    }

    pub fn add_to(self, headers: &mut HeaderMap) {
        let text = match (self.ejected, self.unsent) {
            (false, false) => return,
            (true, false) => EJECTED,
            (false, true) => UNSENT,
            (true, true) => "ejected unsent",
        };
        headers.insert(HOP, HeaderValue::from_static(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_replica_is_read_back() {
        for (ejected, unsent) in [(false, false), (true, false), (false, true), (true, true)] {
            let (said, mut headers) = (Said { ejected, unsent }, HeaderMap::new());
            said.add_to(&mut headers);
            assert_eq!(Said::of(&headers), said);
        }
        let headers = HeaderMap::from_iter([(HOP, HeaderValue::from_static("0f3a"))]);
        assert_eq!(Said::of(&headers), Said::default());
    }

    #[test]
    fn only_a_request_without_a_host_is_a_probe() {
        for (uri, host, want) in
            [("/", None, Some("0f3a")), ("/", Some("cats"), None), ("http://cats/", None, None)]
        {
            let request = Request::builder().uri(uri).header(HOP, "0f3a");
            let request = match host {
                Some(host) => request.header(header::HOST, host),
                None => request,
            };
            assert_eq!(probed(&request.body(()).unwrap()), want, "{uri} {host:?}");
        }
    }
}
