//! Ports of the other containers of a task, which are reached at the loopback address as if all of
//! them had one network: each has a socket on this machine that leads to it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::UnixStream;

use crate::frame::{Refusal, Target};

/// The sockets of these ports.
#[derive(Debug, Clone, Default)]
pub struct LocalPorts(Arc<BTreeMap<u16, PathBuf>>);

impl FromIterator<(u16, PathBuf)> for LocalPorts {
    fn from_iter<I: IntoIterator<Item = (u16, PathBuf)>>(ports: I) -> Self {
        Self(Arc::new(ports.into_iter().collect()))
    }
}

impl LocalPorts {
    /// The ports.
    pub fn numbers(&self) -> Vec<u16> {
        self.0.keys().copied().collect()
    }

    pub(super) fn path(&self, target: &Target) -> Option<&Path> {
        let is_loopback = target.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        self.0.get(&target.port).filter(|_| is_loopback).map(PathBuf::as_path)
    }
}

/// A connection to one of them. What it reaches is a container of the same task, and takes no key.
pub(super) async fn connect(path: &Path, target: &Target) -> Result<OwnedFd, Refusal> {
    let unreachable = |error: std::io::Error| Refusal::Unreachable {
        why: format!("the container of this task that has port {} is not up: {error}", target.port),
    };
    let short = disk::SocketPath::of(path).map_err(unreachable)?;
    let stream = UnixStream::connect(&short).await.map_err(unreachable)?;
    Ok(stream.into_std().map_err(unreachable)?.into())
}
