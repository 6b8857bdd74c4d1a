//! How a process becomes the user that its namespace has for it, where its supervisor is an
//! ordinary user ([`Separation::SubordinateIds`](crate::Separation)).
//!
//! It does so in two steps, while it has one thread. First it takes the number, by its real user
//! id: from then on the kernel tells every other supervisor that there is a process of that user.
//! It keeps the rights of its supervisor until it has opened what it was assigned, and gives them
//! up before it reads a byte of a guest.

use std::{io, os::fd::OwnedFd};

use engine::frame;
use rustix::{
    fs::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
        set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use serde::{Deserialize, Serialize};

/// Set for a process that is to become a user of its own.
pub(crate) const OWN_USER: &str = "MARGAY_OWN_USER";

/// The first message to such a process: its namespace has the users.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mapped;

/// Its supervisor's user in its namespace, and its own.
const SUPERVISORS: u32 = 0;
const OWN: u32 = 1;

/// What a worker of an ordinary user takes along over exec, in its own namespace: to open its
/// mounts, to become a user, and to go to the empty folder.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT);

/// Keeps the capabilities of a new namespace over exec, although the namespace has no user yet.
pub(crate) fn keep_over_exec() -> io::Result<()> {
    let sets = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: KEPT, ..sets })?;
    for capability in KEPT.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Whose rights over files a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilesOf {
    /// Its own: none over files of its supervisor.
    Itself,
    /// Those of its supervisor, whose volumes and folders it works on, so that these files belong
    /// to its supervisor. Landlock shows it those alone.
    Supervisor,
}

/// The user that a process has taken and is to become.
#[derive(Debug)]
#[must_use]
pub(crate) struct Taken(bool);

/// Takes the own user, where this process is to have one: no other process is given it while this
/// one lives.
pub(crate) fn take(control: &OwnedFd) -> io::Result<Taken> {
    if std::env::var_os(OWN_USER).is_none() {
        return Ok(Taken(false));
    }
    frame::receive::<Mapped>(control)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let (own, before) = (Uid::from_raw(OWN), Uid::from_raw(SUPERVISORS));
    set_thread_res_uid(own, before, before)?;
    Ok(Taken(true))
}

impl Taken {
    /// Becomes that user for ever.
    pub fn enter(self, files: FilesOf) -> io::Result<()> {
        if !self.0 {
            return Ok(());
        }
        let permitted = capabilities(None)?.permitted;
        set_keep_capabilities(true)?;
        if files == FilesOf::Itself {
            set_thread_groups(&[])?;
        }
        let (uid, gid) = (Uid::from_raw(OWN), Gid::from_raw(OWN));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?;
        match files {
            FilesOf::Itself => Ok(()),
            FilesOf::Supervisor => open_files_as(SUPERVISORS),
        }
    }
}

/// Makes one user and group of the namespace decide about files.
fn open_files_as(id: u32) -> io::Result<()> {
    const ASK: u32 = u32::MAX;
    // SAFETY: plain numbers. The calls answer with the id of before, and change nothing for the id
    // that means none.
    let became = unsafe {
        libc::setfsgid(id);
        libc::setfsuid(id);
        [libc::setfsgid(ASK), libc::setfsuid(ASK)]
    };
    match became.iter().all(|&now| u32::try_from(now) == Ok(id)) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}
