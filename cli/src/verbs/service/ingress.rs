//! How requests reach a service, as flags.

use std::io::Read;

use spec::{ErrorPages, HostName, IngressSettings, RateLimit, RoutePath};

use super::listening::ListenerFlags;

/// Host names of a service, and rules for the requests to it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct IngressFlags {
    /// Answer for this host name too, as in cats.example.com or *.example.com; repeat it for more
    #[arg(long, value_name = "HOST")]
    host: Vec<HostName>,
    /// Of these hosts answer for this path and what is below it alone, or with = in front for the
    /// path itself; repeat it for more
    #[arg(long, value_name = "[=]PATH")]
    path: Vec<RoutePath>,
    /// Share hosts and paths with other services by weight
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u32>,
    /// Send requests in plain HTTP to the same URL with HTTPS
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true",
        require_equals = true)]
    https: Option<bool>,
    /// Keep each client with the copy that answered it first, by a cookie
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true",
        require_equals = true)]
    sticky: Option<bool>,
    /// Take so many requests a second from one client at each ingress, after a pause BURST at once;
    /// 0 takes the limit away
    #[arg(long, value_name = "NUMBER[:BURST]", value_parser = rate_limit)]
    rate_limit: Option<RateLimit>,
    /// Answer with the page in this file where the ingress itself would say 502, 503 or 504;
    /// without a file as it does by itself; repeat it for more
    #[arg(long, value_name = "STATUS=FILE", value_parser = error_page)]
    error_page: Vec<ErrorPage>,
    #[command(flatten)]
    listeners: ListenerFlags,
}

/// A page for a status, or none.
type ErrorPage = (u16, Option<String>);

impl IngressFlags {
    pub fn is_given(&self) -> bool {
        let Self { host, path, weight, https, sticky, rate_limit, error_page, listeners } = self;
        !host.is_empty()
            || !path.is_empty()
            || weight.is_some()
            || https.or(*sticky).is_some()
            || rate_limit.is_some()
            || !error_page.is_empty()
            || listeners.is_given()
    }

    /// `settings` with what was asked for. A list takes the place of the one before.
    pub fn applied_to(&self, settings: IngressSettings) -> IngressSettings {
        let listed = |given: &Vec<_>, before| if given.is_empty() { before } else { given.clone() };
        let rate_limit = self.rate_limit.or(settings.rate_limit);
        let mut errors = settings.errors;
        for (status, page) in &self.error_page {
            errors.set(*status, page.clone());
        }
        IngressSettings {
            hosts: listed(&self.host, settings.hosts),
            paths: if self.path.is_empty() { settings.paths } else { self.path.clone() },
            weight: self.weight.or(settings.weight),
            https: self.https.unwrap_or(settings.https),
            sticky: self.sticky.unwrap_or(settings.sticky),
            rate_limit: rate_limit.filter(|limit| limit.requests_per_second != 0),
            errors,
            listeners: self.listeners.applied_to(settings.listeners),
        }
    }
}

fn error_page(text: &str) -> Result<ErrorPage, String> {
    let wrong = || "use 502, 503 or 504 and a file, as in 503=sorry.html".to_owned();
    let (status, file) = text.split_once('=').ok_or_else(wrong)?;
    let status = status.parse().ok().filter(|status| ErrorPages::STATUSES.contains(status));
    let status = status.ok_or_else(wrong)?;
    if file.is_empty() {
        return Ok((status, None));
    }
    let max = ErrorPages::PAGE_BYTES_MAX;
    let cannot = |error: std::io::Error| format!("cannot read `{file}`: {error}");
    let file_of = std::fs::File::open(file).map_err(cannot)?;
    let mut page = Vec::new();
    file_of.take(max as u64 + 1).read_to_end(&mut page).map_err(cannot)?;
    match String::from_utf8(page) {
        Ok(page) if page.len() > max => {
            Err(format!("`{file}` is longer than {max} bytes: link to pictures and style"))
        }
        Ok(page) if page.is_empty() => Err(format!("`{file}` is empty")),
        Ok(page) => Ok((status, Some(page))),
        Err(_) => Err(format!("`{file}` is no text in UTF-8")),
    }
}

fn rate_limit(text: &str) -> Result<RateLimit, String> {
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let number = |text: &str| text.parse::<u32>().ok();
    let burst = burst.map(|burst| number(burst).filter(|burst| *burst > 0).ok_or(()));
    match (number(rate), burst.transpose()) {
        (Some(requests_per_second), Ok(burst)) => Ok(RateLimit { requests_per_second, burst }),
        _ => Err("use a number of requests a second, as in 50, or with a burst 50:200".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_a_service_is_read_from_a_file_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let page = file("page", b"<p>sorry");
        assert_eq!(error_page(&format!("503={page}")), Ok((503, Some("<p>sorry".to_owned()))));
        assert_eq!(error_page("504="), Ok((504, None)));
        for (text, want) in [
            (page.clone(), "use 502, 503 or 504 and a file"),
            (format!("404={page}"), "use 502, 503 or 504 and a file"),
            ("503=/does/not/exist".to_owned(), "cannot read `/does/not/exist`"),
            (format!("503={}", folder.path().display()), "cannot read"),
            (format!("503={}", file("empty", b"")), "is empty"),
            (format!("503={}", file("long", &[b'x'; 4097])), "is longer than 4096 bytes"),
            (format!("503={}", file("odd", &[0xff])), "is no text in UTF-8"),
        ] {
            let said = error_page(&text).unwrap_err();
            assert!(said.contains(want), "{text}: {said}");
        }
    }
}
