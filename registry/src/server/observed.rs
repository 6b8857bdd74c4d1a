use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};

use http::{Method, StatusCode, header, request::Parts};
use net::BodyObserver;
use spec::Timestamp;

use super::{
    access_log::{AccessLine, AccessLog, shortened},
    metrics::{Answered, Kind, Metrics},
    route::Route,
};
use crate::{protocol::Switch, storage::Metadata};

/// Where requests are counted and logged.
pub(super) struct Observer {
    pub metrics: Metrics,
    log: AccessLog,
    metadata: Metadata,
}

/// A request on its way into the metrics and the access log, where it comes when this is dropped:
/// at the end of the answer, or when its client has gone before.
pub(super) struct Observed {
    observer: Arc<Observer>,
    began: (Instant, SystemTime),
    kind: Kind,
    method: Method,
    path: String,
    repository: Option<String>,
    address: Option<IpAddr>,
    user_agent: String,
    principal: String,
    received: u64,
    sent: u64,
    /// When the head of the answer was there.
    answered: Option<(StatusCode, Instant)>,
}

impl Observer {
    pub fn new(data_dir: &Path, metadata: Metadata) -> Self {
        let log = AccessLog::new(&data_dir.join("access"));
        Self { metrics: Metrics::default(), log, metadata }
    }

    pub fn begin(
        self: &Arc<Self>,
        head: &Parts,
        address: Option<IpAddr>,
        route: Option<&Route>,
    ) -> Observed {
        let user_agent = head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Observed {
            observer: Arc::clone(self),
            began: (Instant::now(), SystemTime::now()),
            kind: route.map_or(Kind::Other, Kind::of),
            method: head.method.clone(),
            path: shortened(head.uri.path()).to_owned(),
            repository: match route {
                Some(Route::Repository(repository, _)) => Some(repository.to_string()),
                _ => None,
            },
            address,
            user_agent: shortened(user_agent.unwrap_or_default()).to_owned(),
            principal: String::new(),
            received: 0,
            sent: 0,
            answered: None,
        }
    }
}

impl Observed {
    pub fn by(&mut self, principal: &str) {
        principal.clone_into(&mut self.principal);
    }

    pub fn received(&mut self, bytes: u64) {
        self.received = bytes;
    }

    pub fn answered(&mut self, status: StatusCode) {
        self.answered = Some((status, Instant::now()));
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let (began, time) = self.began;
        // What nginx calls a request whose client has gone.
        let gone = StatusCode::from_u16(499).expect("it has three digits");
        let (status, answered) = self.answered.unwrap_or_else(|| (gone, Instant::now()));
        self.observer.metrics.record(&Answered {
            kind: self.kind,
            method: &self.method,
            status,
            time: answered - began,
            repository: self.repository.as_deref(),
            received: self.received,
            sent: self.sent,
        });
        if !self.observer.metadata.rules.is_on(Switch::AccessLog) {
            return;
        }
        let written = self.observer.log.write(&AccessLine {
            time: Timestamp::of(time),
            address: self.address.map_or_else(String::new, |address| address.to_string()),
            principal: &self.principal,
            method: self.method.as_str(),
            path: &self.path,
            status: status.as_u16(),
            received: self.received,
            sent: self.sent,
            seconds: began.elapsed().as_secs_f64(),
            user_agent: &self.user_agent,
        });
        if !written {
            self.observer.metrics.access_lines_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl BodyObserver for Observed {
    fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }
}
