//! A word about an image that is being made ready, when that takes so long that a user wonders.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use crate::output::{notice, size};

/// What is done within this needs no word.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Says what takes so long, unless it is dropped before.
pub struct Preparing(#[expect(dead_code, reason = "its end is the message")] Sender<()>);

impl Preparing {
    /// An image of `bytes` is being made ready.
    pub fn of(bytes: u64) -> Self {
        let (sender, ended) = channel::<()>();
        thread::spawn(move || {
            if ended.recv_timeout(SILENT_FOR) == Err(RecvTimeoutError::Timeout) {
                notice(format_args!(
                    "Preparing the image ({}): checking its layers, making machine code. The next run \
                     finds both",
                    size(bytes)
                ));
            }
        });
        Self(sender)
    }
}
