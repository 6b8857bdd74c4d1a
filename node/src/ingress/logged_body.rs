use std::sync::Arc;

use net::{BodyObserver, ObservedBody};

use super::{access_entry::Entry, access_log::AccessLog, response_body::ResponseBody};

/// The line of one request, written when nothing of it goes on: also when its client has gone.
pub(super) struct Pending {
    pub entry: Entry,
    pub log: Arc<AccessLog>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.log.write(&self.entry);
    }
}

impl BodyObserver for Pending {
    fn sent(&mut self, bytes: u64) {
        self.entry.outcome.bytes += bytes;
    }

    fn ended(&mut self) {
        self.entry.outcome.is_whole = true;
    }
}

/// A response, counted for the access log where there is one.
pub(super) type LoggedBody = ObservedBody<ResponseBody, Option<Box<Pending>>>;
