use std::{convert::Infallible, future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    Connections, FileBody, HttpLimits, TakesFiles, WriteTimeout,
    activity::Activity,
    files::{FlushNoticed, HandOver, may_take, send},
    http1::http1_with,
    limits::FILE_BYTES_AHEAD,
    strict::{StrictService, StrictStream, Verdict},
};

/// Why hyper is done with a connection, for now or for good.
enum Left {
    Ended(hyper::Result<()>),
    /// The head of a response is out, and this is its body.
    File(FileBody),
}

impl Connections {
    /// As [`Connections::serve_http`], where responses may have a [`FileBody`] when their requests
    /// have [`TakesFiles`].
    pub async fn serve_http_and_files<H, B>(
        &self,
        stream: TcpStream,
        limits: HttpLimits,
        service: H,
    ) where
        H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (verdict, hand_over) = (Verdict::default(), Arc::<HandOver>::default());
        let offering = service_fn(|request| service.call(offer_files(request)));
        let activity = Activity::current();
        let strict = StrictService::new(&offering, &verdict, &activity);
        let strict = strict.with_files(Arc::clone(&hand_over));
        let stream = FlushNoticed { stream: Some(stream), hand_over: Arc::clone(&hand_over) };
        let mut stream =
            StrictStream::new(stream, limits.head_bytes_max, &self.heads, &verdict, &activity);
        // A token of its own, so that connections do not contend for the lock of one.
        let closing = self.closing.child_token();
        loop {
            let timed = TokioIo::new(WriteTimeout::new(stream, limits.write_time_max));
            let mut connection = http1_with(limits)
                .max_buf_size(FILE_BYTES_AHEAD)
                .serve_connection(timed, service_fn(|request| strict.answer(request)));
            let left = tokio::select! {
                biased;
                left = until_left(&mut connection, &hand_over) => left,
                () = closing.cancelled() => {
                    Pin::new(&mut connection).graceful_shutdown();
                    tokio::select! {
                        biased;
                        left = until_left(&mut connection, &hand_over) => left,
                        () = self.cut_off.cancelled() => return,
                    }
                }
            };
            let file = match left {
                Left::Ended(Ok(())) => return,
                Left::Ended(Err(error)) => {
                    return tracing::debug!(%error, "a connection ended early");
                }
                Left::File(file) => file,
            };
            let http1::Parts { io, read_buf, .. } = connection.into_parts();
            stream = io.into_inner().into_inner();
            stream.put_back(&read_buf);
            let socket = stream.get_mut().stream.take();
            let (Some(socket), Some(region)) = (socket, file.take()) else { return };
            let sent = self
                .cut_off
                .run_until_cancelled(send(socket, region, limits.write_time_max, &activity))
                .await;
            match sent {
                Some(Ok(socket)) if !closing.is_cancelled() => {
                    activity.rest();
                    stream.get_mut().stream = Some(socket);
                }
                Some(Err(error)) => {
                    return tracing::debug!(%error, "a connection ended within a file");
                }
                Some(Ok(_)) | None => return,
            }
        }
    }
}

/// Drives `connection` until its end, or until it has written the head of a file.
async fn until_left<C>(connection: &mut C, hand_over: &HandOver) -> Left
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Left::Ended(ended)),
        Poll::Pending => {
            hand_over.take_file().map_or(Poll::Pending, |file| Poll::Ready(Left::File(file)))
        }
    })
    .await
}

