use std::{
    io,
    path::{Path, PathBuf},
};

use net::FrameStream;
use spec::{Frame, StreamEnd, wire::Fault};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::Output;
use crate::{agent::limits::FORWARD_CONNECT_TIME_MAX, error::Result, ports, tasks::TaskFolder};

/// Bytes of one frame.
const CHUNK_BYTES: usize = 32 << 10;

type Connection = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Passes the bytes of one connection to `port` of a container, until either side has closed it.
/// `inside` is where the ingress of this node reaches the port.
pub(super) async fn relay(
    folder: TaskFolder,
    port: u16,
    inside: PathBuf,
    output: &Output,
    from_client: &mut FrameStream,
) -> Result<StreamEnd> {
    let connected = timeout(FORWARD_CONNECT_TIME_MAX, connect(&folder, port, &inside)).await;
    let (mut from_port, mut to_port) = match connected.unwrap_or_else(|_| Err(timed_out())) {
        Ok(connection) => connection,
        Err(error) => return Ok(refused(&folder, port, &error)),
    };
    if output.send(&Frame::Started).await.is_err() {
        return Ok(StreamEnd::default());
    }
    let down = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = from_port.read(&mut buffer).await {
            if output.send(&Frame::Data(buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
        let _ = output.send(&Frame::Data(Vec::new())).await;
    };
    let up = async {
        while let Ok(Some(frame)) = from_client.next().await {
            match frame {
                // A client that has said everything still reads.
                Frame::Data(bytes) if bytes.is_empty() => drop(to_port.shutdown().await),
                Frame::Data(bytes) if to_port.write_all(&bytes).await.is_err() => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        () = down => {}
        () = up => {}
    }
    Ok(StreamEnd::default())
}

async fn connect(folder: &TaskFolder, port: u16, inside: &Path) -> io::Result<Connection> {
    if let Some(address) = ports::address_of(folder, port) {
        let stream = TcpStream::connect(address).await?;
        let (read, write) = stream.into_split();
        return Ok((Box::new(read), Box::new(write)));
    }
    let short = disk::SocketPath::of(inside)?;
    let stream = UnixStream::connect(short.as_ref()).await?;
    let (read, write) = stream.into_split();
    Ok((Box::new(read), Box::new(write)))
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

fn refused(folder: &TaskFolder, port: u16, error: &io::Error) -> StreamEnd {
    let status = folder.status().ok().flatten();
    let ports = status.map(|status| status.ports).unwrap_or_default();
    // Datagrams are not forwarded.
    let shown = |port: &spec::PublishedPort| match port.transport.is_tcp() {
        true => port.container_port.to_string(),
        false => format!("{}, which is not forwarded", port.port()),
    };
    let ports: Vec<String> = ports.iter().map(shown).collect();
    let (message, hint) = match (error.kind(), ports.is_empty()) {
        (io::ErrorKind::NotFound, true) => (
            format!("port {port} is not open: the container has none"),
            "name it in the task definition: ports = [{ container_port = PORT }]".to_owned(),
        ),
        (io::ErrorKind::NotFound, false) => {
            (format!("port {port} is not open"), format!("it has: {}", ports.join(", ")))
        }
        _ => (
            format!("cannot connect to port {port} of the container: {error}"),
            "see whether it runs: margay task ls".to_owned(),
        ),
    };
    let fault = Fault { code: "no-port".to_owned(), message, hint: Some(hint) };
    StreamEnd { exit_code: None, fault: Some(fault) }
}
