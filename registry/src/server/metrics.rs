//! What operators see of requests: counters in the text format of Prometheus.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode, header};
use spec::Timestamp;

use super::{
    error::ApiError,
    response::{Response, full, with_headers},
    route::{Endpoint, Route},
};
use crate::{
    limits::METRIC_NAMES_MAX,
    protocol::{Switch, UpstreamCounts},
    storage::{Storage, Upstream},
};

/// The repository that stands for all beyond [`METRIC_NAMES_MAX`]: no name begins so.
const OTHERS: &str = "_others";

/// Upper bounds of the buckets of a histogram, in milliseconds.
const BUCKETS: [u32; 8] = [1, 5, 25, 100, 500, 2_500, 10_000, 60_000];

/// Counts requests from the start of the process on.
#[derive(Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<(Kind, u16), u64>>,
    times: [Histogram; Kind::ALL.len()],
    repositories: Mutex<HashMap<String, Arc<Traffic>>>,
    /// Lines that the access log has no place for.
    pub access_lines_lost: AtomicU64,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ping,
    Token,
    Catalog,
    Admin,
    Manifest,
    Blob,
    Upload,
    Tags,
    Referrers,
    Other,
}

/// What has moved in and out of a repository.
#[derive(Default)]
pub(super) struct Traffic {
    pulls: AtomicU64,
    pushes: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

#[derive(Default)]
struct Histogram {
    /// Each without those of the buckets before.
    counts: [AtomicU64; BUCKETS.len()],
    all: AtomicU64,
    micros: AtomicU64,
}

/// A request that was answered.
pub(super) struct Answered<'a> {
    pub kind: Kind,
    pub method: &'a Method,
    pub status: StatusCode,
    /// Until the head of the answer was there.
    pub time: Duration,
    pub repository: Option<&'a str>,
    pub received: u64,
    pub sent: u64,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Ping,
        Self::Token,
        Self::Catalog,
        Self::Admin,
        Self::Manifest,
        Self::Blob,
        Self::Upload,
        Self::Tags,
        Self::Referrers,
        Self::Other,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Token => "token",
            Self::Catalog => "catalog",
            Self::Admin => "admin",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Upload => "upload",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Other => "other",
        }
    }

    pub fn of(route: &Route) -> Self {
        match route {
            Route::Ping => Self::Ping,
            Route::Token => Self::Token,
            Route::Catalog => Self::Catalog,
            Route::Admin(_) => Self::Admin,
            Route::Health | Route::Machine(_) => Self::Other,
            Route::Repository(_, endpoint) => match endpoint {
                Endpoint::ListTags => Self::Tags,
                Endpoint::ListReferrers(_) => Self::Referrers,
                Endpoint::ReadManifest(_)
                | Endpoint::PutManifest(_)
                | Endpoint::DeleteManifest(_) => Self::Manifest,
                Endpoint::ReadBlob(_) | Endpoint::DeleteBlob(_) => Self::Blob,
                Endpoint::BeginUpload
                | Endpoint::ReadUpload(_)
                | Endpoint::AppendUpload(_)
                | Endpoint::FinishUpload(_)
                | Endpoint::CancelUpload(_) => Self::Upload,
            },
        }
    }
}

impl Metrics {
    pub fn record(&self, answered: &Answered<'_>) {
        let Answered { kind, method, status, time, repository, received, sent } = answered;
        *lock(&self.requests).entry((*kind, status.as_u16())).or_default() += 1;
        self.times[*kind as usize].record(*time);
        // A refused request may name a repository that is not there.
        let Some(repository) = repository.filter(|_| status.is_success()) else { return };
        let traffic = self.traffic(repository);
        let add = |counter: &AtomicU64, count: u64| counter.fetch_add(count, Ordering::Relaxed);
        add(&traffic.received, *received);
        add(&traffic.sent, *sent);
        match (*kind, (*method).clone()) {
            (Kind::Manifest, Method::GET) => add(&traffic.pulls, 1),
            (Kind::Manifest, Method::PUT) => add(&traffic.pushes, 1),
            _ => 0,
        };
    }

    fn traffic(&self, repository: &str) -> Arc<Traffic> {
        let mut known = lock(&self.repositories);
        let name = match known.contains_key(repository) || known.len() < METRIC_NAMES_MAX {
            true => repository,
            false => OTHERS,
        };
        Arc::clone(known.entry(name.to_owned()).or_default())
    }

