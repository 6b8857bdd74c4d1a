use std::sync::Arc;

use audit::{AuditLog, Event};
use http::{Method, StatusCode};

use super::{
    call::Reply,
    context::Api,
    error::ApiError,
    principal::{Peer, Principal},
    routes::Route,
};

/// What nginx calls a request whose client has gone: it may have been carried out.
const CLIENT_CLOSED: u16 = 499;
/// Objects of one answer that are named.
const NAMED_MAX: usize = 3;

/// A request on its way into the audit log, where it comes at the latest when this is dropped.
pub(crate) struct Audited {
    log: Arc<AuditLog>,
    event: Option<Event>,
    /// What nodes and probes ask every few seconds: recorded when it is refused.
    is_routine: bool,
}

impl Audited {
    pub fn begin(api: &Api, peer: &Peer, method: &Method, path: &str) -> Self {
        let event = Event {
            principal: String::new(),
            address: match peer {
                Peer::Socket => "socket".to_owned(),
                Peer::Tls { from, .. } => from.map_or_else(String::new, |from| from.to_string()),
            },
            action: method.to_string(),
            object: path.to_owned(),
            status: CLIENT_CLOSED,
            code: String::new(),
        };
        Self { log: api.audit.clone(), event: Some(event), is_routine: false }
    }

    /// Notes on whose behalf the request is made.
    pub fn of(&mut self, route: &Route, principal: &Principal) {
        self.is_routine = matches!(
            route.path,
            "/v1/health"
                | "/v1/node/desired"
                | "/v1/node/report"
                | "/v1/node/streams"
                | "/v1/node/streams/{stream}"
        );
        if let Some(event) = &mut self.event {
            event.principal = match principal {
                Principal::Unauthenticated => String::new(),
                Principal::Operator(_) => "operator".to_owned(),
                Principal::Tenant { tenant, credential, .. } => {
                    format!("tenant/{tenant}/{credential}")
                }
                Principal::Node { id, .. } => format!("node/{id}"),
            };
        }
    }

    /// Records how the request ended.
    pub async fn end(mut self, result: Result<Reply, ApiError>) -> Result<Reply, ApiError> {
        let Some(mut event) = self.event.take() else { return result };
        match &result {
            Ok(reply) => {
                event.status = reply.status.as_u16();
                if event.action == Method::POST.as_str() {
                    event.object.push_str(&made(&reply.body));
                }
            }
            Err(error) => {
                event.status = error.status.as_u16();
                event.code.clone_from(&error.fault.code);
                if let Some(subject) = &error.subject {
                    event.object = format!("{}/{subject}", event.object);
                }
            }
        }
        if !self.is_routine || event.status >= StatusCode::BAD_REQUEST.as_u16() {
            self.log.record_together(event).await;
        }
        result
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        if let Some(event) = self.event.take()
            && !self.is_routine
        {
            self.log.record(event);
        }
    }
}

/// The names of what a request made, as the end of a path.
fn made(answer: &serde_json::Value) -> String {
    let name = |one: &serde_json::Value| {
        let name = one.get("id").or_else(|| one.get("name")).and_then(serde_json::Value::as_str);
        name.map(str::to_owned)
    };
    let names: Vec<String> = match answer.get("items").and_then(serde_json::Value::as_array) {
        Some(items) => items.iter().take(NAMED_MAX).filter_map(name).collect(),
        None => name(answer).into_iter().collect(),
    };
    if names.is_empty() { String::new() } else { format!("/{}", names.join(",")) }
}
