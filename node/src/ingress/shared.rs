use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use net::UntrustedServer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    limits::{
        IDLE_TIME_MAX, UPSTREAM_STREAMS_MAX, UPSTREAM_WINDOW_BYTES, UPSTREAM_WINDOW_BYTES_ALL,
    },
    request_body::RequestBody,
    table::Target,
};

pub(super) type Sender = SendRequest<RequestBody>;

/// Connections of HTTP/2, each with the requests of many clients.
#[derive(Default)]
pub(super) struct SharedConnections(Mutex<HashMap<Target, Arc<Connections>>>);

/// Those to one target. Locked while one more is opened, so that a burst of requests opens one.
type Connections = tokio::sync::Mutex<Vec<Connection>>;

struct Connection {
    sender: Sender,
    /// One more for each request.
    requests: Arc<()>,
    last_used: Instant,
}

/// The place of one request on a connection.
pub(super) struct SharedStream {
    pub sender: Sender,
    /// Whether the connection was there before, so that the replica may have closed it meanwhile.
    pub used: bool,
    _counted: Arc<()>,
}

impl Connection {
    fn requests(&self) -> usize {
        Arc::strong_count(&self.requests) - 1
    }

    fn stream(&mut self, used: bool) -> SharedStream {
        self.last_used = Instant::now();
        SharedStream { sender: self.sender.clone(), used, _counted: self.requests.clone() }
    }

    fn is_kept(&self) -> bool {
        let is_used = self.requests() > 0 || self.last_used.elapsed() < IDLE_TIME_MAX;
        !self.sender.is_closed() && is_used
    }
}

impl SharedConnections {
    /// A place on a connection that is there, unless it must be a new one, or on one that `connect`
    /// opens.
    pub async fn stream(
        &self,
        target: &Target,
        must_be_new: bool,
        connect: impl Future<Output = io::Result<Sender>>,
    ) -> io::Result<SharedStream> {
        let connections = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(target.clone()).or_default().clone()
        };
        let mut connections = connections.lock().await;
        connections.retain(Connection::is_kept);
        let free = connections.iter_mut().filter(|one| one.requests() < UPSTREAM_STREAMS_MAX);
        if let Some(least) = free.min_by_key(|one| one.requests()).filter(|_| !must_be_new) {
            return Ok(least.stream(true));
        }
        let sender = connect.await?;
        let mut new = Connection { sender, requests: Arc::default(), last_used: Instant::now() };
        let stream = new.stream(false);
        connections.push(new);
        Ok(stream)
    }

    /// Closes connections that were idle for long.
    pub fn close_idle(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, connections| match connections.try_lock() {
            Ok(mut connections) => {
                connections.retain(Connection::is_kept);
                !connections.is_empty()
            }
            Err(_) => true, // one is opened right now
        });
    }
}

/// Speaks HTTP/2 from the first byte.
pub(super) async fn open<S>(stream: S) -> io::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(UPSTREAM_WINDOW_BYTES)
        .initial_connection_window_size(UPSTREAM_WINDOW_BYTES_ALL)
        .max_header_list_size(64 << 10)
        .max_send_buf_size(64 << 10)
        .handshake(TokioIo::new(UntrustedServer::new(stream)))
        .await
        .map_err(io::Error::other)?;
    // Ends when all senders are dropped or the replica closes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a shared connection to a replica broke");
        }
    });
    Ok(sender)
}