fn offer_files(request: Request<Incoming>) -> Request<Incoming> {
    let (mut head, body) = request.into_parts();
    if may_take(&head) && body.is_end_stream() {
        head.extensions.insert(TakesFiles::new());
    }
    Request::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Write,
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use http::header;
    use http_body_util::Full;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Notify,
        task::JoinHandle,
        time::{sleep, timeout},
    };

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    /// More than two sockets hold.
    const BYTES: usize = 24 << 20;

    fn contents() -> Vec<u8> {
        (0..BYTES as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// What a server has sent of its files, and what ends them.
    #[derive(Default)]
    struct Seen {
        sent: AtomicU64,
        ended: AtomicU64,
        revoked: Notify,
    }

    /// Counts when it is dropped.
    struct End(Arc<Seen>);

    impl Drop for End {
        fn drop(&mut self) {
            self.0.ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The file but for its first byte, where one is taken; its length where none is.
    fn answer(request: &Request<Incoming>, file: &File, seen: &Arc<Seen>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/file" || request.extensions().get::<TakesFiles>().is_none() {
            return Response::new(Full::from("small"));
        }
        let (counting, revoking) = (End(Arc::clone(seen)), Arc::clone(seen));
        let body = FileBody::new(file.try_clone().unwrap(), 1, BYTES as u64 - 1)
            .observed(move |bytes| {
                counting.0.sent.fetch_add(bytes, Ordering::SeqCst);
            })
            .until(async move { revoking.revoked.notified().await });
        let mut response = Response::new(Full::default());
        response.headers_mut().insert(header::CONTENT_LENGTH, (BYTES - 1).into());
        response.extensions_mut().insert(body);
        response
    }

    /// A connection to a server that gives a file.
    async fn connect(
        connections: &Connections,
        write_time_max: Duration,
    ) -> (TcpStream, Arc<Seen>, JoinHandle<()>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&contents()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (connections, seen) = (connections.clone(), Arc::<Seen>::default());
        let seeing = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &file, &seeing);
                async { Ok::<_, Infallible>(response) }
            });
            let limits = HttpLimits::with_times(MINUTE, write_time_max);
            connections.serve_http_and_files(server, limits, service).await;
        });
        (client, seen, serving)
    }

    async fn read(client: &mut TcpStream) -> Vec<u8> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(MINUTE, client.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").parse().unwrap()];
        timeout(MINUTE, client.read_exact(&mut body)).await.unwrap().unwrap();
        body
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_is_a_body_like_any_other_and_the_connection_goes_on() {
        let (mut client, seen, serving) = connect(&Connections::new(), MINUTE).await;
        let file = "GET /file HTTP/1.1\r\nhost: a\r\n\r\n";
        let small = "GET /small HTTP/1.1\r\nhost: a\r\n\r\n";
        let posted = "POST /file HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";
        let closing = "GET /file HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Close\r\n\r\n";
        // All at once: what hyper has read ahead of the file is not lost.
        let all = [file, small, file, file, posted, closing].concat();
        client.write_all(all.as_bytes()).await.unwrap();
        let contents = contents();
        for small in [false, true, false, false, true, true] {
            let body = read(&mut client).await;
            match small {
                true => assert_eq!(body, b"small"),
                false => assert!(body == contents[1..], "it has {} bytes", body.len()),
            }
        }
        assert_eq!(timeout(MINUTE, client.read(&mut [0])).await.unwrap().unwrap(), 0, "closed");
        serving.await.unwrap();
        assert_eq!(seen.sent.load(Ordering::SeqCst), 3 * (BYTES as u64 - 1));
        assert_eq!(seen.ended.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_that_is_refused_after_a_file_gets_its_refusal() {
        let (mut client, _, serving) = connect(&Connections::new(), MINUTE).await;
        let file = "GET /file HTTP/1.1\r\nhost: a\r\n\r\n";
        client
            .write_all([file, "GET / HTTP/1.1\r\nhost : a\r\n\r\n"].concat().as_bytes())
            .await
            .unwrap();
        read(&mut client).await;
        let mut rest = String::new();
        timeout(MINUTE, client.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert!(rest.starts_with("HTTP/1.1 400 "), "{rest}");
        serving.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_breaks_off_at_its_end_at_a_slow_peer_and_when_the_server_is_cut_off() {
        for (what, write_time_max) in [
            ("the right to it ends", MINUTE),
            ("the peer reads nothing", Duration::from_millis(50)),
            ("the server is cut off", MINUTE),
        ] {
            let connections = Connections::new();
            let (mut client, seen, serving) = connect(&connections, write_time_max).await;
            client.write_all(b"GET /file HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            client.read_u8().await.unwrap();
            match what {
                "the right to it ends" => seen.revoked.notify_one(),
                "the server is cut off" => {
                    connections.closing.cancel();
                    connections.cut_off.cancel();
                }
                _ => {}
            }
            timeout(MINUTE, serving).await.expect(what).unwrap();
            // The thread that sends has its piece to the end.
            let ended = async {
                while seen.ended.load(Ordering::SeqCst) == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(MINUTE, ended).await.expect(what);
            assert!(seen.sent.load(Ordering::SeqCst) < BYTES as u64 - 1, "{what}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_that_is_under_way_is_sent_whole_when_the_server_closes() {
        let connections = Connections::new();
        let (mut client, _, serving) = connect(&connections, MINUTE).await;
        client.write_all(b"GET /file HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.readable().await.unwrap();
        connections.closing().cancel();
        assert_eq!(read(&mut client).await.len(), BYTES - 1);
        timeout(MINUTE, serving).await.expect("the connection ends").unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
