use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    hub::Hub,
    protocol::{Answer, Frame, HEAD_BYTES, Order, Request, SOCKET, VERSION, json},
};
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
    pub fn open(task: &TaskFolder, hub: Option<Arc<Hub>>) -> Result<Self> {
        let path = task.path().join(SOCKET);
        let wrong = |source| Error::File { verb: "listen on", path: path.clone(), source };
        // One that was left by a supervisor that was killed.
        let _ = std::fs::remove_file(&path);
        let listener = disk::bind(&path).map_err(wrong)?;
        listener.set_nonblocking(true).map_err(wrong)?;
        let listener = UnixListener::from_std(listener).map_err(wrong)?;
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let serving = tokio::spawn(serve(listener, sender, hub));
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

async fn serve(listener: UnixListener, orders: mpsc::Sender<Order>, hub: Option<Arc<Hub>>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (orders, hub) = (orders.clone(), hub.clone());
                tokio::spawn(async move {
                    // A verb that leaves is no failure of the task.
                    let _ = answer(stream, orders, hub).await;
                    drop(permit);
                });
            }
            // Out of descriptors: some are given back in a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    orders: mpsc::Sender<Order>,
    hub: Option<Arc<Hub>>,
) -> io::Result<()> {
    let (frame, payload) =
        timeout(REQUEST_TIME_MAX, receive(&mut stream)).await.map_err(io::Error::other)??;
    if frame != Frame::Request {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let answer = match (json::<Request>(&payload), hub) {
        (Ok(Request { version: VERSION, order: Order::Attach(size) }), Some(hub)) => {
            if let Some(size) = size {
                hub.resize(size);
            }
            return attached(stream, orders, hub).await;
        }
        (Ok(Request { version: VERSION, order: Order::Attach(_) }), None) => Answer::NoStreams,
        (Ok(Request { version: VERSION, order }), _) => match orders.send(order).await {
            Ok(()) => Answer::Done,
            Err(_) => Answer::Refused("the task has ended".to_owned()),
        },
        _ => Answer::Refused("the task was started by another version of margay".to_owned()),
    };
    stream.write_all(&Frame::Answer.with_json(&answer)?).await
}

/// One terminal, until it leaves or the task has ended.
async fn attached(
    mut stream: UnixStream,
    orders: mpsc::Sender<Order>,
    hub: Arc<Hub>,
) -> io::Result<()> {
    let mut frames = hub.join();
    let answer = Answer::Streams { terminal: hub.terminal, input: hub.input };
    stream.write_all(&Frame::Answer.with_json(&answer)?).await?;
    let (mut from, mut to) = stream.into_split();
    let writer = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            to.write_all(&frame).await?;
        }
        io::Result::Ok(())
    });
    let read = async {
        loop {
            match receive(&mut from).await? {
                (Frame::Input, bytes) => match hub.signals_in(&bytes) {
                    Some(signal) => drop(orders.send(Order::Signal(signal)).await),
                    None => hub.write(&bytes).await,
                },
                (Frame::EndOfInput, _) => hub.close_input().await,
                (Frame::Request, bytes) => match json::<Request>(&bytes)?.order {
                    Order::Attach(_) => return Err(io::ErrorKind::InvalidData.into()),
                    order => {
                        if let Order::Resize(rows, columns) = order {
                            hub.resize((rows, columns));
                        }
                        let _ = orders.send(order).await;
                    }
                },
                _ => return Err::<(), _>(io::ErrorKind::InvalidData.into()),
            }
        }
    };
    tokio::pin!(writer);
    tokio::select! {
        written = &mut writer => written.map_err(io::Error::other)?,
        left = read => {
            writer.abort();
            left
        }
    }
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Frame, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let (frame, length) = Frame::of_head(head)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((frame, payload))
}
