use std::{
    ffi::{CStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use engine::{
    FDS_MAX, VolumeMount, VolumeSource,
    cgroup::{Bounds, Place},
    exec, frame, subordinate_ids,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Gid, Pid, Resource, Rlimit, Uid, setrlimit},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags},
};
use serde::Serialize;
use spec::{OutboundGrant, Rights};

use crate::{
    Assignment, Broker, Error, Separation, Worker,
    assignment::{FolderFiles, WorkerMessage, split},
    code_area, host_files,
    limits::{ALLOCATOR_TUNABLES, STARTS_MAX},
    own_user::{self, Mapped, OWN_USER},
    separation::own_id,
    supervisor::adopt::SOCKET,
    usage,
};

/// Descriptor by which a worker speaks with its supervisor.
pub(crate) const CONTROL_FD: RawFd = 3;
/// Descriptor of a folder that is empty and stays so, for a worker to go to.
pub(crate) const EMPTY_FD: RawFd = 4;

/// How to start a worker.
#[derive(Debug, Clone)]
pub struct SpawnOptions {
    /// The binary whose `main` calls [`worker::main`](crate::worker::main) when it sees
    /// `arguments`.
    pub exe: PathBuf,
    /// What to start it with.
    pub arguments: Vec<OsString>,
    /// Instances that may live at once; the assignment's `concurrency_max` cannot exceed it.
    pub instances_max: u32,
}

impl Default for SpawnOptions {
    fn default() -> Self {
        Self {
            exe: PathBuf::from("/proc/self/exe"),
            arguments: vec!["worker".into()],
            instances_max: 128,
        }
    }
}

/// A worker that waits for its assignment: it has made its engine and has seen no guest byte. It
/// ends by itself when it is dropped.
#[derive(Debug)]
pub struct SpareWorker {
    child: Child,
    control: OwnedFd,
}

