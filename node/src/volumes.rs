//! Named volumes: folders that tasks share and that outlive them.
//!
//! A volume is there as soon as its folder is; what was said when it was made lies in a file beside
//! the folders. Absent on purpose: drivers, and volumes of a platform's tenants.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use disk::Survives;
use serde::{Deserialize, Serialize};
use spec::{Timestamp, VolumeName};

use crate::{
    error::{Error, Result},
    events::{self, Event, Subject},
    files,
    home::{Home, make_private, set_mode},
    tasks,
};

/// A named volume of tasks without a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: VolumeName,
    pub folder: PathBuf,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    /// The names of the tasks that mount it, ended ones included.
    pub tasks: Vec<String>,
}

/// What is kept beside a volume's folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    labels: BTreeMap<String, String>,
}

/// Entries that are counted of one volume: those beyond are left out of its size.
const ENTRIES_MAX: usize = 1_000_000;

impl Volume {
    /// What its files take on the disk.
    pub fn bytes(&self) -> u64 {
        bytes_below(&self.folder)
    }

    /// Whether margay chose its name: it was made for one task, without a name of its own.
    pub fn is_anonymous(&self) -> bool {
        let name = self.name.as_str();
        name.len() >= ANONYMOUS_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// A name of so many hex digits was not chosen by hand.
const ANONYMOUS_LENGTH: usize = 32;

/// Every volume, by name.
///
/// # Errors
/// When the folders cannot be read.
pub fn list(home: &Home) -> Result<Vec<Volume>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for task in tasks::list(home)? {
        for mount in &task.record().mounts {
            let names = users.entry(mount.source.clone()).or_default();
            names.push(task.record().name.clone());
        }
    }
    let mut volumes = Vec::new();
    for folder in files::list(&home.volumes(spec::OPERATOR))? {
        let name = folder.file_name().and_then(|name| name.to_str()?.parse::<VolumeName>().ok());
        let Some(name) = name.filter(|_| folder.is_dir()) else { continue };
        let kept: Kept = files::read_json(&kept(home, &name))?.unwrap_or_default();
        let made = fs::metadata(&folder).and_then(|facts| facts.created().or(facts.modified()));
        volumes.push(Volume {
            created: Timestamp::of(made.unwrap_or(std::time::UNIX_EPOCH)),
            labels: kept.labels,
            tasks: users.remove(name.as_str()).unwrap_or_default(),
            folder,
            name,
        });
    }
    Ok(volumes)
}

/// The volume that is called `text`.
///
/// # Errors
/// [`Error::NoSuchVolume`].
pub fn find(home: &Home, text: &str) -> Result<Volume> {
    let found = list(home)?.into_iter().find(|volume| volume.name.as_str() == text);
    found.ok_or_else(|| Error::NoSuchVolume(text.chars().take(100).collect()))
}

/// Makes a volume. One that is there stays as it is.
///
/// # Errors
/// When its folder cannot be made.
pub fn create(
    home: &Home,
    name: &VolumeName,
    labels: &BTreeMap<String, String>,
) -> Result<PathBuf> {
    let folder = folder(home, spec::OPERATOR, name)?;
    let path = kept(home, name);
    if !labels.is_empty() && !path.exists() {
        files::write_json(&path, &Kept { labels: labels.clone() }, Survives::PowerLoss)?;
    }
    Ok(folder)
}

/// A volume's folder, made where it is missing. Open to every user, because each worker is another;
/// its parents are closed to all.
pub(crate) fn folder(home: &Home, owner: &str, volume: &VolumeName) -> Result<PathBuf> {
    let parent = home.volumes(owner);
    make_private(&parent)?;
    let folder = parent.join(volume.as_str());
    match fs::create_dir(&folder) {
        Ok(()) => {
            set_mode(&folder, 0o777)?;
            if owner == spec::OPERATOR {
                events::record(home, Event::of(Subject::Volume, "create", volume.as_str()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::file("make volume", &folder)(error)),
    }
    Ok(folder)
}

/// Removes a volume with its files.
///
/// # Errors
/// [`Error::VolumeInUse`] names the tasks that mount it.
pub fn remove(home: &Home, volume: &Volume) -> Result<()> {
    if let Some(task) = volume.tasks.first() {
        let (volume, task) = (volume.name.to_string(), task.clone());
        return Err(Error::VolumeInUse { volume, task });
    }
    let hidden = volume.folder.with_file_name(format!(".removed-{}", volume.name));
    let _ = shim::remove_tree(&hidden);
    fs::rename(&volume.folder, &hidden).map_err(Error::file("remove", &volume.folder))?;
    let _ = fs::remove_file(kept(home, &volume.name));
    events::record(home, Event::of(Subject::Volume, "destroy", volume.name.as_str()));
    shim::remove_tree(&hidden).map_err(Error::file("remove", &hidden))
}

/// Hidden, so that it is no volume.
fn kept(home: &Home, name: &VolumeName) -> PathBuf {
    home.volumes(spec::OPERATOR).join(format!(".{name}.json"))
}

/// What the files below `folder` take on the disk. Links are not followed, and what cannot be read
/// is left out.
pub fn bytes_below(folder: &Path) -> u64 {
    let (mut bytes, mut seen) = (0u64, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > ENTRIES_MAX {
                return bytes;
            }
            let Ok(facts) = entry.metadata() else { continue };
            match facts.is_dir() {
                true => folders.push(entry.path()),
                false => bytes = bytes.saturating_add(facts.blocks().saturating_mul(512)),
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_once_listed_and_removed_when_no_task_mounts_it() {
        let temporary = tempfile::tempdir().unwrap();
        let home = Home::at(temporary.path().join("home")).unwrap();
        let name: VolumeName = "book".parse().unwrap();
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let path = create(&home, &name, &labels).unwrap();
        fs::write(path.join("file"), vec![1; 10_000]).unwrap();
        create(&home, &name, &BTreeMap::new()).unwrap();
        let volume = find(&home, "book").unwrap();
        assert_eq!((volume.labels.clone(), volume.tasks.len()), (labels, 0));
        assert!(volume.bytes() >= 10_000 && !volume.is_anonymous());
        assert_eq!(list(&home).unwrap().len(), 1, "what lies beside it is no volume");
        let used = Volume { tasks: vec!["tom".to_owned()], ..volume.clone() };
        assert!(matches!(remove(&home, &used), Err(Error::VolumeInUse { .. })));
        remove(&home, &volume).unwrap();
        assert_eq!(list(&home).unwrap(), []);
        assert_eq!(fs::read_dir(home.volumes(spec::OPERATOR)).unwrap().count(), 0);
        assert!(matches!(find(&home, "book"), Err(Error::NoSuchVolume(_))));
    }
}
