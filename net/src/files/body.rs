use std::{
    fs::File,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Version, header, request::Parts};

/// In the extensions of a request whose response may have a [`FileBody`].
#[derive(Debug, Clone, Copy)]
pub struct TakesFiles(());

impl TakesFiles {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// The body of a response, in the extensions of that. The response has its `Content-Length`, and a
/// body of its own that is not read.
#[derive(Clone)]
pub struct FileBody(Arc<Mutex<Option<Region>>>);

/// Which bytes of a file, and what has to know of their way.
pub(crate) struct Region {
    pub file: File,
    pub at: u64,
    pub left: u64,
    pub end: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub sent: Box<dyn FnMut(u64) + Send>,
}

impl FileBody {
    /// `length` bytes of `file` from byte `start` on.
    pub fn new(file: File, start: u64, length: u64) -> Self {
        let end = Box::pin(std::future::pending());
        let region = Region { file, at: start, left: length, end, sent: Box::new(|_| ()) };
        Self(Arc::new(Mutex::new(Some(region))))
    }

    /// Breaks off when `end` is there.
    #[must_use]
    pub fn until(self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        self.change(|region| region.end = Box::pin(end));
        self
    }

    /// Calls `sent` with the number of bytes that were sent, again and again; it is dropped when no
    /// more are.
    #[must_use]
    pub fn observed(self, sent: impl FnMut(u64) + Send + 'static) -> Self {
        self.change(|region| region.sent = Box::new(sent));
        self
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        let mut length = 0;
        self.change(|region| length = region.left);
        length
    }

    fn change(&self, change: impl FnOnce(&mut Region)) {
        let mut region = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        region.as_mut().map(change);
    }

    pub(crate) fn take(&self) -> Option<Region> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether the connection goes on after the response to this request, so that a file can be sent on
/// it by others than hyper.
pub(crate) fn may_take(head: &Parts) -> bool {
    let closes = head.headers.get_all(header::CONNECTION).iter().any(|value| {
        let value = value.to_str().unwrap_or("close"); // what cannot be read is not relied on
        value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
    });
    head.version == Version::HTTP_11 && !closes
}
