use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
    time::Instant,
};

use disk::{Lock, NewFile, Survives};
use engine::{
    Slots,
    cgroup::{Bounds, Tenancy},
    child::wait_until,
};
use serde::{Deserialize, Serialize};
use spec::Digest;

use super::{
    cache::{self, Outcome},
    preparation::{Facts, Preparation, Prepared, Program},
};
use crate::limits::{PREPARER_ANSWER_BYTES_MAX, PREPARER_THREADS_MAX};
use crate::{
    Error,
    supervisor::{Rlimits, send_assignment, start},
};

/// The job of the process. Descriptors by slot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    pub layers: Vec<LayerJob>,
    pub program: ProgramJob,
    pub index: usize,
    pub code: usize,
    /// Stays empty when the program has no lines.
    pub lines: usize,
    pub answer: usize,
    pub layer_bytes_max: u64,
    pub program_bytes_max: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerJob {
    pub blob: usize,
    pub digest: Digest,
    pub size: u64,
    pub diff_id: Option<Digest>,
    /// Where the uncompressed tar goes. Without it, `blob` is that tar already.
    pub copy: Option<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ProgramJob {
    InLayers(String),
    Blob { blob: usize, digest: Digest, size: u64 },
}

/// What it answers, in a file of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Ready(Facts),
    Refused { code: String, message: String, hint: Option<String> },
}

/// Files that the process writes; they are kept once they are verified.
struct Outputs {
    layers: Vec<Option<NewFile>>,
    index: NewFile,
    code: NewFile,
    lines: NewFile,
    answer: NewFile,
}

/// Prepares in a process of its own and keeps the result. One at a time for each `out`: a
/// call that waited finds the first one's result.
pub(super) fn run(preparation: &Preparation<'_>) -> Result<Prepared, Error> {
    let (out, layers_dir, key) = (preparation.out, preparation.layers_dir, preparation.key);
    for folder in [out, layers_dir] {
        disk::private_folder(folder).map_err(Error::file("make the folder", folder))?;
    }
    let path = out.join("lock");
    let _lock = Lock::exclusive(&path).map_err(Error::file("lock", path))?;
    if let Some(prepared) = cache::open(out, layers_dir, key)? {
        return Ok(prepared);
    }
    disk::remove_unfinished(out);
    disk::remove_unfinished(layers_dir);
    let (job, slots, outputs) = plan(preparation)?;
    let began = Instant::now();
    let (status, memory) = execute(preparation, &job, slots)?;
    tracing::debug!(took = ?began.elapsed(), %status, "prepared");
    let answer = match status.success() {
        true => read_answer(outputs.answer.file())?,
        false => match memory {
            Some(bytes) => out_of_memory(bytes),
            None => ended_early(status, preparation)?,
        },
    };
    match answer {
        Answer::Ready(facts) => keep(preparation, outputs, facts),
        Answer::Refused { code, message, hint } => {
            // A file that could not be read or written says nothing of the image: the next start
            // tries again.
            if code != OF_THIS_MACHINE {
                let (code, message, hint) = (code.clone(), message.clone(), hint.clone());
                cache::write_meta(out, key, Outcome::Refused { code, message, hint })?;
            }
            Err(Error::Refused { code, message, hint })
        }
    }
}