    /// Everything, with what is stored by now.
    pub async fn answer(&self, storage: &Storage) -> Result<Response, ApiError> {
        let mut page = Page::default();
        self.requests(&mut page);
        self.repositories(&mut page);
        let (mut bytes, mut tags) = (Vec::new(), Vec::new());
        let accounts = storage.metadata.names_with_usage().await?;
        // Accounts alone: a repository with a quota is part of one.
        let accounts = accounts.into_iter().filter(|name| !name.contains('/'));
        for account in accounts.take(METRIC_NAMES_MAX) {
            let used = storage.metadata.used_by(&account).await?;
            bytes.push((format!("account=\"{account}\""), used.bytes));
            tags.push((format!("account=\"{account}\""), used.tags));
        }
        page.family("account_bytes", "gauge", "Bytes that an account has.", bytes);
        page.family("account_tags", "gauge", "Tags that an account has.", tags);
        let one = |value: u64| [(String::new(), value)];
        let uploads = storage.uploads.list().len() as u64;
        page.family("open_uploads", "gauge", "Uploads that are not finished.", one(uploads));
        let damaged = storage.metadata.damaged_count() as u64;
        page.family("damaged_blobs", "gauge", "Blobs that are not vouched for.", one(damaged));
        let read_only = u64::from(storage.metadata.rules.is_on(Switch::ReadOnly));
        page.family("read_only", "gauge", "Whether clients change nothing.", one(read_only));
        let lost = self.access_lines_lost.load(Ordering::Relaxed);
        let help = "Requests that the access log has no line for.";
        page.family("access_log_lost_total", "counter", help, one(lost));
        upstreams(&storage.metadata.upstreams.all(), &mut page);
        replications(storage, &mut page).await?;
        let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
        Ok(with_headers(StatusCode::OK, full(page.0), content_type))
    }

    fn requests(&self, page: &mut Page) {
        let requests = lock(&self.requests).clone();
        let requests = requests.iter().map(|((kind, status), count)| {
            (format!("endpoint=\"{}\",code=\"{status}\"", kind.name()), *count)
        });
        page.family("requests_total", "counter", "Requests, by their status.", requests);
        page.head("request_seconds", "histogram", "Time until the head of an answer.");
        for kind in Kind::ALL {
            self.times[kind as usize].write(kind.name(), page);
        }
    }

    fn repositories(&self, page: &mut Page) {
        let mut all: Vec<_> = {
            let known = lock(&self.repositories);
            known.iter().map(|(name, traffic)| (name.clone(), Arc::clone(traffic))).collect()
        };
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        type Counter = fn(&Traffic) -> &AtomicU64;
        let families: [(&str, &str, Counter); 4] = [
            ("pulls_total", "Manifests that were read.", |traffic| &traffic.pulls),
            ("pushes_total", "Manifests that were added.", |traffic| &traffic.pushes),
            ("sent_bytes_total", "Bytes of answers.", |traffic| &traffic.sent),
            ("received_bytes_total", "Bytes of requests.", |traffic| &traffic.received),
        ];
        for (family, help, counter) in families {
            let values = all.iter().map(|(name, traffic)| {
                let count = counter(traffic).load(Ordering::Relaxed);
                (format!("repository=\"{name}\""), count)
            });
            page.family(family, "counter", help, values);
        }
    }
}

fn upstreams(all: &[Arc<Upstream>], page: &mut Page) {
    let (mut requests, mut bytes) = (Vec::new(), Vec::new());
    for upstream in all {
        let UpstreamCounts { hits, misses, stale, failed, fetched_bytes } = upstream.counts();
        let name = &upstream.name;
        let results = [("hit", hits), ("miss", misses), ("stale", stale), ("failed", failed)];
        requests
            .extend(results.map(|(result, count)| {
                (format!("upstream=\"{name}\",result=\"{result}\""), count)
            }));
        bytes.push((format!("upstream=\"{name}\""), fetched_bytes));
    }
    let help = "Requests for what is of an upstream, by how they were answered.";
    page.family("upstream_requests_total", "counter", help, requests);
    let help = "Bytes that were fetched of an upstream.";
    page.family("upstream_fetched_bytes_total", "counter", help, bytes);
}

async fn replications(storage: &Storage, page: &mut Page) -> Result<(), ApiError> {
    let (mut pending, mut lags, now) = (Vec::new(), Vec::new(), Timestamp::of(SystemTime::now()));
    for hook in storage.metadata.webhooks.all() {
        if hook.record.replica.is_none() {
            continue;
        }
        let label = format!("replication=\"{}\"", hook.name);
        let oldest = storage.metadata.next_event(&hook.name).await?;
        let lag = oldest.map_or(0, |oldest| now.since(oldest.event.time).as_secs());
        pending.push((label.clone(), hook.pending.load(Ordering::Relaxed)));
        lags.push((label, lag));
    }
    page.family("replication_pending", "gauge", "Changes that wait to be replicated.", pending);
    page.family("replication_lag_seconds", "gauge", "For how long the oldest of them waits.", lags);
    Ok(())
}

