use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::{
    connection::Connection,
    limits::{IDLE_MAX, IDLE_TIME_MAX},
};

/// Connections to one target that wait for their next request.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<(Connection, Instant)>>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// The one that was used last. Whether it is alive is seen when it is used.
    pub fn take(&self) -> Option<Connection> {
        let (connection, since) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        (since.elapsed() < IDLE_TIME_MAX).then_some(connection)
    }

    /// Keeps `connection` for the next request.
    pub fn keep(&self, mut connection: Connection) {
        connection.rest();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < IDLE_MAX {
            kept.push((connection, Instant::now()));
        }
    }

    /// Closes those that were idle for long, and those that the replica has closed.
    pub fn close_idle(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain_mut(|(connection, since)| {
            since.elapsed() < IDLE_TIME_MAX && connection.is_alive()
        });
    }
}
