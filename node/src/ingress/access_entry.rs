use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Request, StatusCode, header};
use net::Sender;
use serde::Serialize;
use spec::Timestamp;

use super::{
    limits::ACCESS_TEXT_BYTES_MAX,
    table::{Replica, Service, Target},
    trace::Trace,
};

/// What one line of the access log says. Never a query, a cookie, an authorization or a body.
#[derive(Debug)]
pub(super) struct Entry {
    at: SystemTime,
    trace: Trace,
    client: IpAddr,
    scheme: &'static str,
    method: Method,
    host: String,
    path: String,
    version: http::Version,
    user_agent: String,
    referer: String,
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Outcome {
    pub began: Instant,
    pub service: Option<Arc<Service>>,
    /// The last that was asked.
    pub replica: Option<Arc<Replica>>,
    /// Replicas that were asked.
    pub attempts: u32,
    /// Of these, those that were left out for their silence meanwhile.
    pub ejected: u32,
    /// From the beginning to the head of a replica's response.
    pub head_after: Option<Duration>,
    /// `None` when the client went away before.
    pub status: Option<StatusCode>,
    /// The ingress' own word for what went wrong.
    pub code: Option<&'static str>,
    pub bytes: u64,
    /// Whether the response was sent to its end.
    pub is_whole: bool,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            service: None,
            replica: None,
            attempts: 0,
            ejected: 0,
            head_after: None,
            status: None,
            code: None,
            bytes: 0,
            is_whole: false,
        }
    }
}

impl Outcome {
    pub fn asks(&mut self, replica: &Arc<Replica>) {
        self.attempts += 1;
        self.replica = Some(replica.clone());
    }
}

/// As nginx writes it: the client has closed its connection before there was a status.
const CLIENT_GONE: u16 = 499;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: &'a str,
    trace: &'a str,
    client: IpAddr,
    scheme: &'a str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    status: u16,
    bytes: u64,
    complete: bool,
    /// Milliseconds.
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    retries: u32,
    ejected: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    user_agent: &'a str,
}

impl Entry {
    pub fn of(request: &Request<impl Sized>, sender: &Sender, trace: &Trace) -> Self {
        let headers = request.headers();
        let host = text_of(headers, &header::HOST);
        let asked = request.uri().authority().map(|authority| authority.to_string());
        Self {
            at: SystemTime::now(),
            trace: trace.clone(),
            client: sender.address,
            scheme: sender.scheme.name(),
            method: request.method().clone(),
            host: asked.unwrap_or(host).to_ascii_lowercase(),
            path: shortened(request.uri().path()),
            version: request.version(),
            user_agent: text_of(headers, &header::USER_AGENT),
            referer: without_query(text_of(headers, &header::REFERER)),
            outcome: Outcome::default(),
        }
    }

    pub fn json(&self) -> Vec<u8> {
        let outcome = &self.outcome;
        let replica = outcome.replica.as_deref();
        let node = replica.and_then(|replica| match &replica.target {
            Target::Local(_) => None,
            Target::Peer { node, .. } => Some(node.as_str()),
        });
        let line = Line {
            time: Timestamp::of(self.at).to_string(),
            id: self.trace.id(),
            trace: self.trace.trace(),
            client: self.client,
            scheme: self.scheme,
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            protocol: self.protocol(),
            status: self.status(),
            bytes: outcome.bytes,
            complete: outcome.is_whole,
            duration: millis(outcome.began.elapsed()),
            replica_duration: outcome.head_after.map(millis),
            service: outcome.service.as_deref().map(|service| &*service.host),
            tenant: replica.map(|replica| replica.tenant.as_str()),
            task: replica.map(|replica| replica.task.as_str()),
            node,
            retries: outcome.attempts.saturating_sub(1),
            ejected: outcome.ejected,
            error: outcome.code,
            user_agent: &self.user_agent,
        };
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        line
    }

