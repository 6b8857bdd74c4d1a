use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use engine::frame;
use image::{Budget, LayerReader, Verified};
use rustix::{
    fs::{Gid, Mode, Uid},
    process::{Pid, Resource, Rlimit, Signal},
    thread::{
        CapabilitySet, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use serde::{Deserialize, Serialize};
use spec::{Descriptor, Digest};

use crate::{
    Error, LayerBlob,
    bundle::config::{FIRST_ID, IDS},
    client::task::{Reply, end_process, expect_reply, start_process},
    owner::runner::readable,
    privileges::shed,
    process::Job,
    unpack::seccomp_unpack as filter,
    unpack::tree::{Refused, unpack as unpack_layer},
};

/// What the unpacking process is told. The folder and the compressed layer ride along, in this
/// order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unpack {
    descriptor: Descriptor,
    diff_id: Digest,
}

/// 8 GiB at the slowest decompression that we measured (141 MiB/s) takes a minute; disks take
/// longer.
const UNPACK_TIME_MAX: Duration = Duration::from_secs(600);
/// The decoder's window is at most 64 MiB; the rest is for the program itself.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Has a process of its own unpack `blob` into `folder`, which is empty and which `root` has open.
/// Whatever lock that holds is also the process's.
///
/// It parses hostile bytes, so it is root of nothing but a user namespace whose users are those of
/// containers, its root folder is `folder`, it has no network, three capabilities and a list of
/// system calls, and it ends with us.
pub(crate) fn unpack(exe: &Path, folder: &Path, root: &File, blob: LayerBlob) -> Result<(), Error> {
    let preparing = || format!("prepare `{}`", folder.display());
    let (uid, gid) = (Uid::from_raw(FIRST_ID), Gid::from_raw(FIRST_ID));
    rustix::fs::chown(folder, Some(uid), Some(gid))
        .and_then(|()| rustix::fs::chmod(folder, Mode::from_raw_mode(0o755)))
        .map_err(Error::io(preparing()))?;
    let layer = blob.diff_id.to_string();
    let (socket, process) = start_process(exe, Path::new("/dev/null"))?;
    let job = Job::Unpack(Box::new(Unpack { descriptor: blob.descriptor, diff_id: blob.diff_id }));
    let result = converse(&socket, process.pid, &job, &[root.as_fd(), blob.file.as_fd()]);
    // It has said its last word. Whoever removes the folder next must not race with it.
    end_process(&process);
    result.map_err(|error| match error {
        Error::Reported { code, message, .. } => Error::Layer { layer, code, why: message },
        Error::Protocol(_) => Error::Layer {
            layer,
            code: "E_UNPACK_LIMIT".to_owned(),
            why: "the unpacking process was killed, by a limit or by somebody".to_owned(),
        },
        other => other,
    })
}

fn converse(
    socket: &OwnedFd,
    pid: Pid,
    job: &Job,
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> Result<(), Error> {
    frame::send_document(socket, job, fds)
        .map_err(Error::io("hand a layer to the unpacking process"))?;
    match expect_reply(socket, Duration::from_secs(60))?.0 {
        Reply::Started => {}
        other => return Err(other.into_error()),
    }
    for map in ["gid_map", "uid_map"] {
        let path = format!("/proc/{}/{map}", pid.as_raw_nonzero());
        std::fs::write(&path, format!("0 {FIRST_ID} {IDS}\n"))
            .map_err(Error::io(format!("write `{path}`")))?;
    }
    frame::send(socket, &Reply::Done, &[]).map_err(Error::io("let the unpacking process begin"))?;
    match expect_reply(socket, UNPACK_TIME_MAX)?.0 {
        Reply::Done => Ok(()),
        other => Err(other.into_error()),
    }
}

/// The other side, in its own process.
pub(crate) fn run(socket: &OwnedFd, job: &Unpack, fds: Vec<OwnedFd>) -> Result<(), Error> {
    let Ok([root, blob]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(Error::protocol("an unpack order comes with two descriptors"));
    };
    let walls = |step: &str| format!("wall in the unpacking process ({step})");
    leave_home().map_err(Error::io(walls("namespaces")))?;
    frame::send(socket, &Reply::Started, &[]).map_err(Error::io("ask for users"))?;
    match expect_reply(socket, Duration::from_secs(60))?.0 {
        Reply::Done => {}
        other => return Err(other.into_error()),
    }
    become_root_of_nothing(&root).map_err(Error::io(walls("users and root folder")))?;
    end_with_parent(socket).map_err(Error::io(walls("whoever asked")))?;
    shed(POWERS).map_err(Error::io(walls("capabilities")))?;
    filter::apply().map_err(Error::io(walls("system calls")))?;
    let refused = |refused: Refused| Error::Layer {
        layer: job.diff_id.to_string(),
        code: refused.code.to_owned(),
        why: refused.why,
    };
    let verified = Verified::new(File::from(blob), &job.descriptor);
    let layer =
        LayerReader::new(verified, Budget::default()).map_err(|error| refused(error.into()))?;
    let summary = unpack_layer(layer, &root).map_err(refused)?;
    match summary.diff_id == job.diff_id {
        true => Ok(()),
        false => Err(refused(Refused {
            code: "E_DIGEST",
            why: format!(
                "its uncompressed bytes are `{}`, and the image's config names another",
                summary.diff_id
            ),
        })),
    }
}

#[expect(
    unsafe_code,
    reason = "rustix marks unsharing unsafe for the sake of programs with threads"
)]
fn leave_home() -> rustix::io::Result<()> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: this process has one thread, and CLONE_FILES, which could close descriptors under
    // others, is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// What files of any owner and mode take.
const POWERS: CapabilitySet =
    CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE).union(CapabilitySet::FOWNER);

/// What nobody waits for would use the disk and the processor to the end. After the change of
/// users, which the kernel takes as a reason to forget this.
fn end_with_parent(socket: &OwnedFd) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It says nothing more, so there is something to read only when it is gone already.
    match readable(socket.as_fd(), Instant::now()) {
        true => Err(std::io::ErrorKind::BrokenPipe.into()),
        false => Ok(()),
    }
}

fn become_root_of_nothing(root: &OwnedFd) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")?;
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    rustix::process::setrlimit(Resource::As, limit(MEMORY_BYTES_MAX))?;
    rustix::process::setrlimit(Resource::Cpu, limit(UNPACK_TIME_MAX.as_secs()))?;
    rustix::process::setrlimit(Resource::Core, limit(0))?;
    // Deep trees are opened one folder at a time.
    rustix::process::setrlimit(Resource::Nofile, limit(64))
}
