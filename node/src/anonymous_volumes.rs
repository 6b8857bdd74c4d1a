//! Volumes without a name of a user's choice, each for one task: those that an image declares with
//! VOLUME, and `-v /path`. They stay when their task ends, and go with it where that is asked for.

use spec::{Capability, Digest, FileGrant, OPERATOR, VolumeName};

use crate::{
    error::{Error, Result},
    events::{self, Event, Subject},
    home::Home,
    request::{MountSource, Mounted},
    tasks::{Origin, TaskRecord},
};

/// Hex digits of such a name: as many as no user writes.
const DIGITS: usize = 32;

/// Mounts a volume at each of the paths `wanted` by an image where nothing is mounted yet. The same
/// task gets the same ones at every start.
///
/// # Errors
/// [`Error::Native`] names a path at which nothing can be mounted.
pub(crate) fn mount_wanted<'a>(
    container: &str,
    wanted: impl Iterator<Item = &'a String>,
    mounts: &mut Vec<Mounted>,
    grants: &mut Vec<Capability>,
) -> Result<()> {
    for text in wanted {
        let path = format!("/{}", text.trim_matches('/'));
        if mounts.iter().any(|mount| mount.path == path) {
            continue;
        }
        if path == "/" || format!("fs:{path}").parse::<Capability>().is_err() {
            return Err(Error::Native {
                why: format!("the image's VOLUME `{}` cannot be mounted", text.escape_debug()),
                hint: Some("use an absolute path below `/`, such as /data".to_owned()),
            });
        }
        let seed = format!("{container} {path}");
        let hex = Digest::of(seed.as_bytes()).hex();
        let volume: VolumeName = hex[..DIGITS].parse().expect("hex digits are a name");
        let grant = FileGrant::mount(&path, false, &volume, None);
        grants.push(Capability::Files(grant));
        let source = MountSource::Volume(volume);
        mounts.push(Mounted { source, path, read_only: false, bytes_max: None });
    }
    Ok(())
}

/// Removes the volumes that were made for this task alone. It has no process any more.
///
/// # Errors
/// When one cannot be removed.
pub(crate) fn remove(home: &Home, record: &TaskRecord) -> Result<()> {
    let owner = match &record.origin {
        Origin::Cluster(origin) => origin.tenant.as_str(),
        Origin::Local | Origin::Invoked => OPERATOR,
    };
    for mount in record.mounts.iter().filter(|mount| mount.anonymous) {
        // A name that is no name leads nowhere but below the folder of volumes.
        let Ok(name) = mount.source.parse::<VolumeName>() else { continue };
        let folder = home.volumes(owner).join(name.as_str());
        match shim::remove_tree(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove the volume", &folder)(error));
            }
            Ok(()) if owner == OPERATOR => {
                events::record(home, Event::of(Subject::Volume, "destroy", name.as_str()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether a name is one of these.
pub(crate) fn is_one(name: &VolumeName) -> bool {
    let name = name.as_str();
    name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tasks::{MountRecord, folder_tests};

    #[test]
    fn only_volumes_that_were_made_for_a_task_go_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let volumes = home.volumes(OPERATOR);
        let mount = |source: &str, anonymous| MountRecord {
            source: source.to_owned(),
            path: "/data".to_owned(),
            read_only: false,
            anonymous,
        };
        let outside = folder.path().join("outside");
        let mut record = folder_tests::record("t", "t");
        record.mounts = vec![
            mount("book", false),
            mount("made", true),
            mount("gone", true),
            mount(outside.to_str().unwrap(), true),
        ];
        for path in [volumes.join("book"), volumes.join("made/deep"), outside.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        remove(&home, &record).unwrap();
        assert!(volumes.join("book").exists() && outside.exists());
        assert!(!volumes.join("made").exists());
    }
}
