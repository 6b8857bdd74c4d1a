use engine::{VolumeMount, VolumeSource};
use spec::{FileGrant, Rights};

use crate::{host_files, worker::files::Volume};

/// Opens the granted volumes, for which it takes a capability and paths; each with its path.
pub(crate) fn mount(
    mounts: Vec<VolumeMount>,
    grants: &[FileGrant],
    denied: &mut Vec<String>,
) -> Result<Vec<(String, Volume)>, String> {
    let mut volumes = Vec::new();
    for mount in mounts {
        let path = mount.path.clone();
        match cut(mount, grants) {
            Ok(mount) => volumes.push((path, opened(mount)?)),
            Err(line) => denied.push(line),
        }
    }
    Ok(volumes)
}

/// A mount cut to what was granted at its path, or the line that would grant it.
fn cut(mount: VolumeMount, grants: &[FileGrant]) -> Result<VolumeMount, String> {
    let at_its_path = |grant: &&FileGrant| grant.volume.is_some() && grant.path == mount.path;
    let Some(&FileGrant { rights, max_bytes: max, .. }) = grants.iter().find(at_its_path) else {
        return Err(format!("fs:{}#{};volume=NAME", mount.path, mount.rights));
    };
    let both = Rights {
        read: rights.read && mount.rights.read,
        write: rights.write && mount.rights.write,
        execute: false,
        delete: rights.delete && mount.rights.delete,
    };
    let max_bytes = match (mount.bytes_max, max) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    Ok(VolumeMount { rights: both, bytes_max: max_bytes, ..mount })
}

fn opened(mount: VolumeMount) -> Result<Volume, String> {
    let root = match mount.source {
        VolumeSource::Detached(fd) => Ok(fd),
        VolumeSource::Folder(path) => host_files::volume(&path, mount.rights),
        VolumeSource::Host(path) => host_files::host(&path, mount.rights, None),
    };
    let root = root.map_err(|error| match error.hint() {
        Some(hint) => format!("{}; {hint}", error.chain()),
        None => error.chain(),
    })?;
    Volume::new(root, mount.rights, mount.bytes_max)
        .map_err(|error| format!("cannot look at the mount at `{}`: {error}", mount.path))
}
