use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

use super::{filesystem::ErrorCode, mounts::Handle};
use crate::limits::{STREAM_READ_BYTES_MAX, STREAM_WRITE_BYTES_MAX};

/// An error of a file that travels through a stream, to be asked for with `filesystem-error-code`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
pub(super) struct StreamFailure(pub ErrorCode);

fn failed(code: ErrorCode) -> StreamError {
    StreamError::LastOperationFailed(StreamFailure(code).into())
}

/// A file, read from front to back.
pub(super) struct Reading {
    pub handle: Arc<Handle>,
    pub at: u64,
}

#[async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {}
}

impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let bytes =
            self.handle.read_at(self.at, size.min(STREAM_READ_BYTES_MAX)).map_err(failed)?;
        if bytes.is_empty() && size > 0 {
            return Err(StreamError::Closed);
        }
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

/// A file, written from a place on, or at its end.
pub(super) struct Writing {
    pub handle: Arc<Handle>,
    /// `None` is the end, wherever it is by then.
    pub at: Option<u64>,
}

#[async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {}
}

impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let end = self.handle.write_at(self.at, &bytes).map_err(failed)?;
        if self.at.is_some() {
            self.at = Some(end);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STREAM_WRITE_BYTES_MAX)
    }
}
