//! hyper with nothing behind it: no host on hyper can be faster.

use std::{convert::Infallible, future::pending, path::Path};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
};

/// Answers every request with a body as long as adopt's `/whoami`, until killed; at a socket too,
/// where one is named.
pub fn serve(port: u16, socket: Option<&Path>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let socket = socket.map(UnixListener::bind).transpose()?;
        loop {
            let local = async {
                match &socket {
                    Some(socket) => socket.accept().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(answer(stream));
                }
                accepted = local => drop(tokio::spawn(answer(accepted?.0))),
            }
        }
    })
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|_| async {
        let body = Full::new(Bytes::from_static(br#"{"task":null,"node":null,"image":null}"#));
        Ok::<_, Infallible>(http::Response::new(body))
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
