//! Where the ingress of this node reaches a container: sockets in the folder that both share.

use engine::{Listener, Listeners};
use spec::{Port, Transport, wire::DesiredTask};

use crate::{
    error::Result,
    ingress::{IngressFolder, socket_name},
    launch::Launch,
};

/// Listens on what is not open yet.
pub(super) fn listen(
    folder: &IngressFolder,
    task: &DesiredTask,
    launch: &Launch,
    listeners: &mut Listeners,
) -> Result<()> {
    let inside = [
        (Transport::Tcp, launch.ingress_ports(), &mut listeners.ingress),
        (Transport::Udp, launch.framed_ports(), &mut listeners.framed),
    ];
    for (transport, ports, open) in inside {
        for number in ports {
            if open.iter().any(|listener| listener.container_port == number) {
                continue;
            }
            let name = socket_name(&task.tenant, &task.id, Port { number, transport });
            let socket = folder.listen(&name)?;
            open.push(Listener { container_port: number, socket });
        }
    }
    Ok(())
}

/// Takes the names of `listeners` away.
pub(super) fn unlink(folder: &IngressFolder, task: &DesiredTask, listeners: Listeners) {
    let Listeners { ingress, framed, .. } = listeners;
    for (transport, closed) in [(Transport::Tcp, ingress), (Transport::Udp, framed)] {
        for listener in closed {
            let port = Port { number: listener.container_port, transport };
            folder.unlink(&socket_name(&task.tenant, &task.id, port));
        }
    }
}
