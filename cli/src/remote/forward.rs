use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use orchestrator::Client;
use spec::{ContainerName, Frame, StreamEnd, TaskId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::broken;
use crate::output::{line, notice, printable};

/// Bytes of one frame.
const CHUNK_BYTES: usize = 32 << 10;
/// Connections at one time: each is a stream, and a browser opens six.
const CONNECTIONS_MAX: usize = 32;

/// A port of this machine, and the port of a container that it leads to.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded {
    pub address: IpAddr,
    /// 0 takes a free one.
    pub local: u16,
    pub remote: u16,
}

/// Listens here, and passes each connection on to a container, until this process is ended.
///
/// # Errors
/// When nothing can listen there, or the port cannot be reached at the beginning.
pub async fn forward(
    client: &Client,
    task: &TaskId,
    container: Option<&ContainerName>,
    forwarded: Forwarded,
) -> anyhow::Result<()> {
    let at = SocketAddr::new(forwarded.address, forwarded.local);
    let named = || format!("cannot listen on {at}");
    let listener = TcpListener::bind(at).await.with_context(named)?;
    // Whether it leads anywhere is known now, not at the first connection.
    drop(client.forward(task, container, forwarded.remote).await?);
    line(format_args!("{}", listener.local_addr().with_context(named)?));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { continue };
                let (client, task) = (client.clone(), task.clone());
                let container = container.cloned();
                connections.spawn(async move {
                    let passed = pass(&client, &task, container.as_ref(), forwarded.remote, stream);
                    if let Err(error) = passed.await {
                        notice(format_args!("{}", printable(&format!("{error:#}"))));
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass(
    client: &Client,
    task: &TaskId,
    container: Option<&ContainerName>,
    port: u16,
    stream: TcpStream,
) -> anyhow::Result<()> {
    let (sender, mut frames) = client.forward(task, container, port).await?;
    let (mut from_here, mut to_here) = stream.into_split();
    let up = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = from_here.read(&mut buffer).await.unwrap_or_default();
            let sent = sender.send(&Frame::Data(buffer[..read].to_vec())).await;
            if sent.is_err() || read == 0 {
                // The other direction may go on.
                return std::future::pending::<StreamEnd>().await;
            }
        }
    };
    let down = async {
        loop {
            match frames.next().await {
                Ok(Some(Frame::Data(bytes))) if bytes.is_empty() => {
                    let _ = to_here.shutdown().await;
                }
                Ok(Some(Frame::Data(bytes))) => {
                    if to_here.write_all(&bytes).await.is_err() {
                        return StreamEnd::default();
                    }
                }
                Ok(Some(Frame::End(end))) => return end,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    return StreamEnd { exit_code: None, fault: Some(super::no_word()) };
                }
            }
        }
    };
    let end = tokio::select! {
        end = up => end,
        end = down => end,
    };
    match broken(&end) {
        Some(fault) => Err(fault.clone().into()),
        None => Ok(()),
    }
}