impl Histogram {
    fn record(&self, time: Duration) {
        let bucket = BUCKETS.iter().position(|bound| time.as_millis() < u128::from(*bound));
        if let Some(bucket) = bucket {
            self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, endpoint: &str, page: &mut Page) {
        let (all, mut up_to) = (self.all.load(Ordering::Relaxed), 0);
        if all == 0 {
            return;
        }
        for (bound, count) in BUCKETS.iter().zip(&self.counts) {
            up_to += count.load(Ordering::Relaxed);
            let bound = f64::from(*bound) / 1000.0;
            let labels = format!("endpoint=\"{endpoint}\",le=\"{bound}\"");
            page.value("request_seconds_bucket", &labels, up_to);
        }
        // Read first, and so never less than a bucket that was read after it.
        let all = all.max(up_to);
        let labels = format!("endpoint=\"{endpoint}\",le=\"+Inf\"");
        page.value("request_seconds_bucket", &labels, all);
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let labels = format!("endpoint=\"{endpoint}\"");
        page.value("request_seconds_sum", &labels, seconds);
        page.value("request_seconds_count", &labels, all);
    }
}

/// The text of an answer. Names of accounts and repositories have no character that a label could
/// not have.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, family: &str, kind: &str, help: &str) {
        let name = format!("margay_registry_{family}");
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes all");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(self.0, "margay_registry_{name}{labels} {value}").expect("a String takes all");
    }

    fn family(
        &mut self,
        family: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) {
        self.head(family, kind, help);
        for (labels, value) in values {
            self.value(family, &labels, value);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(repository: &str, status: u16, millis: u64) -> Answered<'_> {
        Answered {
            kind: Kind::Manifest,
            method: &Method::GET,
            status: StatusCode::from_u16(status).unwrap(),
            time: Duration::from_millis(millis),
            repository: Some(repository),
            received: 1,
            sent: 10,
        }
    }

    #[test]
    fn a_histogram_counts_each_request_in_every_bucket_above_it() {
        let metrics = Metrics::default();
        for millis in [0, 1, 30, 70_000] {
            metrics.record(&answered("ann/cats", 200, millis));
        }
        let mut page = Page::default();
        metrics.requests(&mut page);
        for line in [
            r#"requests_total{endpoint="manifest",code="200"} 4"#,
            r#"request_seconds_bucket{endpoint="manifest",le="0.001"} 1"#,
            r#"request_seconds_bucket{endpoint="manifest",le="0.005"} 2"#,
            r#"request_seconds_bucket{endpoint="manifest",le="0.1"} 3"#,
            r#"request_seconds_bucket{endpoint="manifest",le="60"} 3"#,
            r#"request_seconds_bucket{endpoint="manifest",le="+Inf"} 4"#,
            r#"request_seconds_sum{endpoint="manifest"} 70.031"#,
            r#"request_seconds_count{endpoint="manifest"} 4"#,
        ] {
            assert!(page.0.lines().any(|one| one == format!("margay_registry_{line}")), "{line}");
        }
        assert_eq!(page.0.matches("# TYPE").count(), 2, "{}", page.0);
    }

    #[test]
    fn repositories_that_are_told_apart_have_a_limit_and_refused_ones_are_not_counted() {
        let metrics = Metrics::default();
        for n in 0..2 * METRIC_NAMES_MAX {
            metrics.record(&answered(&format!("eve/{n}"), 404, 1));
            metrics.record(&answered(&format!("ann/{n}"), 200, 1));
        }
        let mut page = Page::default();
        metrics.repositories(&mut page);
        assert!(!page.0.contains("eve/"));
        let pulls: Vec<_> =
            page.0.lines().filter(|line| line.starts_with("margay_registry_pulls_total")).collect();
        assert_eq!(pulls.len(), METRIC_NAMES_MAX + 1);
        let others =
            format!("margay_registry_pulls_total{{repository=\"_others\"}} {METRIC_NAMES_MAX}");
        assert!(pulls.contains(&&*others), "{:?}", pulls[0]);
        assert!(page.0.contains("margay_registry_sent_bytes_total{repository=\"ann/0\"} 10\n"));
    }
}
