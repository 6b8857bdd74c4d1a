//! What is done with files of containers outside of one: by root itself, and for an ordinary user
//! by a process that is root of the namespace whose users the files have.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use engine::frame;
use rustix::thread::{UnshareFlags, set_thread_groups};

use super::{disk_usage, lower_links};
use crate::{
    Error, Layering,
    host::{
        layering::probe_writable_layers,
        rights::{Rights, rights},
    },
    limits::UNPACK_TIME_MAX,
    namespace::{give_ids, take_ids, try_proc},
    protocol::{Chore, Job, Outcome, Reply, expect_reply},
    spawn::{end_process, start_process},
};

/// This binary, which is also its own shim. By this name it is the one that runs, even when an
/// upgrade has replaced the file.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Makes the hard links of a layer.
pub(super) fn link(
    layer: &str,
    folder: &Path,
    links: Vec<(String, String)>,
    lower: &[PathBuf],
) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    let (layer, folder) = (layer.to_owned(), folder.to_owned());
    order(Chore::Link { layer, folder, links, lower: lower.to_owned() }).map(drop)
}

/// What the tree below `folder` takes of the disk.
pub(super) fn weigh(folder: &Path) -> Result<u64, Error> {
    match order(Chore::Weigh(folder.to_owned()))? {
        Outcome::Bytes(bytes) => Ok(bytes),
        other => Err(Error::protocol(format!("{other:?}"))),
    }
}

/// Removes a folder with all that is in it, also what belongs to the users of containers.
///
/// # Errors
/// As [`fs::remove_dir_all`].
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match rights() {
            Ok(Rights::Subordinate(..)) => order(Chore::Remove(folder.to_owned()))
                .map(drop)
                .map_err(|why| io::Error::other(why.chain())),
            Ok(Rights::Root) | Err(_) => Err(error),
        },
        other => other,
    }
}

/// What an ordinary user's containers can have in `folder`, tried in a namespace as they get it.
/// Nothing where this process is root.
///
/// # Errors
/// Why there can be no such namespace.
pub fn try_namespace(folder: &Path) -> Result<Option<Layering>, Error> {
    match rights()? {
        Rights::Root => Ok(None),
        Rights::Subordinate(..) => match order(Chore::Try(folder.to_owned()))? {
            Outcome::Layering(found) => Ok(Some(found)),
            other => Err(Error::protocol(format!("{other:?}"))),
        },
    }
}

fn order(chore: Chore) -> Result<Outcome, Error> {
    if let Rights::Root = rights()? {
        return perform(&chore);
    }
    let (socket, process) = start_process(Path::new(OWN_PROGRAM), Path::new("/dev/null"))?;
    let exchange = || {
        frame::send_document(&socket, &Job::Chore(chore), &[])
            .map_err(Error::io("send work on files to a process"))?;
        give_ids(&socket, process.pid)?;
        match expect_reply(&socket, UNPACK_TIME_MAX)?.0 {
            Reply::Chore(outcome) => Ok(outcome),
            other => Err(other.into_error()),
        }
    };
    let outcome = exchange();
    end_process(&process);
    outcome
}

/// In the process of an ordinary user.
pub(crate) fn serve(socket: &OwnedFd, chore: &Chore) -> Result<Outcome, Error> {
    take_ids(socket, UnshareFlags::NEWNS | UnshareFlags::NEWPID)?;
    set_thread_groups(&[]).map_err(Error::io("leave the groups of the user"))?;
    perform(chore)
}

fn perform(chore: &Chore) -> Result<Outcome, Error> {
    match chore {
        Chore::Remove(folder) => {
            let removing = || format!("remove `{}`", folder.display());
            fs::remove_dir_all(folder).map_err(Error::io(removing()))?;
            Ok(Outcome::Done)
        }
        Chore::Weigh(folder) => {
            let weighing = || format!("weigh `{}`", folder.display());
            Ok(Outcome::Bytes(disk_usage::of(folder).map_err(Error::io(weighing()))?))
        }
        Chore::Link { layer, folder, links, lower } => {
            lower_links::make(layer, folder, links, lower)?;
            Ok(Outcome::Done)
        }
        Chore::Try(folder) => {
            try_proc()?;
            Ok(Outcome::Layering(probe_writable_layers(folder)))
        }
    }
}
