use std::{net::TcpListener, os::unix::net::UnixListener};

use spec::InboundGrant;

use crate::{Assignment, worker::control::Control};

/// The listeners whose ports were granted. The others stay closed to the guest, and that is a
/// denial.
pub(crate) fn granted(
    assignment: &mut Assignment,
    control: &Control,
) -> (Vec<TcpListener>, Option<UnixListener>) {
    let grants = std::mem::take(&mut assignment.grants.inbound);
    let is_granted = |port| {
        let wanted = InboundGrant { port };
        let granted = grants.contains(&wanted);
        if !granted {
            control.deny(&wanted.to_string());
        }
        granted
    };
    let mut tcp = std::mem::take(&mut assignment.listeners);
    tcp.retain(|listener| is_granted(listener.container_port));
    let ingress = assignment.ingress.take().filter(|ingress| is_granted(ingress.container_port));
    (tcp.into_iter().map(|l| l.socket).collect(), ingress.map(|ingress| ingress.socket))
}
