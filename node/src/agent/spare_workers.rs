use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::causes::Causes;

/// Workers that have made their engine and wait for a task: with one at hand, a request to an
/// idle container is answered within milliseconds.
#[derive(Debug)]
pub(super) struct SpareWorkers {
    target: usize,
    waiting: Mutex<Vec<runtime::SpareWorker>>,
    taken: Notify,
    causes: Causes,
}

/// The start that has taken one should have the processor first.
const REFILL_AFTER: Duration = Duration::from_millis(20);
/// When none can be made at all.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl SpareWorkers {
    pub fn new(target: usize) -> Self {
        Self { target, waiting: Mutex::default(), taken: Notify::new(), causes: Causes::default() }
    }

    /// One that waits, if there is one.
    pub fn take(&self) -> Option<runtime::SpareWorker> {
        let found = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        self.taken.notify_one();
        found
    }

    /// Keeps as many waiting as there should be. Never ends.
    pub async fn refill(&self) {
        loop {
            while self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len() < self.target {
                let made =
                    tokio::task::spawn_blocking(
                        || runtime::SpareWorker::spawn(&Default::default()),
                    )
                    .await;
                match made {
                    Ok(Ok(worker)) => {
                        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(worker)
                    }
                    Ok(Err(error)) => {
                        match self.causes.is_new(&error.to_string()) {
                            true => tracing::warn!(%error, "no worker can be made in advance"),
                            false => tracing::debug!(%error, "no worker can be made in advance"),
                        }
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                    Err(_) => return, // the runtime shuts down
                }
            }
            self.taken.notified().await;
            tokio::time::sleep(REFILL_AFTER).await;
        }
    }
}
