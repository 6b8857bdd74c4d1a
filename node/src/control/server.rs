use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::protocol::{Answer, Frame, HEAD_BYTES, Order, Request, SOCKET, VERSION, json};
use crate::{
    error::{Error, Result},
    tasks::TaskFolder,
};

/// Connections at once: a terminal or two, and the verbs of a script.
const CONNECTIONS_MAX: usize = 32;
/// Orders that wait for the driver, which takes them at once unless it starts a container.
const ORDERS_MAX: usize = 16;
/// A verb sends its request whole.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// Orders for one task, from its control socket. Removed from the folder when this is dropped.
pub(crate) struct Server {
    orders: mpsc::Receiver<Order>,
    serving: tokio::task::JoinHandle<()>,
    path: std::path::PathBuf,
}

impl Server {
    /// Listens in the folder of a task. Needs a runtime.
    pub fn open(task: &TaskFolder) -> Result<Self> {
        let path = task.path().join(SOCKET);
        let wrong = |source| Error::File { verb: "listen on", path: path.clone(), source };
        // One that was left by a supervisor that was killed.
        let _ = std::fs::remove_file(&path);
        let listener = disk::bind(&path).map_err(wrong)?;
        listener.set_nonblocking(true).map_err(wrong)?;
        let listener = UnixListener::from_std(listener).map_err(wrong)?;
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let serving = tokio::spawn(serve(listener, sender));
        Ok(Self { orders, serving, path })
    }

    /// The next order. Cancel-safe.
    pub async fn next(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let orders = orders.clone();
                tokio::spawn(async move {
                    // A verb that leaves is no failure of the task.
                    let _ = answer(stream, orders).await;
                    drop(permit);
                });
            }
            // Out of descriptors: some are given back in a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: UnixStream, orders: mpsc::Sender<Order>) -> io::Result<()> {
    let (frame, payload) =
        timeout(REQUEST_TIME_MAX, receive(&mut stream)).await.map_err(io::Error::other)??;
    let answer = match frame {
        Frame::Request => match json::<Request>(&payload) {
            Ok(Request { version: VERSION, order }) => match orders.send(order).await {
                Ok(()) => Answer::Done,
                Err(_) => Answer::Refused("the task has ended".to_owned()),
            },
            _ => Answer::Refused("the task was started by another version of margay".to_owned()),
        },
        Frame::Answer => return Err(io::ErrorKind::InvalidData.into()),
    };
    stream.write_all(&Frame::Answer.with_json(&answer)?).await
}

async fn receive(stream: &mut UnixStream) -> io::Result<(Frame, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let (frame, length) = Frame::of_head(head)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((frame, payload))
}
