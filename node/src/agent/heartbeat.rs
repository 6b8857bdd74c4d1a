//! That this node is there: so that its tasks are replaced soon once it is not.

use std::time::Duration;

use spec::wire::{self, Heartbeat};
use tokio::time::sleep;

use super::{
    control::{Control, RETRY_AFTER},
    limits::{
        HEARTBEAT_AT_END, HEARTBEAT_EVERY, HEARTBEAT_TIME_MAX, LAST_REPORT_TIME_MAX, REPORT_EVERY,
    },
    process::Agent,
};
use crate::error::{Error, Result, chain};

impl Agent {
    /// Beside the reports, which are large and wait for each other.
    pub(super) async fn keep_heartbeat(&self) {
        let mut control = self.control();
        loop {
            let sent = match &control {
                Ok(control) => send(control, HEARTBEAT_EVERY, HEARTBEAT_TIME_MAX).await,
                // The reports tell of it.
                Err(error) => Err(Error::Identity(chain(error))),
            };
            match sent {
                Ok(()) => sleep(HEARTBEAT_EVERY).await,
                // It knows of no heartbeats, or not of this node.
                Err(Error::Refused(_)) => sleep(REPORT_EVERY).await,
                Err(_) => {
                    sleep(RETRY_AFTER).await;
                    control = self.control();
                }
            }
        }
    }

    /// Asks for time until the next agent is there.
    pub(super) async fn leave_for_the_next(&self) {
        let Ok(control) = self.control() else { return };
        // Without it the tasks may run twice for a while.
        let _ = send(&control, HEARTBEAT_AT_END, LAST_REPORT_TIME_MAX).await;
    }
}

async fn send(control: &Control, every: Duration, time_max: Duration) -> Result<()> {
    let next_ms = u32::try_from(every.as_millis()).unwrap_or(u32::MAX);
    let heartbeat = Heartbeat { version: wire::VERSION, next_ms };
    control.tell("/v1/node/heartbeat", &heartbeat, time_max).await
}