impl SpareWorker {
    /// Starts one. Returns as soon as the process exists; it takes an assignment at any time from
    /// then on.
    ///
    /// It gets a uid of its own or a user namespace, as [`Separation`] says. Either way it gets
    /// empty network, IPC and UTS namespaces.
    ///
    /// # Errors
    /// When the process or one of its namespaces cannot be made.
    pub fn spawn(options: &SpawnOptions) -> Result<Self, Error> {
        let instances = options.instances_max.to_string();
        let environment =
            [(INSTANCES_MAX, instances.as_str()), ("GLIBC_TUNABLES", ALLOCATOR_TUNABLES)];
        let (child, control) =
            start(&options.exe, &options.arguments, &environment, Rlimits::default())?;
        Ok(Self { child, control })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it everything it will ever have. Events follow; the first is
    /// [`Event::Started`](crate::Event::Started) or the last. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the assignment cannot be handed over.
    pub fn assign(self, assignment: Assignment, broker: Broker) -> Result<Worker, Error> {
        let grants = assignment.grants.outbound.clone();
        self.take_over(&mut hand_over(assignment, None)?, grants, broker)
    }

    /// As [`SpareWorker::assign`], with the assignment split already.
    pub(super) fn take_over(
        self,
        handover: &mut Handover,
        grants: Vec<OutboundGrant>,
        broker: Broker,
    ) -> Result<Worker, Error> {
        handover.open_for(self.pid())?;
        let fds: Vec<_> = handover.fds.iter().map(AsFd::as_fd).collect();
        send_assignment(&self.control, &handover.message, &fds)?;
        let pid = Pid::from_child(&self.child);
        let place = handover.place.clone();
        Worker::watch(self.control, pid, Some(self.child), place, grants, broker)
    }
}

/// How many instances a worker's pool has room for.
pub(crate) const INSTANCES_MAX: &str = "MARGAY_INSTANCES_MAX";

/// Starts `exe` behind the walls that only the outside can raise; it finds the other end of the
/// socket at [`CONTROL_FD`].
pub(crate) fn start(
    exe: &Path,
    arguments: &[OsString],
    environment: &[(&str, &str)],
    rlimits: Rlimits,
) -> Result<(Child, OwnedFd), Error> {
    for _ in 0..STARTS_MAX {
        let separation = Separation::available();
        let (mut child, control) = start_as(separation, exe, arguments, environment, rlimits)?;
        if separation != Separation::SubordinateIds || give_own_user(&child, &control)? {
            return Ok((child, control));
        }
        // Another process number has another user, or another start none.
        let _ = child.kill();
        let _ = child.wait();
    }
    let why = "each user of its range that was tried is one of a process";
    Err(Error::os("start a worker as a user of its own")(io::Error::other(why)))
}

/// Gives a process that waits for it the user that it is to become. False when that is one of
/// another process by now, or when this machine gives it none.
fn give_own_user(child: &Child, control: &OwnedFd) -> Result<bool, Error> {
    let Ok(ids) = subordinate_ids::available() else { return Ok(false) };
    let Some(user) = ids.of(child.id()) else { return Ok(false) };
    match ids.map(child.id(), user, 1) {
        Ok(()) => {
            // One that is gone already is found out by its assignment.
            let _ = frame::send(control, &Mapped, &[]);
            Ok(true)
        }
        Err(why) => {
            tracing::warn!(%why, hint = why.hint(), "workers keep the user of this process");
            subordinate_ids::give_up(why);
            Ok(false)
        }
    }
}

fn start_as(
    separation: Separation,
    exe: &Path,
    arguments: &[OsString],
    environment: &[(&str, &str)],
    rlimits: Rlimits,
) -> Result<(Child, OwnedFd), Error> {
    let (control, theirs) = frame::pair().map_err(Error::os("make a socket for a worker"))?;
    let mut command = Command::new(exe);
    command
        .arg0("margay")
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .current_dir("/");
    if separation == Separation::SubordinateIds {
        command.env(OWN_USER, "1");
    }
    let wall = Wall {
        control: theirs.as_raw_fd(),
        separation,
        ids: own_ids(),
        oom_score: oom_score().into_bytes(),
        rlimits,
    };
    // SAFETY: `raise` makes system calls only: no lock, no allocation, nothing that a fork could
    // have left half done.
    unsafe { command.pre_exec(move || wall.raise()) };
    let child = command.spawn().map_err(Error::os("start a worker in namespaces of its own"))?;
    Ok((child, control))
}

/// An assignment, split into what is said and what is handed over.
pub(super) struct Handover {
    message: WorkerMessage,
    fds: Vec<OwnedFd>,
    /// Files and folders of the host, by their descriptors: which ids a worker sees in them depends
    /// on the worker.
    host: Vec<(usize, PathBuf, Rights)>,
    /// The cgroup that it enters.
    pub place: Option<Place>,
}

impl Handover {
    /// Opens what is of the host for the worker with this process.
    fn open_for(&mut self, pid: u32) -> Result<(), Error> {
        for (slot, path, rights) in &self.host {
            self.fds[*slot] = host_files::host(path, *rights, Some(own_id(pid)))?;
        }
        Ok(())
    }
}

/// Opens what the worker is to have of its container's folder, and its volumes where only the
/// supervisor has the right to.
pub(super) fn hand_over(
    mut assignment: Assignment,
    place: Option<(Place, Bounds)>,
) -> Result<Handover, Error> {
    let folder = &assignment.folder;
    let adoption = match assignment.adoptable {
        true => Some(
            frame::listen(folder, SOCKET)
                .map_err(Error::file("make the socket", folder.join(SOCKET)))?,
        ),
        false => None,
    };
    let exec = frame::listen(folder, exec::SOCKET)
        .map_err(Error::file("make the socket", folder.join(exec::SOCKET)))?;
    let code_area = code_area::create(folder)?;
    let usage = usage::open(&folder.join(usage::FILE))?;
    // Of an earlier worker.
    usage::clear_exit(&usage).map_err(Error::os("clear the exit of an earlier worker"))?;
    let log = assignment.log.as_deref().map(open_log).transpose()?;
    let host = match Separation::available() {
        Separation::OwnIds => detach_volumes(&mut assignment.volumes)?,
        // A worker is the owner of its mount namespace, and detaches them itself.
        Separation::UserNamespace | Separation::SubordinateIds => {
            for mount in &assignment.volumes {
                if let VolumeSource::Host(path) = &mount.source {
                    host_files::check(path, mount.rights)?;
                }
            }
            Vec::new()
        }
    };
    let (place, cgroups) = place.map(make_cgroup).unwrap_or_default();
    let files = FolderFiles { log, usage, adoption, exec, code_area, cgroups };
    let (message, fds) = split(assignment, files);
    Ok(Handover { message, fds, host, place })
}

/// Makes the cgroup of a worker. Where the kernel refuses, as in a container that may not change
/// its own, the worker's own limits are what holds; `margay doctor` says so.
fn make_cgroup((place, bounds): (Place, Bounds)) -> (Option<Place>, Vec<OwnedFd>) {
    match place.create(&bounds) {
        Ok(entries) => (Some(place), entries),
        Err(error) => {
            tracing::warn!(%error, "a worker has no cgroup");
            (None, Vec::new())
        }
    }
}

/// Detaches every volume: their descriptors are the first of the assignment. Those of the host are
/// opened again for their worker, and are given back.
fn detach_volumes(mounts: &mut [VolumeMount]) -> Result<Vec<(usize, PathBuf, Rights)>, Error> {
    let mut host = Vec::new();
    for (slot, mount) in mounts.iter_mut().enumerate() {
        let opened = match &mount.source {
            VolumeSource::Folder(path) => host_files::volume(path, mount.rights)?,
            VolumeSource::Host(path) => {
                host.push((slot, path.clone(), mount.rights));
                File::open("/dev/null").map_err(Error::os("open /dev/null"))?.into()
            }
            VolumeSource::Detached(_) => continue,
        };
        mount.source = VolumeSource::Detached(opened);
    }
    Ok(host)
}

fn open_log(path: &Path) -> Result<File, Error> {
    disk::open(path, disk::Purpose::Append).map_err(Error::file("open", path))
}

/// Hands a process what it is to do, however long, and its descriptors.
pub(crate) fn send_assignment<T: Serialize>(
    control: &OwnedFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Error> {
    if fds.len() >= FDS_MAX {
        return Err(Error::TooManyDescriptors(fds.len()));
    }
    frame::send_document(control, message, fds).map_err(Error::os("hand a worker its assignment"))
}

/// Limits that are set before a process begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rlimits {
    pub address_space: Option<u64>,
    /// Said by `SIGXCPU`, so that it can be told from a kill.
    pub cpu_seconds: Option<u64>,
    pub file_bytes: Option<u64>,
}

/// Lines for `/proc/self/{uid,gid}_map`, written before the fork because that must not allocate.
#[derive(Clone)]
struct Ids {
    uid: Vec<u8>,
    gid: Vec<u8>,
}

fn own_ids() -> Ids {
    let map = |id: u32| format!("0 {id} 1\n").into_bytes();
    Ids {
        uid: map(rustix::process::geteuid().as_raw()),
        gid: map(rustix::process::getegid().as_raw()),
    }
}

/// What makes the kernel end a worker before its supervisor, when the machine has no memory left.
/// To raise it takes no right.
fn oom_score() -> String {
    const MORE: i32 = 500;
    const MOST: i32 = 1000;
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse::<i32>().unwrap_or(0).saturating_add(MORE).min(MOST).to_string()
}

/// The walls that only the outside can raise, between fork and exec.
struct Wall {
    control: RawFd,
    separation: Separation,
    ids: Ids,
    oom_score: Vec<u8>,
    rlimits: Rlimits,
}

impl Wall {
    fn raise(&self) -> io::Result<()> {
        // A session of its own: a Ctrl-C meant for its supervisor is not meant for it.
        rustix::process::setsid()?;
        // A machine without memory ends a worker, and not what supervises all of them.
        write_file(c"/proc/self/oom_score_adj", &self.oom_score)?;
        unshare(self.separation, &self.ids)?;
        for (what, most) in [(Resource::Core, 0), (Resource::Nofile, 8192), (Resource::Nproc, 64)] {
            // A hard limit that is lower already stays.
            let _ = setrlimit(what, Rlimit { current: Some(most), maximum: Some(most) });
        }
        let own = self.rlimits;
        for (what, most) in [(Resource::As, own.address_space), (Resource::Fsize, own.file_bytes)] {
            if most.is_some() {
                setrlimit(what, Rlimit { current: most, maximum: most })?;
            }
        }
        if let Some(seconds) = own.cpu_seconds {
            setrlimit(
                Resource::Cpu,
                Rlimit { current: Some(seconds), maximum: Some(seconds + 5) },
            )?;
        }
        let empty = empty_folder()?;
        // SAFETY: plain numbers; what was at descriptors 3 and 4 belongs to the supervisor, and
        // this is the child. The lowest that is free above both keeps one from overwriting the
        // other before it is copied.
        unsafe {
            let control = libc::fcntl(self.control, libc::F_DUPFD_CLOEXEC, EMPTY_FD + 1);
            let empty = libc::fcntl(empty.as_raw_fd(), libc::F_DUPFD_CLOEXEC, EMPTY_FD + 1);
            if control < 0
                || empty < 0
                || libc::dup2(control, CONTROL_FD) < 0
                || libc::dup2(empty, EMPTY_FD) < 0
                || libc::fcntl(CONTROL_FD, libc::F_SETFD, 0) < 0
            {
                return Err(io::Error::last_os_error());
            }
            // Whatever else the supervisor has open stays with it.
            let first = EMPTY_FD + 1;
            if libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        match self.separation {
            Separation::OwnIds => take_a_uid_of_its_own(),
            Separation::SubordinateIds => own_user::keep_over_exec(),
            Separation::UserNamespace => Ok(()),
        }
    }
}

/// Into namespaces of its own, with the one user that it may be there, or without any as yet.
fn unshare(separation: Separation, ids: &Ids) -> io::Result<()> {
    let mut namespaces = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if separation != Separation::OwnIds {
        namespaces |= UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
    }
    // SAFETY: one thread calls this, the child of a fork or a process that ends after it; it shares
    // neither files nor memory with anyone.
    unsafe { rustix::thread::unshare_unsafe(namespaces)? };
    if separation == Separation::UserNamespace {
        write_file(c"/proc/self/setgroups", b"deny")?;
        write_file(c"/proc/self/uid_map", &ids.uid)?;
        write_file(c"/proc/self/gid_map", &ids.gid)?;
    }
    Ok(())
}

/// Goes where a worker goes, as far as the kernel or a container around us may forbid it. For a
/// process with one thread that ends soon: it cannot come back.
///
/// # Errors
/// The first step that fails.
pub fn try_walls() -> io::Result<()> {
    write_file(c"/proc/self/oom_score_adj", oom_score().as_bytes())?;
    let separation = match Separation::available() {
        // Other users come from another process.
        Separation::SubordinateIds => Separation::UserNamespace,
        separation => separation,
    };
    unshare(separation, &own_ids())?;
    empty_folder()?;
    // A filter around us may forbid the call; the root stays what it is.
    Ok(rustix::process::chroot(c"/")?)
}

/// Becomes what a worker becomes, without the rights to anything else. As [`try_walls`], and the
/// last that such a process does.
///
/// # Errors
/// When the kernel refuses.
pub fn try_own_user() -> io::Result<()> {
    match Separation::available() {
        Separation::OwnIds => take_a_uid_of_its_own(),
        Separation::UserNamespace | Separation::SubordinateIds => Ok(()),
    }
}

/// The root of a file system of its own, with nothing in it and nothing to be written into it.
fn empty_folder() -> io::Result<OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
    };
    let made = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&made)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Takes an uid that no other living process has. Of root's capabilities one lasts until the walls
/// are up, over exec as well: the one for going to the empty folder.
fn take_a_uid_of_its_own() -> io::Result<()> {
    let id = own_id(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
    // A child of a fork has one thread, so what is the thread's is the process's.
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id))?;
    rustix::thread::set_thread_res_uid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id))?;
    let one = CapabilitySet::SYS_CHROOT;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: one, permitted: one, inheritable: one },
    )?;
    Ok(rustix::thread::configure_capability_in_ambient_set(one, true)?)
}

fn write_file(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes)?;
    Ok(())
}
