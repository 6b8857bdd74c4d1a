use std::{fs, io, path::Path};

use engine::mount::{IdRange, Ids, Programs, Shown, detach, show_ids};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use serde::{Deserialize, Serialize};
use spec::Rights;

use crate::limits::{FIRST_ID, ID_COUNT};

/// What the file system of a folder can be for containers; each an error text where it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layering {
    /// Hold the writable layer of a root file system.
    pub writable_layers: Option<String>,
    /// Show its files with the ids of containers.
    pub id_mapped_mounts: Option<String>,
}

/// Tries both in `folder`. Call this in a mount namespace of its own, because it mounts.
pub fn probe_layering(folder: &Path) -> Layering {
    let text = |error: io::Error| error.to_string();
    Layering {
        writable_layers: try_layers(folder).err().map(text),
        id_mapped_mounts: try_ids(folder).err().map(text),
    }
}

fn try_layers(folder: &Path) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let trial = tempfile::Builder::new().prefix(".probe-").tempdir_in(folder)?;
    for name in ["lower", "upper", "work", "root"] {
        fs::create_dir(trial.path().join(name))?;
    }
    rustix::process::chdir(trial.path())?;
    let options = c"userxattr,lowerdir=lower,upperdir=upper,workdir=work";
    let mounted = mount("overlay", "root", "overlay", MountFlags::empty(), options);
    if mounted.is_ok() {
        rustix::mount::unmount("root", rustix::mount::UnmountFlags::DETACH)?;
    }
    rustix::process::chdir("/")?;
    Ok(mounted?)
}

fn try_ids(folder: &Path) -> io::Result<()> {
    let range = IdRange { on_disk: 0, shown: FIRST_ID, count: ID_COUNT };
    let mount = detach(folder, Rights::READ, Programs::Forbidden)?;
    match show_ids(&mount, Ids { users: range, groups: range })? {
        Shown::Done => Ok(()),
        Shown::Unsupported => Err(io::ErrorKind::Unsupported.into()),
    }
}
