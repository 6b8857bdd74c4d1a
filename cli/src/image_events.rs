//! What happens to images, for the log of events.

use node::events::{self, Event, Subject};
use spec::{Digest, Reference};

use crate::home::Home;

/// Appends that `action` happened to the image `name`.
pub fn record(home: &Home, action: &str, name: &Reference, digest: Digest) {
    let event = Event::of(Subject::Image, action, &digest.to_string());
    events::record(home.node(), event.with("name", name));
}
