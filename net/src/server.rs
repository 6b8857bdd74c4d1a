use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ConnectionLimits, ConnectionPermit, Listener,
    activity::Activity,
    limits::{ACCEPT_PAUSE, HANDSHAKE_TIME_MAX, HEAD_BYTES_MAX},
    strict::HeldHeads,
};

/// The first byte of a connection that speaks TLS: the type of its record.
const TLS_HANDSHAKE: u8 = 0x16;

/// The connections of one server, and how they come to an end.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    pub(crate) tasks: TaskTracker,
    /// No further request on any connection.
    pub(crate) closing: CancellationToken,
    /// Not even the end of this one.
    pub(crate) cut_off: CancellationToken,
    pub(crate) heads: Arc<HeldHeads>,
}

/// How long one HTTP/1.1 connection may take for what.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// For the head of a request, and how long an idle connection is kept.
    pub head_time_max: Duration,
    /// Between two writes that the client takes something of.
    pub write_time_max: Duration,
    /// Of a request's head, and of what is read ahead of a body: each connection may hold so much.
    pub head_bytes_max: usize,
}

impl HttpLimits {
    /// For servers of any client, with heads as large as browsers and registries' clients send.
    pub const fn with_times(head_time_max: Duration, write_time_max: Duration) -> Self {
        Self { head_time_max, write_time_max, head_bytes_max: HEAD_BYTES_MAX }
    }
}

