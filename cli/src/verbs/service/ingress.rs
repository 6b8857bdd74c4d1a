//! How requests reach a service, as flags.

use spec::{HostName, IngressSettings, RateLimit, RoutePath};

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
}

impl IngressFlags {
    pub fn is_given(&self) -> bool {
        let Self { host, path, weight, https, sticky, rate_limit } = self;
        !host.is_empty()
            || !path.is_empty()
            || weight.is_some()
            || https.or(*sticky).is_some()
            || rate_limit.is_some()
    }

    /// `settings` with what was asked for. A list takes the place of the one before.
    pub fn applied_to(&self, settings: IngressSettings) -> IngressSettings {
        let listed = |given: &Vec<_>, before| if given.is_empty() { before } else { given.clone() };
        let rate_limit = self.rate_limit.or(settings.rate_limit);
        IngressSettings {
            hosts: listed(&self.host, settings.hosts),
            paths: if self.path.is_empty() { settings.paths } else { self.path.clone() },
            weight: self.weight.or(settings.weight),
            https: self.https.unwrap_or(settings.https),
            sticky: self.sticky.unwrap_or(settings.sticky),
            rate_limit: rate_limit.filter(|limit| limit.requests_per_second != 0),
        }
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
