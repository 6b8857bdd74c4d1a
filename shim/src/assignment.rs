use std::{io, os::fd::OwnedFd};

use spec::ImageConfig;

use crate::{
    Error, Layer, RootAccess, Runtime, Settings,
    protocol::{ProgramMessage, ShimMessage},
};

/// What a native container is handed beyond what all kinds are. Times of its limits are those of
/// the whole container. Linux cannot grant `w` on a volume without `d`; `x` is to run programs
/// from it.
#[derive(Debug)]
pub struct NativeProgram {
    /// How the image wants to be run.
    pub config: ImageConfig,
    /// Lowest first, as [`Layers::unpacked`](crate::Layers::unpacked) gave them.
    pub layers: Vec<Layer>,
    pub runtime: Runtime,
    /// Share of a processor in thousandths; all of them when left out.
    pub cpu_millis: Option<u32>,
    pub settings: Settings,
    pub root: RootAccess,
    /// Whose it is: those of two owners never have the same users.
    pub owner: String,
    /// Ports of the other containers of its task, which it reaches on its own loopback.
    pub local_ports: Vec<u16>,
}

pub type Assignment = engine::Assignment<NativeProgram>;

/// Splits an assignment into what is said and what is handed over.
pub(crate) fn split(assignment: Assignment) -> (ShimMessage, Vec<OwnedFd>) {
    assignment.split(|program, _| ProgramMessage {
        config: program.config,
        layers: program.layers.iter().map(|layer| layer.folder().to_owned()).collect(),
        runtime: program.runtime,
        cpu_millis: program.cpu_millis,
        settings: program.settings,
        root: program.root,
        owner: program.owner,
        local_ports: program.local_ports,
    })
}

/// Puts both together again, on the shim's side. It holds the layers from here on: no sweep removes
/// them under a container that runs.
pub(crate) fn join(message: ShimMessage, fds: Vec<OwnedFd>) -> Result<Assignment, Error> {
    let joined = message.join(fds, |program, _| {
        let layers = program.layers.iter().map(|folder| Layer::hold(folder));
        Ok(NativeProgram {
            layers: layers.collect::<Result<_, _>>().map_err(io::Error::other)?,
            config: program.config,
            runtime: program.runtime,
            cpu_millis: program.cpu_millis,
            settings: program.settings,
            root: program.root,
            owner: program.owner,
            local_ports: program.local_ports,
        })
    });
    joined.map_err(Error::io("take the assignment"))
}
