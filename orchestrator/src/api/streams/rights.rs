use std::sync::Arc;

use spec::{CredentialName, NodeId, Tenant, wire::Fault};
use tokio::time::{interval, timeout};

use crate::{
    api::principal::Principal,
    limits::STREAM_CHECKED_EVERY,
    state::{State, now},
};

/// What must be so for as long as a stream goes on. Each request looks at its credential, and a
/// stream is one request for hours.
pub(crate) struct Rights {
    pub state: Arc<State>,
    pub principal: Principal,
    pub node: NodeId,
}

impl Rights {
    /// Waits until the stream may not go on. Why.
    pub async fn lapsed(&self) -> Fault {
        let mut next = interval(STREAM_CHECKED_EVERY);
        loop {
            next.tick().await;
            // A store that does not answer takes no right away.
            let looked = timeout(STREAM_CHECKED_EVERY, self.missing()).await;
            if let Ok(Ok(Some(fault))) = looked {
                return fault;
            }
        }
    }

    async fn missing(&self) -> Result<Option<Fault>, store::Error> {
        if !self.state.model().nodes.contains_key(&self.node) {
            let message = format!("node `{}` was removed: the stream ends", self.node);
            return Ok(Some(fault("node-removed", message, "see what there is: margay task ls")));
        }
        match &self.principal {
            Principal::Tenant { tenant, credential, serial, .. } => {
                let holds = self.holds(tenant, credential, serial).await?;
                Ok((!holds).then(|| ended(credential)))
            }
            Principal::Operator(_) | Principal::Unauthenticated | Principal::Node { .. } => {
                Ok(None)
            }
        }
    }

    async fn holds(
        &self,
        tenant: &Tenant,
        credential: &CredentialName,
        serial: &str,
    ) -> Result<bool, store::Error> {
        let stored = self.state.credential(tenant, credential).await?;
        let record = stored.map(|stored| stored.value);
        Ok(record.is_some_and(|record| record.serial == serial && record.is_valid(now())))
    }
}

/// Why a stream ends.
pub(super) fn fault(code: &str, message: String, hint: &str) -> Fault {
    Fault { code: code.to_owned(), message, hint: Some(hint.to_owned()) }
}

fn ended(credential: &CredentialName) -> Fault {
    let message = format!("credential `{credential}` is good no longer: the stream ends");
    fault("credential-ended", message, "get another one: margay credential create NAME")
}
