use std::{collections::BTreeMap, fs::File, io, os::fd::OwnedFd};

use engine::{AssignmentMessage, Slots};
use serde::{Deserialize, Serialize};
use spec::SecretName;

/// Which of the two worlds a program is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// `wasi:http`: a fresh instance answers each request.
    Http,
    /// `wasi:cli`: it runs once, to its end.
    Command,
}

/// What a Wasm container is handed beyond what all kinds are.
#[derive(Debug)]
pub struct WasmProgram {
    pub world: World,
    /// Variables that the image itself carries: no grant is needed for what the guest was built
    /// with. Of those from outside, the ones without an `env:` grant are left out, and that is
    /// reported as a denial.
    pub image_env: BTreeMap<String, String>,
    /// The folder that relative paths start from.
    pub working_dir: String,
    /// Files under `/run/secrets`, by name. Only those with a `secret:` grant appear.
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
    /// Whether its program is not to run: it serves clients that copy files, until it is stopped.
    pub files_only: bool,
    /// Whether its broker learns what it uses, and alone decides about connections.
    pub learns: bool,
    /// Its machine code, open for reading.
    pub code: File,
    /// The index over the layers, open for reading.
    pub index: File,
    /// The lines of its source, open for reading, where it has them.
    pub lines: Option<File>,
    /// The uncompressed layer tars in the index's order, open for reading.
    pub layers: Vec<File>,
}

pub type Assignment = engine::Assignment<WasmProgram>;

/// What a worker has of its container's folder: it opens none itself.
#[derive(Debug)]
pub(crate) struct FolderFiles {
    /// Opened for appending, and for reading too, so that the worker can keep the last lines when
    /// the log is full.
    pub log: Option<File>,
    /// Where its usage is counted; see [`usage::create`](crate::usage::create).
    pub usage: File,
    /// Where a later agent finds it. Without it the worker ends with its supervisor, however that
    /// ends.
    pub adoption: Option<OwnedFd>,
    /// Where clients of `exec` find it.
    pub exec: OwnedFd,
    /// The machine code of what they ask for; see [`code_area`](crate::code_area).
    pub code_area: File,
    /// Where the worker enters its cgroup: one for each hierarchy, and none where its supervisor
    /// may make no cgroups.
    pub cgroups: Vec<OwnedFd>,
}

/// [`WasmProgram`] and [`FolderFiles`] as they cross the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramMessage {
    world: World,
    image_env: BTreeMap<String, String>,
    working_dir: String,
    secrets: BTreeMap<SecretName, Vec<u8>>,
    files_only: bool,
    learns: bool,
    code: usize,
    index: usize,
    lines: Option<usize>,
    layers: Vec<usize>,
    log: Option<usize>,
    usage: usize,
    adoption: Option<usize>,
    exec: usize,
    code_area: usize,
    cgroups: Vec<usize>,
}

/// What a worker gets.
pub(crate) type WorkerMessage = AssignmentMessage<ProgramMessage>;

/// Splits an assignment into what is said and what is handed over.
pub(crate) fn split(assignment: Assignment, files: FolderFiles) -> (WorkerMessage, Vec<OwnedFd>) {
    assignment.split(|program, slots| ProgramMessage {
        world: program.world,
        image_env: program.image_env,
        working_dir: program.working_dir,
        secrets: program.secrets,
        files_only: program.files_only,
        learns: program.learns,
        code: slots.put(program.code),
        index: slots.put(program.index),
        lines: program.lines.map(|lines| slots.put(lines)),
        layers: program.layers.into_iter().map(|layer| slots.put(layer)).collect(),
        log: files.log.map(|log| slots.put(log)),
        usage: slots.put(files.usage),
        adoption: files.adoption.map(|socket| slots.put(socket)),
        exec: slots.put(files.exec),
        code_area: slots.put(files.code_area),
        cgroups: files.cgroups.into_iter().map(|entry| slots.put(entry)).collect(),
    })
}

/// Puts both together again, on the worker's side.
pub(crate) fn join(
    message: WorkerMessage,
    fds: Vec<OwnedFd>,
) -> io::Result<(Assignment, FolderFiles)> {
    let mut files = None;
    let assignment = message.join(fds, |program, slots| {
        let file = |slots: &mut Slots, slot| slots.take(slot).map(File::from);
        files = Some(FolderFiles {
            log: slots.take_if(program.log)?.map(File::from),
            usage: file(slots, program.usage)?,
            adoption: slots.take_if(program.adoption)?,
            exec: slots.take(program.exec)?,
            code_area: file(slots, program.code_area)?,
            cgroups: program
                .cgroups
                .into_iter()
                .map(|slot| slots.take(slot))
                .collect::<io::Result<_>>()?,
        });
        Ok(WasmProgram {
            world: program.world,
            image_env: program.image_env,
            working_dir: program.working_dir,
            secrets: program.secrets,
            files_only: program.files_only,
            learns: program.learns,
            code: file(slots, program.code)?,
            index: file(slots, program.index)?,
            lines: slots.take_if(program.lines)?.map(File::from),
            layers: program
                .layers
                .into_iter()
                .map(|slot| file(slots, slot))
                .collect::<io::Result<_>>()?,
        })
    })?;
    Ok((assignment, files.expect("joining the program has taken its files")))
}
