use std::{ffi::CStr, fs, io, path::Path};

use engine::mount::{IdMap, Ids, Programs, Shown, detach};
use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_change,
        move_mount, unmount,
    },
};
use serde::{Deserialize, Serialize};
use spec::Rights;

use crate::ids::HostIds;

/// What the file system of a folder can be for containers; each an error text where it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layering {
    /// Hold the writable layer of a root file system.
    pub writable_layers: Option<String>,
    /// Show its files with the ids of one container, also in layers.
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

/// The same of an ordinary user's, which shows no files with other ids.
pub(crate) fn probe_writable_layers(folder: &Path) -> Layering {
    let writable_layers = try_layers(folder).err().map(|error| error.to_string());
    Layering { writable_layers, id_mapped_mounts: None }
}

fn try_layers(folder: &Path) -> io::Result<()> {
    let trial = trial_in(folder)?;
    for name in ["lower", "upper", "work", "root"] {
        fs::create_dir(trial.path().join(name))?;
    }
    stack(trial.path(), c"userxattr,lowerdir=lower,upperdir=upper,workdir=work")
}

/// The same with other ids, as a container that runs has them.
fn try_ids(folder: &Path) -> io::Result<()> {
    let trial = trial_in(folder)?;
    for name in ["disk", "disk/lower", "disk/upper", "disk/work", "shown", "root"] {
        fs::create_dir(trial.path().join(name))?;
    }
    let mount = detach(&trial.path().join("disk"), Rights::READ_WRITE_DELETE, Programs::Forbidden)?;
    if IdMap::new(Ids::alike(&HostIds::EXAMPLE.shown()))?.show(&mount)? == Shown::Unsupported {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let shown = trial.path().join("shown");
    move_mount(&mount, c"", CWD, &shown, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let options = c"userxattr,lowerdir=shown/lower,upperdir=shown/upper,workdir=shown/work";
    let stacked = stack(trial.path(), options);
    unmount(&shown, UnmountFlags::DETACH)?;
    stacked
}

fn trial_in(folder: &Path) -> io::Result<tempfile::TempDir> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    tempfile::Builder::new().prefix(".probe-").tempdir_in(folder)
}

/// Mounts an overlay on `root`, and takes it away again.
fn stack(trial: &Path, options: &CStr) -> io::Result<()> {
    rustix::process::chdir(trial)?;
    let mounted = mount("overlay", "root", "overlay", MountFlags::empty(), options);
    if mounted.is_ok() {
        unmount("root", UnmountFlags::DETACH)?;
    }
    rustix::process::chdir("/")?;
    Ok(mounted?)
}
