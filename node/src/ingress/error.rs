use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// How a response of the ingress itself looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// For a browser.
    Page,
}

impl Form {
    /// What a request with these headers wants.
    pub fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let mut kinds = accepted.flat_map(|line| line.split(','));
        let is_page = |kind: &str| kind.split(';').next().map(str::trim) == Some("text/html");
        if kinds.any(is_page) { Self::Page } else { Self::Text }
    }
}

const A_SECOND: Duration = Duration::from_secs(1);

const NO_REPLICA: &str = "E_NO_REPLICA";
const STARTING: &str = "E_STARTING";

/// Why a request is not passed on, or came back without a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GatewayError {
    pub status: StatusCode,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for users.
    pub text: String,
    /// When it may well work.
    pub retry_after: Option<Duration>,
}

impl GatewayError {
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), retry_after: None }
    }

    pub fn bad(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "E_REQUEST", text)
    }

    pub fn unsupported(text: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "E_UNSUPPORTED", text)
    }

    pub fn no_route(host: &str) -> Self {
        let host: String = host.chars().take(100).collect();
        let text = format!("no service here answers for the host {host}");
        Self::new(StatusCode::NOT_FOUND, "E_NO_ROUTE", text)
    }

    pub fn no_path(host: &str) -> Self {
        let text = format!("no service here answers for this path of the host {host}");
        Self::new(StatusCode::NOT_FOUND, "E_NO_ROUTE", text)
    }

    pub fn ambiguous_path() -> Self {
        Self::bad("this host is routed by paths, and the path has a segment that means another")
    }

    /// Whether it was carried out is not known.
    pub fn stopped(host: &str) -> Self {
        let text =
            format!("a replica of {host} stopped answering: the request may have been carried out");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "E_TOO_SLOW", text)
    }

    pub fn too_many(text: String, after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "E_RATE", text);
        Self { retry_after: Some(after), ..error }
    }

    pub fn too_many_upgrades() -> Self {
        let text = "this service has as many upgraded connections as it may have here";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "E_UPGRADES", text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    /// Why is for the log: which addresses answer, and how, is no client's business.
    pub fn no_replica(host: &str) -> Self {
        let text = format!("no replica of {host} can be reached right now");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, NO_REPLICA, text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    /// The host is one of a service, and none of its copies has been ready yet or is ready again.
    pub fn starting(host: &str) -> Self {
        let text = format!("the service at {host} is starting: no copy of it is ready yet");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, STARTING, text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    /// More requests than may wait for its first copy.
    pub fn too_many_waiting(host: &str) -> Self {
        let text = format!("too many requests wait already for the service at {host} to start");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, STARTING, text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    /// It was to start for this request, and did not in time.
    pub fn not_woken(host: &str, after: Duration) -> Self {
        let seconds = after.as_secs();
        let text = format!("no copy of the service at {host} became ready within {seconds} s");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, STARTING, text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    pub fn lost(host: &str) -> Self {
        let text = format!("a replica of {host} went away before it answered in HTTP");
        let error = Self::new(StatusCode::BAD_GATEWAY, "E_WORKER_LOST", text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    pub fn status(status: StatusCode) -> Self {
        let text = format!("the app answered with status {}, which is none", status.as_u16());
        Self::new(StatusCode::BAD_GATEWAY, "E_STATUS", text)
    }

    pub fn removed(node: &spec::NodeId) -> Self {
        let text = format!("node {node} is not one of this platform");
        Self::new(StatusCode::FORBIDDEN, "E_NODE", text)
    }

    pub fn too_slow(host: &str) -> Self {
        let text = format!("a replica of {host} did not answer in time");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "E_TOO_SLOW", text)
    }

    pub fn too_large(bytes_max: u64) -> Self {
        let text = format!("a body may have {} here", spec::print_bytes(bytes_max));
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "E_BODY", text)
    }

    /// Whether the request has reached no replica that could have carried it out.
    pub fn is_unsent(&self) -> bool {
        matches!(self.code, NO_REPLICA | STARTING)
    }

    /// The response to the request with this id.
    pub fn into_response(self, form: Form, id: &str) -> Response<Full<Bytes>> {
        let (text, kind) = match form {
            Form::Text if id.is_empty() => (self.line(), "text/plain; charset=utf-8"),
            Form::Text => (format!("{}request: {id}\n", self.line()), "text/plain; charset=utf-8"),
            Form::Page => (self.page(id), "text/html; charset=utf-8"),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // The text repeats the host that was asked for: it is taken for what it is, and a page
        // loads and runs nothing.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if form == Form::Page {
            let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        if let Some(seconds) = self.retry_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The same with the page of a service, in which `{request_id}` stands for the id.
    pub fn with_page(self, page: &str, id: &str) -> Response<Full<Bytes>> {
        let is_html = page.trim_start().starts_with('<');
        let kind = if is_html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        let mut response = self.into_response(Form::Text, id);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        // An id has no character that means anything in HTML.
        *response.body_mut() = Full::from(page.replace("{request_id}", id));
        response
    }

    fn line(&self) -> String {
        format!("{}: {}\n", self.code, self.text)
    }

    fn page(&self, id: &str) -> String {
        let again = self.retry_seconds().map(|seconds| match seconds {
            1 => "<p>Try again in a second.</p>\n".to_owned(),
            seconds => format!("<p>Try again in {seconds} seconds.</p>\n"),
        });
        let (status, code, text) = (self.status, self.code, escaped(&self.text));
        let again = again.unwrap_or_default();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{status}</title>\n\
             <style>body {{ font: 1rem/1.5 sans-serif; margin: 15vh auto; max-width: 40rem; \
             padding: 0 1rem }} footer {{ color: #666; font-size: .8rem }}</style>\n\
             <h1>{status}</h1>\n<p>{text}.</p>\n{again}\
             <footer>{code}, request <code>{}</code></footer>\n</html>\n",
            escaped(id)
        )
    }

    fn retry_seconds(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_secs_f64().ceil().max(1.0) as u64)
    }
}

/// Why a response is waited for no longer.
pub(super) enum GivenUp {
    /// The replica was ejected, and another one may be asked instead.
    Ejected,
    /// The replica was ejected and has not come back, and the request may not be sent twice.
    StoppedAnswering,
    TooSlow,
}

impl GivenUp {
    pub fn refusal(self, host: &str) -> GatewayError {
        match self {
            Self::Ejected => GatewayError::no_replica(host),
            Self::StoppedAnswering => GatewayError::stopped(host),
            Self::TooSlow => GatewayError::too_slow(host),
        }
    }
}

fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '&' => plain.push_str("&amp;"),
            '"' => plain.push_str("&quot;"),
            '\'' => plain.push_str("&#39;"),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_a_page_and_a_program_a_line() {
        for (accept, want) in [
            ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", Form::Page),
            ("application/json, text/html;q=0.5", Form::Page),
            ("*/*", Form::Text),
            ("application/json", Form::Text),
            ("text/htmlx", Form::Text),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(Form::of(&headers), want, "{accept}");
        }
        assert_eq!(Form::of(&HeaderMap::new()), Form::Text);
    }

    #[test]
    fn a_page_says_nothing_that_a_browser_runs() {
        let page = GatewayError::no_route("<script>alert('1')</script>&\"").page("<id>");
        assert!(
            page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;"),
            "{page}"
        );
        assert!(page.contains("<code>&lt;id&gt;</code>") && !page.contains("<script"), "{page}");
        let page = GatewayError::no_replica("a.example").page("1");
        assert!(
            page.contains("503 Service Unavailable") && page.contains("E_NO_REPLICA"),
            "{page}"
        );
        assert!(page.contains("Try again in a second."), "{page}");
    }
}