    pub fn combined(&self) -> Vec<u8> {
        let or_hyphen = |text: &str| match text {
            "" => "-".to_owned(),
            text => escaped(text),
        };
        format!(
            "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"\n",
            self.client,
            common_time(&Timestamp::of(self.at).to_string()),
            self.method,
            escaped(&self.path),
            self.protocol(),
            self.status(),
            self.outcome.bytes,
            or_hyphen(&self.referer),
            or_hyphen(&self.user_agent),
        )
        .into_bytes()
    }

    fn status(&self) -> u16 {
        self.outcome.status.map_or(CLIENT_GONE, |status| status.as_u16())
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            http::Version::HTTP_10 => "HTTP/1.0",
            http::Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        }
    }
}

fn text_of(headers: &HeaderMap, name: &header::HeaderName) -> String {
    let value = headers.get(name).map_or(&b""[..], |value| value.as_bytes());
    shortened(&String::from_utf8_lossy(value))
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(ACCESS_TEXT_BYTES_MAX)].to_owned()
}

fn without_query(mut url: String) -> String {
    url.truncate(url.find(['?', '#']).unwrap_or(url.len()));
    url
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// As nginx does: nothing ends the quotes, the line, or speaks to a terminal.
fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..=31 | 127.. => plain.push_str(&format!("\\x{byte:02X}")),
            _ => plain.push(char::from(byte)),
        }
    }
    plain
}

/// `28/Nov/2026:00:15:57 +0000` of an RFC 3339 time in UTC.
fn common_time(time: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let part = |range: std::ops::Range<usize>| time.get(range).unwrap_or_default();
    let month =
        part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let (day, month, year) = (part(8..10), month.unwrap_or(&"Jan"), part(0..4));
    format!("{day}/{month}/{year}:{} +0000", part(11..19))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::trace::RequestIds;

    impl Entry {
        pub fn example() -> Self {
            let request = Request::builder()
                .uri("/cats?token=secret")
                .header("host", "Cats.Main.localhost")
                .header("user-agent", "curl/8 \"x\"")
                .header("referer", "https://a.example/?token=secret")
                .body(())
                .unwrap();
            let sender = Sender::direct([1, 2, 3, 4].into(), net::Scheme::Https);
            let trace = Trace::of(request.headers(), false, &RequestIds::new());
            let mut entry = Self::of(&request, &sender, &trace);
            entry.at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_824_957_123);
            entry
        }
    }

    #[test]
    fn a_line_has_what_is_known_and_no_query() {
        let mut entry = Entry::example();
        let combined = String::from_utf8(entry.combined()).unwrap();
        assert_eq!(
            combined,
            "1.2.3.4 - - [28/Nov/2026:00:15:57 +0000] \"GET /cats HTTP/1.1\" 499 0 \
             \"https://a.example/\" \"curl/8 \\x22x\\x22\"\n"
        );
        entry.outcome.status = Some(StatusCode::SERVICE_UNAVAILABLE);
        entry.outcome.code = Some("E_NO_REPLICA");
        let json = String::from_utf8(entry.json()).unwrap();
        assert!(json.ends_with("}\n") && !json.contains("secret"), "{json}");
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        for (name, want) in [
            ("time", serde_json::json!("2026-11-28T00:15:57.123Z")),
            ("client", serde_json::json!("1.2.3.4")),
            ("host", serde_json::json!("cats.main.localhost")),
            ("path", serde_json::json!("/cats")),
            ("status", serde_json::json!(503)),
            ("error", serde_json::json!("E_NO_REPLICA")),
            ("complete", serde_json::json!(false)),
            ("retries", serde_json::json!(0)),
            ("id", line["trace"].clone()),
        ] {
            assert_eq!(line[name], want, "{name} in {json}");
        }
    }

    #[test]
    fn nothing_that_a_client_sends_ends_a_line_or_its_quotes() {
        for (text, want) in [
            ("plain", "plain"),
            ("a\"b\\c", "a\\x22b\\x5Cc"),
            ("\n\r\u{1b}[31m", "\\x0A\\x0D\\x1B[31m"),
            ("é", "\\xC3\\xA9"),
        ] {
            assert_eq!(escaped(text), want);
        }
        assert_eq!(shortened(&"é".repeat(ACCESS_TEXT_BYTES_MAX)).len(), ACCESS_TEXT_BYTES_MAX);
    }
}
