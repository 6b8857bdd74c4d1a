//! Machines for a journey: network namespaces on one bridge, made by root and gone at the end.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::stage::Stage;

/// So many machines, 10.77.0.1 and on, and a client at 10.77.0.100.
pub struct Network {
    hub: String,
    machines: Vec<String>,
}

impl Network {
    /// `None`, with a word about it, without the rights or the kernel for it.
    pub fn of(count: usize) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("margay-{}-{number}", std::process::id());
        let machines = (1..=count).map(|number| format!("{prefix}-{number}")).collect();
        let network = Self { hub: format!("{prefix}-hub"), machines };
        match network.make() {
            true => Some(network),
            false => {
                println!("SKIPPED: it takes root and iproute2 to make network namespaces");
                None
            }
        }
    }

    fn make(&self) -> bool {
        let hub = self.hub.as_str();
        let bridge = ip(&["netns", "add", hub])
            && ip(&["-n", hub, "link", "add", "br0", "type", "bridge"])
            && ip(&["-n", hub, "addr", "add", "10.77.0.100/24", "dev", "br0"])
            && ip(&["-n", hub, "link", "set", "br0", "up"])
            && ip(&["-n", hub, "link", "set", "lo", "up"]);
        bridge
            && self.machines.iter().enumerate().all(|(index, machine)| {
                let (port, address) = (port(index), format!("{}/24", Self::address(index)));
                let link = ["link", "add", "eth0", "netns", machine, "type", "veth"];
                ip(&["netns", "add", machine])
                    && ip(&[&link[..], &["peer", "name", &port, "netns", hub]].concat())
                    && ip(&["-n", hub, "link", "set", &port, "master", "br0", "up"])
                    && ip(&["-n", machine, "addr", "add", &address, "dev", "eth0"])
                    && ip(&["-n", machine, "link", "set", "eth0", "up"])
                    && ip(&["-n", machine, "link", "set", "lo", "up"])
            })
    }

    pub fn address(index: usize) -> String {
        format!("10.77.0.{}", index + 1)
    }

    /// A home whose processes run on a machine.
    pub fn stage(&self, index: usize) -> Stage {
        let mut stage = Stage::new();
        let namespace = format!("--net=/run/netns/{}", self.machines[index]);
        let program = env!("CARGO_BIN_EXE_margay").to_owned();
        stage.start_by(vec!["nsenter".to_owned(), namespace, program]);
        stage
    }

    /// Pulls the plug of a machine, or puts it back.
    pub fn connect(&self, index: usize, connected: bool) {
        let state = if connected { "up" } else { "down" };
        assert!(ip(&["-n", &self.hub, "link", "set", &port(index), state]), "a link goes {state}");
    }

    /// Moves this thread to where the client is.
    pub fn enter(&self) {
        let namespace = File::open(format!("/run/netns/{}", self.hub)).expect("a namespace");
        // SAFETY: the descriptor is open, and the call moves this thread and nothing else.
        let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.machines.iter().chain([&self.hub]) {
            ip(&["netns", "del", namespace]);
        }
    }
}

fn port(index: usize) -> String {
    format!("port{index}")
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
