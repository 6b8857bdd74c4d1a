//! Requests for services that have no replica until one comes: they wait here, the control plane
//! is told, and they go on with the first replica that is ready.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use spec::{ServiceRef, wire::WaitingRequests};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    error::GatewayError,
    folder::IngressFolder,
    limits::{
        RETRY_EVERY, WAITING_BYTES_MAX, WAITING_MAX, WAITING_PER_SERVICE_MAX, WAITING_TOLD_EVERY,
    },
    table::Service,
    told::{self, ToldFile},
};

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct Wake {
    waiting: Mutex<BTreeMap<ServiceRef, u32>>,
    changed: Notify,
}

/// One of them, for as long as it does.
struct WaitingRequest<'a> {
    wake: &'a Wake,
    service: ServiceRef,
}

impl Wake {
    /// Holds a request until `service` has a replica, or is none that a request brings back.
    /// `find` says what it is now.
    ///
    /// # Errors
    /// Where too many wait already, and where none is ready in time.
    pub async fn ready(
        &self,
        service: &Arc<Service>,
        time_max: Duration,
        mut find: impl FnMut() -> Result<Arc<Service>, GatewayError>,
    ) -> Result<Arc<Service>, GatewayError> {
        let mut service = service.clone();
        let Some(wakes) = &service.settings.wakes else { return Ok(service) };
        let Some(_waiting) = self.wait_for(wakes) else {
            return Err(GatewayError::too_many_waiting(&service.host));
        };
        let deadline = Instant::now() + time_max;
        while service.is_asleep() {
            if Instant::now() >= deadline {
                return Err(GatewayError::not_woken(&service.host, time_max));
            }
            sleep(RETRY_EVERY).await;
            service = find()?;
        }
        Ok(service)
    }

    fn wait_for(&self, service: &ServiceRef) -> Option<WaitingRequest<'_>> {
        let mut waiting = self.waiting();
        let all: u32 = waiting.values().sum();
        let own = waiting.get(service).copied().unwrap_or_default();
        if all >= WAITING_MAX || own >= WAITING_PER_SERVICE_MAX {
            return None;
        }
        waiting.insert(service.clone(), own + 1);
        drop(waiting);
        self.changed.notify_one();
        Some(WaitingRequest { wake: self, service: service.clone() })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<ServiceRef, u32>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the agent which services are waited for, as soon as that changes.
    pub async fn keep_told(&self, file: Option<ToldFile>) {
        let Some(file) = file else { return std::future::pending().await };
        loop {
            let waiting = self.waiting().clone().into_iter();
            let waiting: Vec<WaitingRequests> =
                waiting.map(|(service, requests)| WaitingRequests { service, requests }).collect();
            if let Err(error) = file.write(&waiting).await {
                tracing::warn!(%error, "requests wait for a service, and it is not told");
            }
            sleep(WAITING_TOLD_EVERY).await;
            self.changed.notified().await;
        }
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let mut waiting = self.wake.waiting();
        if let Some(requests) = waiting.get_mut(&self.service) {
            *requests = requests.saturating_sub(1);
        }
        waiting.retain(|_, requests| *requests > 0);
        drop(waiting);
        self.wake.changed.notify_one();
    }
}

/// The file by which the agent is told. To be opened while that is allowed.
pub(super) fn open(folder: &IngressFolder) -> crate::error::Result<ToldFile> {
    ToldFile::open(&folder.waiting_file())
}

/// What the ingress has told last.
pub(crate) fn read(folder: &IngressFolder) -> Option<Vec<WaitingRequests>> {
    told::read(&folder.waiting_file(), WAITING_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceRef {
        ServiceRef {
            tenant: "me".parse().unwrap(),
            cluster: "main".parse().unwrap(),
            service: name.parse().unwrap(),
        }
    }

    #[test]
    fn as_many_requests_wait_as_there_is_room_for_and_each_leaves_its_place() {
        let wake = Wake::default();
        let mut held = Vec::new();
        let services = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(service);
        for name in &services {
            for _ in 0..WAITING_PER_SERVICE_MAX {
                held.extend(wake.wait_for(name));
            }
            assert!(wake.wait_for(name).is_none(), "{name:?}");
        }
        assert_eq!(held.len(), WAITING_MAX as usize);
        held.pop();
        held.extend(wake.wait_for(&service("z")));
        assert_eq!(held.len(), WAITING_MAX as usize);
        held.clear();
        assert!(wake.waiting().is_empty());
    }
}
