use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Gid, Resource, Rlimit, Uid, geteuid, setrlimit},
    thread::{CapabilitySet, capabilities},
};

use crate::{
    capabilities::{can_become, keep_capabilities},
    files::{Network, OpenFolder, restrict_files},
    ownership::take_over,
    service_calls, view,
};

/// What a server of the platform keeps when it starts to serve.
#[derive(Debug)]
pub struct Service<'a> {
    /// The user that it becomes when root starts it, with a group of the same number. It belongs to
    /// this server alone: above every range that distributions hand out, below the workers'.
    pub user: u32,
    /// The folder of the platform, of which it sees its own folders only.
    pub home: &'a Path,
    /// The folder that belongs to it; it writes there and nowhere else.
    pub owns: Option<&'a Path>,
    /// What it only reads: folders and files.
    pub reads: &'a [&'a Path],
    pub network: Network,
}

/// What holds from now on, besides what always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Whether the server has a user of its own.
    pub own_user: bool,
    /// Whether the kernel restricts which files it opens.
    pub own_files: bool,
}

/// For a server that connects: names are resolved with these, and the addresses of this machine are
/// known by them. All of it is readable by every user anyway.
fn system_files() -> impl Iterator<Item = PathBuf> {
    // Where it leads: other programs replace it there.
    let resolvers = std::fs::canonicalize("/etc/resolv.conf").ok();
    let resolvers = resolvers.and_then(|path| path.parent().map(Path::to_owned));
    ["/etc", "/proc/self/net"].map(PathBuf::from).into_iter().chain(resolvers)
}

impl Service<'_> {
    /// Gives up everything else for the rest of this process's life. `unprivileged` is called once
    /// the user has changed: the kernel forgets then whose child this is, and a supervisor wants to
    /// say so again.
    ///
    /// To be called before the process has a second thread: each of these is a matter of threads.
    ///
    /// # Errors
    /// When a right cannot be given up.
    pub fn confine(&self, unprivileged: impl FnOnce()) -> io::Result<Confined> {
        crate::read_auxiliary_vector();
        rustix::thread::set_no_new_privs(true)?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        let held = capabilities(None)?.effective;
        let mounts = CapabilitySet::SYS_ADMIN | CapabilitySet::CHOWN;
        let can_show = held.contains(mounts);
        // Another user cannot walk to a folder below a closed one, unless it is shown to it.
        let own_user = can_become(self.user) && (can_show || self.owns.is_none());
        if let Some(folder) = self.owns.filter(|_| geteuid().is_root()) {
            // Back to root's, where root may do less than when it was given away.
            take_over(folder, if own_user { self.user } else { 0 })?;
        }
        if own_user && can_show {
            view::only(self.home, &self.folders_at_home())?;
        }
        let files = self.open_files()?;
        if let Some(folder) = self.owns.or(self.reads.first().copied()) {
            std::env::set_current_dir(folder)?;
        }
        match own_user {
            true => become_user(self.user)?,
            // Root that may do no more than an ordinary user, as in a container of another engine,
            // stays what it is.
            false => keep_capabilities(CapabilitySet::empty(), CapabilitySet::empty())?,
        }
        unprivileged();
        let own_files = restricted(&files, self.network)?;
        service_calls::of_this_process()?.apply()?;
        Ok(Confined { own_user, own_files })
    }

    fn folders_at_home(&self) -> Vec<&Path> {
        let all = self.owns.iter().chain(self.reads).copied();
        all.filter(|path| path.starts_with(self.home)).collect()
    }

    /// What may be opened, and whether it may be changed.
    fn open_files(&self) -> io::Result<Vec<(File, bool)>> {
        let mut open = Vec::new();
        if let Some(folder) = self.owns {
            open.push((place(folder)?, true));
        }
        for path in self.reads {
            open.push((place(path)?, false));
        }
        if self.network == Network::Connects {
            // Not every system has everything, and not every ordinary user may read it.
            open.extend(system_files().flat_map(place).map(|file| (file, false)));
        }
        Ok(open)
    }
}

/// What lies at `path`, named and not opened: nothing there keeps us waiting.
fn place(path: impl AsRef<Path>) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_ref(), flags, Mode::empty())?.into())
}

const CHANGE_USER: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// From root to a user without capabilities, and without other groups.
fn become_user(user: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    // What a program could have goes now; what this process has goes with the user.
    keep_capabilities(CHANGE_USER, CapabilitySet::empty())?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Whether the kernel restricts which files are opened.
fn restricted(files: &[(File, bool)], network: Network) -> io::Result<bool> {
    let open = files.iter();
    let folders: Vec<_> = open
        .map(|(file, writable)| OpenFolder { folder: file.as_fd(), writable: *writable })
        .collect();
    match restrict_files(None, &folders, network) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        restricted => restricted.map(|()| true),
    }
}