fn plan(preparation: &Preparation<'_>) -> Result<(Job, Slots, Outputs), Error> {
    let mut slots = Slots::default();
    let share = |slots: &mut Slots, file: &File| -> Result<usize, Error> {
        Ok(slots.put(file.try_clone().map_err(Error::os("share a file with the preparer"))?))
    };
    let fresh =
        |folder: &Path| cache::new_file(folder).map_err(Error::file("make a file in", folder));
    let (mut layers, mut copies) = (Vec::new(), Vec::new());
    for layer in &preparation.layers {
        let known = layer.diff_id.and_then(|diff_id| {
            let path = cache::layer_path(preparation.layers_dir, &diff_id);
            disk::open(&path, disk::Purpose::Read).ok()
        });
        let copy = match known {
            Some(_) => None,
            None => Some(fresh(preparation.layers_dir)?),
        };
        let blob = known.as_ref().unwrap_or(&layer.blob);
        layers.push(LayerJob {
            blob: share(&mut slots, blob)?,
            digest: layer.digest,
            size: blob.metadata().map_err(Error::os("read a layer's size"))?.len(),
            diff_id: layer.diff_id,
            copy: copy.as_ref().map(|copy| share(&mut slots, copy.file())).transpose()?,
        });
        copies.push(copy);
    }
    let program = match &preparation.program {
        Program::InLayers(path) => ProgramJob::InLayers(path.clone()),
        Program::Blob { blob, digest } => ProgramJob::Blob {
            blob: share(&mut slots, blob)?,
            digest: *digest,
            size: blob.metadata().map_err(Error::os("read a program's size"))?.len(),
        },
    };
    let outputs = Outputs {
        layers: copies,
        index: fresh(preparation.out)?,
        code: fresh(preparation.out)?,
        lines: fresh(preparation.out)?,
        answer: fresh(preparation.out)?,
    };
    let job = Job {
        layers,
        program,
        index: share(&mut slots, outputs.index.file())?,
        code: share(&mut slots, outputs.code.file())?,
        lines: share(&mut slots, outputs.lines.file())?,
        answer: share(&mut slots, outputs.answer.file())?,
        layer_bytes_max: preparation.limits.layer_bytes_max,
        program_bytes_max: preparation.limits.program_bytes_max,
    };
    Ok((job, slots, outputs))
}

