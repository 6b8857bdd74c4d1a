use std::{net::IpAddr, sync::Arc};

use audit::{AuditLog, Event};
use http::{Method, StatusCode};

use super::error::{ApiError, ErrorCode};
use crate::{access::Principal, storage::Metadata};

/// What nginx calls a request whose client has gone: it may have been carried out.
const CLIENT_CLOSED: u16 = 499;

/// A request on its way into the audit log, where it comes at the latest when this is dropped.
pub(super) struct Audited {
    log: Arc<AuditLog>,
    event: Option<Event>,
    /// What probes ask every few seconds: recorded when it is refused.
    is_routine: bool,
}

impl Audited {
    pub fn begin(log: &Arc<AuditLog>, from: Option<IpAddr>, method: &Method, path: &str) -> Self {
        let event = Event {
            principal: String::new(),
            address: from.map_or_else(|| "socket".to_owned(), |from| from.to_string()),
            action: method.to_string(),
            object: path.to_owned(),
            status: CLIENT_CLOSED,
            code: String::new(),
        };
        Self { log: Arc::clone(log), event: Some(event), is_routine: false }
    }

    pub fn is_routine(&mut self) {
        self.is_routine = true;
    }

    /// Notes on whose behalf the request is made.
    pub fn of(&mut self, principal: &Principal) {
        let principal = match principal {
            Principal::Anonymous => String::new(),
            Principal::User { account, .. } => format!("user/{}", account.login),
            Principal::Machine { name, .. } => format!("machine/{name}"),
            Principal::ControlPlane => "control-plane".to_owned(),
        };
        self.by(principal);
    }

    pub fn by(&mut self, principal: impl Into<String>) {
        if let Some(event) = &mut self.event {
            event.principal = principal.into();
        }
    }

    /// On whose behalf the request is made, as far as it is known.
    pub fn principal(&self) -> &str {
        self.event.as_ref().map_or("", |event| &event.principal)
    }

    /// Notes the name that a client logs in with, whether it is one or not.
    pub fn login(&mut self, name: &str) {
        if let Some(event) = &mut self.event {
            event.object = format!("{}/{name}", event.object);
        }
    }

    /// Refuses a change that could not be recorded. A deletion gets the space that is kept for it.
    pub fn check_space(&self, method: &Method, metadata: &Metadata) -> Result<(), ApiError> {
        let reads = [Method::GET, Method::HEAD].contains(method);
        let given = || {
            let reserve = metadata.reserve().filter(|_| *method == Method::DELETE);
            reserve.is_some_and(|reserve| reserve.give_back()) && self.log.has_space()
        };
        match reads || self.log.has_space() || given() {
            true => Ok(()),
            false => Err(ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                ErrorCode::Denied,
                "the disk has no space for the audit log: nothing is changed until it has",
            )),
        }
    }

    /// Records how the request ended.
    pub async fn end(mut self, status: StatusCode) {
        let Some(mut event) = self.event.take() else { return };
        event.status = status.as_u16();
        if !self.is_routine || event.status >= StatusCode::BAD_REQUEST.as_u16() {
            self.log.record_together(event).await;
        }
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
