use std::{ops::Deref, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use net::{KeyedPermit, KeyedSemaphore};
use spec::{NodeId, Tenant};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{error::ApiError, principal::Principal};
use crate::{
    limits::{
        BODIES_PER_NODE_MAX, BODIES_PER_TENANT_MAX, BODY_BYTES_FREE, BODY_BYTES_MAX, BODY_TIME_MAX,
        BODY_WAIT_MAX, DISCARDED_BYTES_MAX, DISCARDED_TIME_MAX, NODE_BODIES_BYTES_MAX,
        REPORT_BYTES_MAX, REPORT_BYTES_MIN, REPORT_BYTES_PER_TASK, TENANT_BODIES_BYTES_MAX,
    },
    state::State,
};

/// Memory for the bodies of requests, by what is known of their senders, so that none takes what
/// another needs. The first [`BODY_BYTES_FREE`] of a body are bounded by the number of
/// connections; what is larger takes its bytes from the budget of its class as they arrive, and
/// keeps them until the request is answered.
#[derive(Debug)]
pub(crate) struct BodyBudgets {
    tenants: Arc<Semaphore>,
    each_tenant: KeyedSemaphore<Tenant>,
    nodes: Arc<Semaphore>,
    each_node: KeyedSemaphore<NodeId>,
}

/// Which limit the body of a route has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodySize {
    Usual,
    /// It names every task of a node.
    Report,
    /// Frames, which the handler reads as they come.
    Stream,
}

/// A body, and the right to its memory until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct ReadBody {
    bytes: Bytes,
    _permit: Option<BodyPermit>,
}

impl Deref for ReadBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
impl From<String> for ReadBody {
    fn from(text: String) -> Self {
        Self { bytes: text.into(), _permit: None }
    }
}

#[derive(Debug)]
struct BodyPermit {
    budget: Arc<Semaphore>,
    bytes: Option<OwnedSemaphorePermit>,
    _own: Turn,
}

/// One of the large bodies that a sender may have at one time.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
enum Turn {
    Tenant(KeyedPermit<Tenant>),
    Node(KeyedPermit<NodeId>),
    Operator,
}

impl BodyBudgets {
    pub fn new() -> Self {
        Self {
            tenants: Arc::new(Semaphore::new(TENANT_BODIES_BYTES_MAX)),
            each_tenant: KeyedSemaphore::new(BODIES_PER_TENANT_MAX),
            nodes: Arc::new(Semaphore::new(NODE_BODIES_BYTES_MAX)),
            each_node: KeyedSemaphore::new(BODIES_PER_NODE_MAX),
        }
    }

    /// Reads the body of a request that `principal` may make, as far as its limit.
    pub async fn read(
        &self,
        state: &State,
        principal: &Principal,
        size: BodySize,
        mut body: Incoming,
    ) -> Result<ReadBody, ApiError> {
        let bytes_max = bytes_max(state, principal, size);
        let read = if body.size_hint().lower() > bytes_max as u64 {
            Err(too_large(bytes_max)) // before a byte of it is kept
        } else {
            let read = self.collect(principal, bytes_max, &mut body);
            let slow = |_| {
                let status = StatusCode::REQUEST_TIMEOUT;
                ApiError::new(status, "timeout", "the body took too long")
            };
            timeout(BODY_TIME_MAX, read).await.map_err(slow).flatten()
        };
        if read.is_err() {
            discard(body).await;
        }
        read
    }

    async fn collect(
        &self,
        principal: &Principal,
        bytes_max: usize,
        body: &mut Incoming,
    ) -> Result<ReadBody, ApiError> {
        let (mut bytes, mut permit) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::invalid("the body is incomplete"))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > bytes_max {
                return Err(too_large(bytes_max));
            }
            if length > BODY_BYTES_FREE {
                if permit.is_none() {
                    permit = Some(self.turn(principal).await?);
                    // At once, so that the buffer is not copied as it grows; it takes no memory
                    // before bytes are in it.
                    let announced = body.size_hint().exact().unwrap_or_default();
                    bytes.reserve(data.len() + usize::try_from(announced).unwrap_or_default());
                }
                if let Some(permit) = &mut permit {
                    permit.grow_to(length)?;
                }
            }
            bytes.extend_from_slice(&data);
        }
        Ok(ReadBody { bytes: bytes.freeze(), _permit: permit })
    }

    /// The turn of a sender, when the large bodies that it has sent already are answered.
    async fn turn(&self, principal: &Principal) -> Result<BodyPermit, ApiError> {
        let own = async {
            match principal {
                Principal::Unauthenticated | Principal::Operator(_) => Turn::Operator,
                Principal::Tenant { tenant, .. } => {
                    Turn::Tenant(self.each_tenant.acquire(tenant.clone()).await)
                }
                Principal::Node { id, .. } => Turn::Node(self.each_node.acquire(id.clone()).await),
            }
        };
        let own = timeout(BODY_WAIT_MAX, own).await.map_err(|_| busy())?;
        let budget = match principal {
            Principal::Node { .. } => &self.nodes,
            _ => &self.tenants,
        };
        Ok(BodyPermit { budget: budget.clone(), bytes: None, _own: own })
    }
}

impl BodyPermit {
    /// Bytes for a body of `length`.
    fn grow_to(&mut self, length: usize) -> Result<(), ApiError> {
        let held = self.bytes.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(length.saturating_sub(held)).map_err(|_| busy())?;
        let more = self.budget.clone().try_acquire_many_owned(more).map_err(|_| busy())?;
        match &mut self.bytes {
            Some(bytes) => bytes.merge(more),
            None => self.bytes = Some(more),
        }
        Ok(())
    }
}

/// How large a body of `principal` may be. A node reports its tasks, so a report is as large as the
/// number of tasks that it was given.
fn bytes_max(state: &State, principal: &Principal, size: BodySize) -> usize {
    match (principal, size) {
        (Principal::Unauthenticated, _) => BODY_BYTES_FREE,
        (Principal::Node { id, .. }, BodySize::Report) => {
            let tasks = state.model().tasks_on(id).count();
            (REPORT_BYTES_MIN + tasks * REPORT_BYTES_PER_TASK).min(REPORT_BYTES_MAX)
        }
        (Principal::Tenant { .. } | Principal::Operator(_) | Principal::Node { .. }, _) => {
            BODY_BYTES_MAX
        }
    }
}

/// Reads some more of a body that was refused, and keeps none of it: a client that is still sending
/// would not come to read why.
pub(crate) async fn discard(mut body: Incoming) {
    let discarding = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARDED_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(DISCARDED_TIME_MAX, discarding).await;
}

fn too_large(bytes_max: usize) -> ApiError {
    let message = format!("the body is larger than {bytes_max} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
}

fn busy() -> ApiError {
    let message = "too many large requests are under way";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
        .hint(format!("send it again in {} seconds", RETRY_AFTER.as_secs()))
}

/// As `Retry-After` says it.
const RETRY_AFTER: Duration = Duration::from_secs(5);