/// What a client speaks on a port that has a certificate.
pub enum Negotiated {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

impl Connections {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts connections for as long as it is polled, each with its permit, and runs `handle`
    /// for each in a task, which ends when another connection needs its place more. A failed accept
    /// is waited out: it is a shortage of the kernel.
    pub async fn accept<L: Listener, F>(
        &self,
        listener: &L,
        limits: &ConnectionLimits,
        handle: impl Fn(L::Stream, Option<IpAddr>, ConnectionPermit) -> F,
    ) -> Infallible
    where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let activity = Arc::new(Activity::default());
                    let Some(permit) = limits.admit_from(from, &activity).await else {
                        tracing::debug!(?from, "closed: its address has enough connections");
                        continue;
                    };
                    let serving = activity.clone().scope(handle(stream, from, permit));
                    activity.served_by(self.tasks.spawn(serving).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The TLS handshake of a connection; nothing when it fails, takes too long, or the server
    /// closes.
    pub async fn handshake<S>(&self, acceptor: &TlsAcceptor, stream: S) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream));
        match self.closing.run_until_cancelled(handshake).await? {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("a TLS handshake took too long");
                None
            }
        }
    }

    /// As [`Connections::handshake`], for a client that may speak plain HTTP as well: its first
    /// byte tells, which has to come within `first_time_max`.
    pub async fn negotiate(
        &self,
        acceptor: &TlsAcceptor,
        stream: TcpStream,
        first_time_max: Duration,
    ) -> Option<Negotiated> {
        let mut first = [0];
        let peek = timeout(first_time_max, stream.peek(&mut first));
        match self.closing.run_until_cancelled(peek).await? {
            Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
                let stream = self.handshake(acceptor, stream).await?;
                Some(Negotiated::Tls(Box::new(stream)))
            }
            Ok(Ok(1)) => Some(Negotiated::Plain(stream)),
            _ => None,
        }
    }

    /// Cancelled when the server closes: for what runs beside connections, and for responses that
    /// wait for news.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Runs `task` beside the connections; it ends when [`Connections::closing`] says so.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Lets what is under way finish within `time_max`, and cuts off the rest.
    pub async fn drain(self, time_max: Duration) {
        self.tasks.close();
        self.closing.cancel();
        if timeout(time_max, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "cut off after {time_max:?}");
            self.cut_off.cancel();
        }
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::{body::Incoming, service::service_fn};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::watch,
        task::JoinHandle,
    };

    use super::*;
    use crate::limits::{EVICTION_PAUSE, NEW_TIME_MIN};

    /// A server whose responses wait until they are released, those of `/stuck` for ever.
    struct TestServer {
        address: std::net::SocketAddr,
        connections: Connections,
        arrived: watch::Receiver<usize>,
        release: watch::Sender<bool>,
        accepting: JoinHandle<()>,
    }

    async fn serve(limits: ConnectionLimits) -> TestServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new();
        let (arrival, arrived) = watch::channel(0);
        let (release, released) = watch::channel(false);
        let accept = connections.clone();
        let accepting = tokio::spawn(async move {
            let accepted = |stream, _, permit| {
                let (connections, arrival) = (accept.clone(), arrival.clone());
                let released = released.clone();
                async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let mut released = released.clone();
                        arrival.send_modify(|count| *count += 1);
                        async move {
                            let stuck = request.uri().path() == "/stuck";
                            let _ = released.wait_for(|released| *released && !stuck).await;
                            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
                        }
                    });
                    let minute = Duration::from_secs(60);
                    let limits = HttpLimits::with_times(minute, minute);
                    connections.serve_http(stream, limits, service).await;
                    drop(permit);
                }
            };
            match accept.accept(&listener, &limits, accepted).await {}
        });
        TestServer { address, connections, arrived, release, accepting }
    }

    async fn send(server: &mut TestServer, path: &str) -> TcpStream {
        let before = *server.arrived.borrow();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let arrived = server.arrived.wait_for(|count| *count > before);
        timeout(Duration::from_secs(5), arrived).await.expect("the request arrives").unwrap();
        stream
    }

    async fn read(mut stream: TcpStream) -> String {
        let mut text = String::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await;
        let _ = read.expect("the connection ends"); // a reset is an end too
        text
    }

    #[tokio::test]
    async fn a_drain_finishes_requests_and_cuts_off_those_that_do_not_end() {
        let mut server = serve(ConnectionLimits::in_all(10)).await;
        let (slow, stuck) = (send(&mut server, "/").await, send(&mut server, "/stuck").await);
        server.accepting.abort();
        let draining = tokio::spawn(server.connections.drain(Duration::from_millis(300)));
        server.release.send_replace(true);
        assert!(read(slow).await.ends_with("done"), "a request in progress is finished");
        assert_eq!(read(stuck).await, "");
        timeout(Duration::from_secs(5), draining).await.expect("the drain ends").unwrap();
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_of_its_address_is_closed_until_another_ends() {
        let mut server = serve(ConnectionLimits::new(3, 2)).await;
        let (first, _second) = (send(&mut server, "/").await, send(&mut server, "/").await);
        let third = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(read(third).await, "", "closed without a response");
        drop(first);
        server.release.send_replace(true);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            let mut next = TcpStream::connect(server.address).await.unwrap();
            let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let _ = next.write_all(request.as_bytes()).await;
            if read(next).await.ends_with("done") {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "its permit is not given back");
        }
    }

    /// Whether another connection from `from` is answered, with what it has to keep it open.
    async fn ask(server: &TestServer, from: u8, sent: &str) -> Option<TcpStream> {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, from], 0).into()).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.ok()?;
        let mut start = [0; 12];
        let answered = timeout(Duration::from_secs(4), stream.read_exact(&mut start)).await;
        matches!(answered, Ok(Ok(_))).then_some(stream)
    }

    #[tokio::test]
    async fn connections_without_a_use_make_room_for_those_with_one() {
        const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let body = "POST /stuck HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
        for (what, sent) in [
            ("nothing", ""),
            ("the beginning of a head", "GET / HTTP/1.1\r\nhost"),
            ("a request that was answered", GET),
            ("the beginning of a body", body),
        ] {
            let server = serve(ConnectionLimits::new(8, 4)).await;
            server.release.send_replace(true);
            let mut held = vec![ask(&server, 9, GET).await.expect("there is room")];
            for n in 0..7 {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind(([127, 0, 0, 1 + n / 4], 0).into()).unwrap();
                let mut stream = socket.connect(server.address).await.unwrap();
                stream.write_all(sent.as_bytes()).await.unwrap();
                if sent == GET {
                    stream.read_exact(&mut [0; 12]).await.unwrap();
                }
                held.push(stream);
            }
            for n in 0..16 {
                held.push(ask(&server, 10 + n % 4, GET).await.expect(what));
            }
            // The one connection of an address was idle for the longest time of all.
            held[0].write_all(GET.as_bytes()).await.unwrap();
            let again = timeout(Duration::from_secs(4), held[0].read_exact(&mut [0; 12])).await;
            assert!(matches!(again, Ok(Ok(_))), "{what}: an address with one keeps it");
        }
    }

    #[tokio::test]
    async fn an_address_takes_a_new_connection_for_one_of_its_own_and_none_under_way() {
        let mut server = serve(ConnectionLimits::new(8, 2)).await;
        let under_way = send(&mut server, "/").await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        // It keeps its place for a moment: its request may wait to be read.
        let early = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(read(early).await, "", "the first two are not closed for the third");
        sleep(NEW_TIME_MIN + EVICTION_PAUSE).await;
        let next = send(&mut server, "/").await;
        assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0, "it made room");
        let third = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(read(third).await, "", "both have a request now");
        server.release.send_replace(true);
        for mut stream in [under_way, next] {
            let mut start = [0; 12];
            let answered = timeout(Duration::from_secs(4), stream.read_exact(&mut start)).await;
            answered.expect("it is answered").unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_a_pipe_of_bytes_makes_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let connections = Connections::new();
            let accepted = |client: TcpStream, _, permit| async move {
                let (near, far) = tokio::io::duplex(64);
                let (mut read, mut write) = tokio::io::split(far);
                let echo =
                    tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
                crate::Tunnel::new(near, Duration::from_secs(60), permit).run(&[], client).await;
                echo.abort();
            };
            match connections.accept(&listener, &ConnectionLimits::new(2, 2), accepted).await {}
        });
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"a").await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            held.push(stream);
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let mut waiting = socket.connect(address).await.unwrap();
        waiting.write_all(b"a").await.unwrap();
        let answered = timeout(Duration::from_millis(500), waiting.read(&mut [0])).await;
        assert!(answered.is_err(), "it waits for its turn");
        for stream in &mut held {
            stream.write_all(b"b").await.unwrap();
            stream.read_exact(&mut [0]).await.expect("an idle pipe is not closed");
        }
        drop(held);
        let answered = timeout(Duration::from_secs(4), waiting.read_exact(&mut [0])).await;
        answered.expect("it has its turn").unwrap();
        accepting.abort();
    }
}
