use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Instant,
};

use engine::{
    cgroup::{Bounds, Place, Tenancy},
    frame,
};
use image::{Budget, LayerReader, Verified};
use rustix::{
    fs::{Gid, Mode, Uid},
    process::{Pid, Resource, Rlimit, Signal},
    thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use spec::{Descriptor, Digest};

use crate::limits::{
    LOWER_LINKS_MAX, LOWER_LINKS_PER_MESSAGE, UNPACK_MEMORY_BYTES_MAX, UNPACK_OPEN_FILES_MAX,
    UNPACK_RESIDENT_BYTES_MAX, UNPACK_TIME_MAX,
};
use crate::{
    Error,
    host::{
        command::wait_readable,
        rights::{Rights, rights},
    },
    ids::HostIds,
    namespace::{give_ids, take_ids},
    privileges::{FILES, drop_privileges},
    protocol::{Job, Reply, UnpackJob, expect_reply},
    spawn::{end_process, start_process},
    unpack::seccomp_unpack,
    unpack::tree::{UnpackError, Unpacked, unpack as unpack_layer},
};

/// A compressed layer, opened by the caller.
#[derive(Debug)]
pub struct LayerBlob {
    /// Open for reading, at its start.
    pub file: File,
    /// What its bytes must be.
    pub descriptor: Descriptor,
    /// What they must unpack to, from the image's config.
    pub diff_id: Digest,
}

/// Has a process of its own unpack `blob` into `folder`, which is empty and which `root` has open.
/// A lock that `root` holds is also the process's.
///
/// It parses hostile bytes, so it is root only in a user namespace with the ids of containers, its
/// root folder is `folder`, it has no network, four capabilities and a list of system calls, and
/// it ends with its parent. Gives back the hard links to files of lower layers, which are the
/// caller's to make.
pub(crate) fn unpack(
    exe: &Path,
    folder: &Path,
    root: &File,
    blob: LayerBlob,
    place: Option<Place>,
) -> Result<Vec<(String, String)>, Error> {
    let preparing = || format!("prepare `{}`", folder.display());
    let own = match rights()? {
        Rights::Root => {
            let (uid, gid) = HostIds::ON_DISK.root();
            rustix::fs::chown(folder, Some(uid), Some(gid))
        }
        // It has made the folder, and is that root.
        Rights::Subordinate(..) => Ok(()),
    };
    own.and_then(|()| rustix::fs::chmod(folder, Mode::from_raw_mode(0o755)))
        .map_err(Error::io(preparing()))?;
    let layer = blob.diff_id.to_string();
    let (socket, process) = start_process(exe, Path::new("/dev/null"))?;
    // It waits for its job.
    let _cgroup = place.and_then(|place| hold(place, process.pid));
    let job =
        Job::Unpack(Box::new(UnpackJob { descriptor: blob.descriptor, diff_id: blob.diff_id }));
    let result = exchange(&socket, process.pid, &job, &[root.as_fd(), blob.file.as_fd()]);
    // It has replied. A removal of the folder must not race with it.
    end_process(&process);
    result.map_err(|error| match error {
        Error::Reported { code, message, .. } => Error::Layer { layer, code, why: message },
        Error::Protocol(_) => Error::Layer {
            layer,
            code: "E_UNPACK_LIMIT".to_owned(),
            why: "the unpacking process was killed, by a limit or by another process".to_owned(),
        },
        other => other,
    })
}

/// Puts the process into the cgroup of the image's owner. Where the kernel refuses, its own limits
/// are what holds.
fn hold(place: Place, pid: Pid) -> Option<Tenancy> {
    let bounds = Bounds {
        memory_bytes_max: UNPACK_RESIDENT_BYTES_MAX,
        processes_max: 1,
        cpu_millis_max: None,
    };
    place.hold(pid.as_raw_nonzero().get().unsigned_abs(), &bounds).ok()
}

fn exchange(
    socket: &OwnedFd,
    pid: Pid,
    job: &Job,
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> Result<Vec<(String, String)>, Error> {
    frame::send_document(socket, job, fds)
        .map_err(Error::io("send a layer to the unpacking process"))?;
    give_ids(socket, pid)?;
    let mut links = Vec::new();
    loop {
        match expect_reply(socket, UNPACK_TIME_MAX)?.0 {
            Reply::Done => return Ok(links),
            Reply::LowerLinks(more) if links.len() + more.len() <= LOWER_LINKS_MAX => {
                links.extend(more);
            }
            other => return Err(other.into_error()),
        }
    }
}

/// Unpacks, in the process that was started for it.
pub(crate) fn run(socket: &OwnedFd, job: &UnpackJob, fds: Vec<OwnedFd>) -> Result<(), Error> {
    let Ok([root, blob]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(Error::protocol("an unpacking job comes with two descriptors"));
    };
    let confining = |step: &str| format!("confine the unpacking process ({step})");
    take_ids(socket, UnshareFlags::NEWNS)?;
    confine_to(&root)
        .and_then(|()| limit_resources())
        .map_err(Error::io(confining("users and root folder")))?;
    end_with_parent(socket).map_err(Error::io(confining("end with the parent")))?;
    drop_privileges(FILES).map_err(Error::io(confining("capabilities")))?;
    seccomp_unpack::apply(&[]).map_err(Error::io(confining("system calls")))?;
    let failed = |error: UnpackError| Error::Layer {
        layer: job.diff_id.to_string(),
        code: error.code.to_owned(),
        why: error.why,
    };
    let verified = Verified::new(File::from(blob), &job.descriptor);
    let layer =
        LayerReader::new(verified, Budget::default()).map_err(|error| failed(error.into()))?;
    let Unpacked { summary, lower_links } = unpack_layer(layer, &root).map_err(failed)?;
    match summary.diff_id == job.diff_id {
        true => lower_links.chunks(LOWER_LINKS_PER_MESSAGE).try_for_each(|links| {
            frame::send(socket, &Reply::LowerLinks(links.to_vec()), &[])
                .map_err(Error::io("report hard links"))
        }),
        false => Err(failed(UnpackError {
            code: "E_DIGEST",
            why: format!(
                "its uncompressed bytes are `{}`, and the image's config names another",
                summary.diff_id
            ),
        })),
    }
}

/// Without a parent its result is of no use. Called after the change of ids, which resets this in
/// the kernel.
fn end_with_parent(socket: &OwnedFd) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent sends nothing more: the socket is readable only when the parent has ended.
    match wait_readable(socket.as_fd(), Instant::now()) {
        true => Err(std::io::ErrorKind::BrokenPipe.into()),
        false => Ok(()),
    }
}

/// Root of its user namespace, with `root` as its root folder.
pub(crate) fn confine_to(root: &OwnedFd) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")
}

fn limit_resources() -> rustix::io::Result<()> {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    rustix::process::setrlimit(Resource::As, limit(UNPACK_MEMORY_BYTES_MAX))?;
    rustix::process::setrlimit(Resource::Cpu, limit(UNPACK_TIME_MAX.as_secs()))?;
    rustix::process::setrlimit(Resource::Core, limit(0))?;
    rustix::process::setrlimit(Resource::Nofile, limit(UNPACK_OPEN_FILES_MAX))
}
