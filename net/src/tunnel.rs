use std::{
    any::Any,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    time::sleep,
};
use tokio_util::io::InspectReader;

use crate::activity::Activity;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Where the bytes of a connection go once its last response was 101: in the extensions of that
/// response.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<End>>>);

/// The other end.
struct End {
    stream: Box<dyn Duplex>,
    idle_time_max: Duration,
    _held: Box<dyn Any + Send>,
}

impl Tunnel {
    /// To `stream`, for as long as bytes move within `idle_time_max`. `held` is dropped at its end.
    pub fn new(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        idle_time_max: Duration,
        held: impl Send + 'static,
    ) -> Self {
        let end = End { stream: Box::new(stream), idle_time_max, _held: Box::new(held) };
        Self(Arc::new(Mutex::new(Some(end))))
    }

    /// Moves bytes between the client and the other end until either has ended both ways. `early`
    /// is what the client has sent already.
    pub async fn run(self, early: &[u8], client: impl AsyncRead + AsyncWrite + Unpin) {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(End { stream, idle_time_max, _held }) = end else { return };
        // What it is idle for is known to its ends alone: it makes no room for others.
        Activity::current().ask();
        let moved = AtomicU64::new(0);
        let count = |_: &[u8]| _ = moved.fetch_add(1, Ordering::Relaxed);
        let (mut client, mut stream) =
            (InspectReader::new(client, count), InspectReader::new(stream, count));
        let relay = async {
            stream.write_all(early).await?;
            copy_bidirectional(&mut client, &mut stream).await
        };
        tokio::select! {
            ended = relay => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an upgraded connection broke");
                }
            }
            () = idle(&moved, idle_time_max) => tracing::debug!("an upgraded connection was idle"),
        }
    }
}

/// Ready when nothing moved for `time_max`.
async fn idle(moved: &AtomicU64, time_max: Duration) {
    const LOOKS: u32 = 4;
    let (mut before, mut quiet) = (moved.load(Ordering::Relaxed), 0);
    while quiet < LOOKS {
        sleep(time_max / LOOKS).await;
        let now = moved.load(Ordering::Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::Full;
    use hyper::{body::Incoming, service::service_fn};
    use tokio::{
        io::{AsyncReadExt, duplex},
        time::timeout,
    };

    use super::*;
    use crate::{Connections, HttpLimits};

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_connection_is_bytes_after_101_and_ends_with_its_server() {
        let (mut client, server) = duplex(1 << 16);
        let (near, mut far) = duplex(1 << 16);
        let tunnel = Tunnel::new(near, MINUTE, ());
        let connections = Connections::new();
        let serving = connections.clone();
        let serving = tokio::spawn(async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.extensions_mut().insert(tunnel.clone());
                async { Ok::<_, Infallible>(response) }
            });
            serving.serve_http(server, HttpLimits::with_times(MINUTE, MINUTE), answer).await;
        });
        let wish = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        client.write_all(wish).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(MINUTE, client.read_u8()).await.unwrap().unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
        let said = b"\x81\x05hello\n\n";
        client.write_all(said).await.unwrap();
        let mut heard = vec![0; said.len()];
        timeout(MINUTE, far.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, said);
        far.write_all(b"back").await.unwrap();
        timeout(MINUTE, client.read_exact(&mut heard[..4])).await.unwrap().unwrap();
        assert_eq!(&heard[..4], b"back");
        // It would never end by itself.
        timeout(MINUTE / 4, connections.drain(MINUTE)).await.expect("the drain ends at once");
        serving.await.unwrap();
        assert_eq!(timeout(MINUTE, client.read(&mut heard)).await.unwrap().unwrap(), 0);
    }
}
