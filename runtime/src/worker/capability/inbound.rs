use engine::Listeners;
use spec::{InboundGrant, Port};

use crate::{Assignment, worker::control::Control};

/// The listeners whose ports were granted. The others stay closed to the guest, and that is a
/// denial.
pub(crate) fn granted(assignment: &mut Assignment, control: &Control) -> Listeners {
    let grants = std::mem::take(&mut assignment.grants.inbound);
    let is_granted = |port| {
        let wanted = InboundGrant { port: Port::tcp(port) };
        let granted = grants.contains(&wanted);
        if !granted {
            control.deny(&wanted.to_string());
        }
        granted
    };
    let mut listeners = std::mem::take(&mut assignment.listeners);
    listeners.published.retain(|listener| is_granted(listener.container_port));
    listeners.ingress.retain(|listener| is_granted(listener.container_port));
    listeners
}
