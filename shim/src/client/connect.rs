//! The supervisor's side of what containers connect to.

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use engine::{BoxFuture, frame};
use spec::OutboundGrant;
use tokio::{runtime::Handle, task::spawn_blocking};

use crate::{
    Error, Task,
    limits::RETRY_TIME,
    protocol::{Brokered, Wanted},
};

/// Connects programs to hosts that they were granted, from outside of their networks.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Ports of the other containers of its task, which the program reaches on its own loopback.
    fn local_ports(&self) -> Vec<u16>;

    /// A connection to `host`, a name or an address, over which the program speaks what it likes.
    ///
    /// # Errors
    /// What is to be said in the log of the container.
    fn connect<'a>(
        &'a self,
        grants: &'a [OutboundGrant],
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<OwnedFd, String>>;
}

/// Connects the container of `task` to what it wants, for as long as it runs. A thread of its own:
/// it waits for that.
pub(crate) fn keep_connecting(
    task: Task,
    grants: Vec<OutboundGrant>,
    connector: Arc<dyn Connector>,
) -> Result<(), Error> {
    let (runtime, grants) = (Handle::current(), Arc::<[OutboundGrant]>::from(grants));
    let thread =
        std::thread::Builder::new().name("native-connect".to_owned()).stack_size(128 << 10);
    let connecting = move || {
        loop {
            let socket = match task.connections() {
                Ok(Some(socket)) => Arc::new(socket),
                Ok(None) => return,
                // It may be running, and we are out of descriptors.
                Err(_) => {
                    std::thread::sleep(RETRY_TIME);
                    continue;
                }
            };
            while let Ok(Some((wanted, _))) = frame::receive::<Wanted>(&*socket) {
                let (socket, connector) = (socket.clone(), connector.clone());
                runtime.spawn(answer(socket, connector, grants.clone(), wanted));
            }
            // It has ended, or another supervisor connects it now, whose end would be this one's
            // turn again.
            std::thread::sleep(RETRY_TIME);
        }
    };
    thread.spawn(connecting).map(drop).map_err(Error::io("connect a native container to others"))
}

async fn answer(
    socket: Arc<OwnedFd>,
    connector: Arc<dyn Connector>,
    grants: Arc<[OutboundGrant]>,
    Wanted { id, host, port }: Wanted,
) {
    let connected = connector.connect(&grants, &host, port).await;
    // The shim may be gone, which concerns the shim alone.
    let _ = spawn_blocking(move || match connected {
        Ok(remote) => frame::send(&*socket, &Brokered { id, refused: None }, &[remote.as_fd()]),
        Err(why) => frame::send(&*socket, &Brokered { id, refused: Some(why) }, &[]),
    })
    .await;
}
