use std::fs;

use crate::{
    error::{Error, Result},
    home::Home,
    tasks::TaskRecord,
};

/// Removes the volumes that were made for this task alone. It has no process any more.
///
/// # Errors
/// When one cannot be removed.
pub(crate) fn remove(home: &Home, record: &TaskRecord) -> Result<()> {
    for mount in record.mounts.iter().filter(|mount| mount.anonymous) {
        // A name that is no name leads nowhere but below the folder of volumes.
        let Ok(name) = mount.source.parse::<spec::VolumeName>() else { continue };
        let folder = home.volumes(spec::OPERATOR).join(name.as_str());
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove the volume", &folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{MountRecord, folder_tests};

    #[test]
    fn only_volumes_that_were_made_for_a_task_go_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let volumes = home.volumes(spec::OPERATOR);
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