/// How the process ended, and its limit of memory where the kernel ended it for that.
fn execute(
    preparation: &Preparation<'_>,
    job: &Job,
    slots: Slots,
) -> Result<(ExitStatus, Option<u64>), Error> {
    let limits = preparation.limits;
    let rlimits = Rlimits {
        address_space: Some(limits.memory_bytes_max),
        cpu_seconds: Some(limits.cpu_time_max.as_secs().max(1)),
        file_bytes: Some(limits.layer_bytes_max),
    };
    // Compiling in parallel would look for the processors in files, which are out of reach by then.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let environment = [("RAYON_NUM_THREADS", threads.as_str())];
    let (mut child, control) =
        start(&preparation.exe, &preparation.arguments, &environment, rlimits)?;
    // It waits for its job.
    let cgroup = hold(preparation, child.id());
    let fds: Vec<OwnedFd> = slots.into_fds();
    send_assignment(&control, job, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    drop(fds);
    let deadline = Instant::now() + limits.wall_time_max;
    let status = wait_until(&mut child, deadline);
    if !matches!(status, Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
    match status.map_err(Error::os("wait for the preparer"))? {
        Some(status) => Ok((status, cgroup.and_then(|cgroup: Tenancy| cgroup.oom_bytes_max()))),
        // Not kept: a machine under load may be the reason.
        None => Err(Error::Refused {
            code: "E_COMPILE_LIMIT".to_owned(),
            message: format!(
                "preparing the image took more than {} s",
                limits.wall_time_max.as_secs()
            ),
            hint: None,
        }),
    }
}

/// Puts the process into the cgroup of the image's owner. Where the kernel refuses, its own limits
/// are what holds.
fn hold(preparation: &Preparation<'_>, pid: u32) -> Option<Tenancy> {
    let bounds = Bounds {
        memory_bytes_max: preparation.limits.resident_bytes_max,
        processes_max: PREPARER_THREADS_MAX,
        cpu_millis_max: None,
    };
    match preparation.place.clone()?.hold(pid, &bounds) {
        Ok(held) => Some(held),
        Err(error) => {
            tracing::warn!(%error, "a preparer has no cgroup");
            None
        }
    }
}

/// The code of an image that was not judged.
const OF_THIS_MACHINE: &str = "E_READ";
/// What the preparer exits with when the disk of its outputs is full.
pub(super) const NO_SPACE: u8 = 28;

fn out_of_memory(bytes: u64) -> Answer {
    Answer::Refused {
        code: "E_COMPILE_LIMIT".to_owned(),
        message: format!(
            "preparing the image took more than {} of memory",
            spec::print_bytes(bytes)
        ),
        hint: Some(SMALLER.to_owned()),
    }
}

const SMALLER: &str = "make the program smaller, or split its largest functions";

fn read_answer(file: &File) -> Result<Answer, Error> {
    let mut text = Vec::new();
    let mut file = file;
    io::Seek::rewind(&mut file)
        .and_then(|()| file.take(PREPARER_ANSWER_BYTES_MAX).read_to_end(&mut text))
        .map_err(Error::os("read the preparer's answer"))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::Protocol(format!("the preparer answered `{e}`")))
}

/// Why the process ended without an answer.
fn ended_early(status: ExitStatus, preparation: &Preparation<'_>) -> Result<Answer, Error> {
    let limits = preparation.limits;
    let why = match status.signal() {
        Some(libc::SIGXCPU) => format!("more than {} s of CPU time", limits.cpu_time_max.as_secs()),
        // How the allocator ends a process that is at its limit.
        Some(libc::SIGABRT) => {
            format!("more than {} of memory", spec::print_bytes(limits.memory_bytes_max))
        }
        Some(libc::SIGXFSZ) => {
            format!("more than {} in one file", spec::print_bytes(limits.layer_bytes_max))
        }
        None if status.code() == Some(i32::from(NO_SPACE)) => {
            let full = io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(Error::file("write", preparation.out)(full));
        }
        // Not kept: it was killed from outside, on a machine without memory perhaps, and that says
        // nothing of the image.
        _ => return Err(Error::WorkerLost("preparing an image")),
    };
    Ok(Answer::Refused {
        code: "E_COMPILE_LIMIT".to_owned(),
        message: format!("preparing the image took {why}"),
        hint: Some(SMALLER.to_owned()),
    })
}

fn keep(
    preparation: &Preparation<'_>,
    mut outputs: Outputs,
    facts: Facts,
) -> Result<Prepared, Error> {
    let (out, key) = (preparation.out, preparation.key);
    if facts.layers.len() != outputs.layers.len() {
        return Err(Error::Protocol("the preparer answered for other layers".to_owned()));
    }
    for (fresh, diff_id) in outputs.layers.iter_mut().zip(&facts.layers) {
        let Some(mut fresh) = fresh.take() else { continue };
        let path = cache::layer_path(preparation.layers_dir, diff_id);
        // Hashed again here: other images share this file, and the process that wrote it has read
        // hostile bytes.
        if cache::digest(&mut fresh).map_err(Error::file("read", &path))? != *diff_id {
            return Err(Error::Protocol(
                "the preparer wrote another layer than it named".to_owned(),
            ));
        }
        fresh.commit(&path, Survives::PowerLoss).map_err(Error::file("write", &path))?;
    }
    let place = |mut fresh: NewFile, name: &'static str| -> Result<String, Error> {
        let path = out.join(name);
        let seal = cache::seal(&mut fresh, name, key).map_err(Error::file("read", &path))?;
        fresh.commit(&path, Survives::PowerLoss).map_err(Error::file("write", &path))?;
        Ok(seal)
    };
    let code_seal = place(outputs.code, cache::CODE)?;
    let index_seal = place(outputs.index, cache::INDEX)?;
    let path = out.join(cache::LINES);
    let lines_seal =
        match outputs.lines.file().metadata().map_err(Error::file("read", &path))?.len() {
            0 => None,
            _ => Some(place(outputs.lines, cache::LINES)?),
        };
    cache::write_meta(out, key, Outcome::Ready { facts, code_seal, index_seal, lines_seal })?;
    match cache::open(out, preparation.layers_dir, key)? {
        Some(prepared) => Ok(Prepared { cached: false, ..prepared }),
        None => Err(Error::Protocol("what was just prepared is gone".to_owned())),
    }
}
