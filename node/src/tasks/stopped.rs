//! Whether a user has ended a task, which a restart policy remembers beyond a reboot.

use std::fs;

use super::folder::TaskFolder;
use crate::files;

/// There once a user has ended it, in a task's folder.
const STOPPED: &str = "stopped.json";

impl TaskFolder {
    /// A user has ended it: `unless-stopped` does not bring it back. A full disk is no obstacle.
    pub(crate) fn note_user_stop(&self) {
        let path = self.path().join(STOPPED);
        if let Err(error) = files::write_json(&path, &(), self.record().survives()) {
            tracing::warn!(%error, "a reboot may bring back a task that was stopped");
        }
    }

    /// Whether a user has ended it since its last start.
    pub(crate) fn was_stopped_by_user(&self) -> bool {
        self.path().join(STOPPED).exists()
    }

    /// A new start was not ended by a user yet.
    pub(crate) fn forget_user_stop(&self) {
        let _ = fs::remove_file(self.path().join(STOPPED));
    }
}
