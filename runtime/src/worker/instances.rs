//! Instances of a container that answers HTTP: a fresh one for each request, or one that waits
//! where the image's author lets an instance answer several, one after another.

use std::{
    any::Any,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::sync::oneshot;
use wasmtime::{Store, component::Resource};
use wasmtime_wasi_http::{
    FieldMap, RequestOptions, WasiBody, WasiHttpView,
    p2::{
        bindings::{
            Proxy, ProxyPre,
            http::types::{ErrorCode, Scheme},
        },
        body::{HostFutureTrailers, HostIncomingBody, HostOutgoingBody},
        types::{
            HostFutureIncomingResponse, HostIncomingRequest, HostIncomingResponse,
            HostOutgoingRequest, HostOutgoingResponse, HostResponseOutparam,
        },
    },
};

use super::{bodies::RequestBody, container::Container, guest::Guest, meter::RunClock};

/// An instance that no request has come to for so long, or up to twice as long, gives its memory
/// back.
const SWEEP_TIME: Duration = Duration::from_secs(10);

/// What a guest sets its response to.
pub(super) type Answer = Result<Response<WasiBody>, ErrorCode>;

/// One instance, which answers one request at a time.
pub(super) struct Instance {
    pub store: Store<Guest>,
    pub clock: Arc<RunClock>,
    /// None before its first request.
    proxy: Option<Proxy>,
    requests_left: u32,
}

/// A request as the guest gets it.
pub(super) struct Question {
    request: Resource<HostIncomingRequest>,
    out: Resource<HostResponseOutparam>,
}

impl Instance {
    /// Puts a request before the guest; its answer arrives at the receiver.
    pub fn question(
        &mut self,
        request: Request<RequestBody>,
    ) -> wasmtime::Result<(Question, oneshot::Receiver<Answer>)> {
        let guest = self.store.data_mut();
        guest.hooks.answers(request.headers());
        let request = guest.http().new_incoming_request(Scheme::Http, request)?;
        let (sender, answer) = oneshot::channel();
        let out = guest.http().new_response_outparam(sender)?;
        Ok((Question { request, out }, answer))
    }

    /// Has the guest answer. After an error it cannot answer again.
    pub async fn answer(
        &mut self,
        pre: &ProxyPre<Guest>,
        question: Question,
    ) -> wasmtime::Result<()> {
        let proxy = match &mut self.proxy {
            Some(proxy) => proxy,
            none => none.insert(pre.instantiate_async(&mut self.store).await?),
        };
        let handler = proxy.wasi_http_incoming_handler();
        handler.call_handle(&mut self.store, question.request, question.out).await
    }

    /// Whether it may answer one more request. One that has met its limit of memory may not, nor
    /// one that has left anything of this request open, which the next would find.
    pub fn may_answer_again(&mut self) -> bool {
        let guest = self.store.data_mut();
        self.requests_left > 0
            && !guest.held.was_refused()
            && !guest.table.iter_mut().any(|entry| is_of_a_request(entry))
    }
}

/// Whether a resource is of `wasi:http`. The streams of a body are children of the body, which is
/// there as long as they are.
fn is_of_a_request(entry: &(dyn Any + Send)) -> bool {
    entry.is::<HostIncomingRequest>()
        || entry.is::<HostResponseOutparam>()
        || entry.is::<HostIncomingBody>()
        || entry.is::<HostOutgoingBody>()
        || entry.is::<HostOutgoingResponse>()
        || entry.is::<HostOutgoingRequest>()
        || entry.is::<HostIncomingResponse>()
        || entry.is::<HostFutureIncomingResponse>()
        || entry.is::<HostFutureTrailers>()
        || entry.is::<FieldMap>()
        || entry.is::<RequestOptions>()
}

/// The instances of one container that wait for a request. With those that answer one they are no
/// more than its concurrency: each was kept under the permit that it answered under.
pub(super) struct Instances {
    container: Arc<Container>,
    waiting: Mutex<Waiting<Instance>>,
}

impl Instances {
    pub fn new(container: Arc<Container>) -> Self {
        Self { container, waiting: Mutex::default() }
    }

    /// One for a request that began at `began`.
    pub fn take(&self, began: Instant) -> Instance {
        if self.are_reused()
            && let Some(mut instance) = self.waiting().take()
        {
            instance.clock.begins_again();
            // The epoch went on while it waited.
            instance.store.set_epoch_deadline(1);
            instance.requests_left -= 1;
            return instance;
        }
        let (store, clock) = self.container.store(began);
        let requests_left = self.container.limits.requests_per_instance_max.saturating_sub(1);
        Instance { store, clock, proxy: None, requests_left }
    }

    /// Keeps one that [may answer again](Instance::may_answer_again), while at least half of the
    /// container's memory is left to those that run.
    pub fn keep(&self, instance: Option<Instance>) {
        if let Some(instance) = instance.filter(|_| self.container.meter.has_half_left()) {
            self.waiting().put(instance);
        }
    }

    pub fn are_reused(&self) -> bool {
        self.container.limits.requests_per_instance_max > 1
    }

    /// Gives back the memory of those that no request comes to.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_TIME).await;
            let unused = self.waiting().sweep();
            // Not under the lock.
            drop(unused);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<Instance>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits. The last one is taken first, so that those which are not needed are at the bottom.
#[derive(Debug)]
struct Waiting<T> {
    all: Vec<T>,
    /// How many at the bottom have not been taken since the last sweep.
    unused: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { all: Vec::new(), unused: 0 }
    }
}

impl<T> Waiting<T> {
    fn put(&mut self, one: T) {
        self.all.push(one);
    }

    fn take(&mut self) -> Option<T> {
        let taken = self.all.pop();
        self.unused = self.unused.min(self.all.len());
        taken
    }

    /// Those that were there at the last sweep and have not been taken since.
    fn sweep(&mut self) -> Vec<T> {
        let unused = self.all.drain(..self.unused).collect();
        self.unused = self.all.len();
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_unused_from_one_sweep_to_the_next_goes() {
        let mut waiting = Waiting::default();
        (1..=4).for_each(|one| waiting.put(one));
        assert_eq!(waiting.sweep(), [0; 0], "all are new");
        assert_eq!((waiting.take(), waiting.take()), (Some(4), Some(3)));
        (5..=6).for_each(|one| waiting.put(one));
        assert_eq!(waiting.sweep(), [1, 2]);
        assert_eq!(waiting.sweep(), [5, 6]);
        assert_eq!((waiting.take(), waiting.sweep()), (None, Vec::new()));
    }
}
