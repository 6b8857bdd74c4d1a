//! `MARGAY_HOME`, the folder that holds all state. Two homes on one machine never meet.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde::de::DeserializeOwned;

use crate::failure::Advice;

/// The folder `MARGAY_HOME`. Holding one proves that it exists and that only its owner may look
/// inside.
#[derive(Debug, Clone)]
pub struct Home(node::Home);

impl Home {
    /// Finds and makes the home: `given`, else the machine's folder for root, else the XDG data
    /// folder.
    pub fn open(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = match given {
            Some(path) => path,
            None => Self::default_path()?,
        };
        claim(&path)?;
        Ok(Self(node::Home::at(path)?))
    }

    /// The home if there is one: nothing is made.
    pub fn existing(given: Option<PathBuf>) -> Option<Self> {
        let path = given.or_else(|| Self::default_path().ok()).filter(|path| path.is_dir())?;
        Some(Self(node::Home::at(path).ok()?))
    }

    fn default_path() -> anyhow::Result<PathBuf> {
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/margay"));
        }
        let absolute =
            |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
            (Some(data), _) => Ok(data.join("margay")),
            (None, Some(home)) => Ok(home.join(".local/share/margay")),
            (None, None) => {
                let why = match std::env::var("HOME") {
                    Ok(home) if !home.is_empty() => {
                        format!("`HOME` is `{home}`, which is no absolute path")
                    }
                    _ => "neither `MARGAY_HOME` nor `HOME` is set".to_owned(),
                };
                let message = format!("cannot tell where to keep images and tasks: {why}");
                bail!(Advice::new(message).hint("set it: MARGAY_HOME=/some/folder margay …"))
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.root()
    }

    pub fn node(&self) -> &node::Home {
        &self.0
    }

    pub fn images(&self) -> PathBuf {
        self.path().join("images")
    }

    /// Images of files that were run without being taken in; a layout as well.
    pub fn files(&self) -> PathBuf {
        self.path().join("files")
    }

    pub fn credentials(&self) -> PathBuf {
        self.path().join("credentials.json")
    }

    pub fn up_json(&self) -> PathBuf {
        self.path().join("up.json")
    }

    pub fn server_socket(&self) -> PathBuf {
        self.path().join("server/server.sock")
    }

    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        make(&path)?;
        Ok(path)
    }
}

/// Makes `path` with mode 0700, or takes one that is private. One that is open to others and empty
/// is made private, as a fresh mount is one; any other belongs to a user that this would lock out.
fn claim(path: &Path) -> anyhow::Result<()> {
    make(path)?;
    let named = || format!("cannot make `{}` private", path.display());
    let found = fs::metadata(path).with_context(named)?;
    let user = rustix::process::geteuid();
    ensure!(
        found.uid() == user.as_raw() || user.is_root(),
        Advice::new(format!("`{}` belongs to another user (uid {})", path.display(), found.uid()))
            .hint(ANOTHER)
    );
    let mode = found.permissions().mode();
    let (is_private, is_shared) = (mode & 0o077 == 0, mode & 0o1000 != 0);
    if is_private {
        return Ok(());
    }
    if !is_shared && fs::read_dir(path).with_context(named)?.next().is_none() {
        return fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(named);
    }
    let path = path.display();
    let hint = match fs::exists(format!("{path}/images/oci-layout")).unwrap_or(false) {
        true => format!("if no other user needs it: chmod 700 {path}"),
        false => {
            let folder = path.to_string();
            let folder = folder.trim_end_matches('/');
            format!("name a folder that is margay's alone: --home {folder}/margay")
        }
    };
    let mode = mode & 0o7777;
    let message =
        format!("`{path}` is open to others (mode {mode:o}), and a home is for its owner alone");
    bail!(Advice::new(message).hint(hint))
}

/// Makes `path` and what is missing above it, for their owner alone. One that is there keeps its
/// mode.
fn make(path: &Path) -> anyhow::Result<()> {
    disk::private_folder(path).map_err(|error| {
        let message = format!("cannot make the folder `{}`: {error}", path.display());
        Advice::new(message).hint(ANOTHER).into()
    })
}

/// What to do about a home that cannot be used.
const ANOTHER: &str = "keep everything in another folder: --home FOLDER, or MARGAY_HOME=FOLDER";

/// The longest is the one that remembers registries: some hundred bytes for each.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// Reads a JSON file; `None` where there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let named = || format!("cannot read `{}`", path.display());
    match disk::read(path, JSON_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(named),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(named),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    disk::write(path, bytes, disk::Survives::PowerLoss)
        .with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_user_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode, inside, want) in [
            ("fresh", 0o755, None, Some(0o700)),
            ("ours", 0o700, Some("file"), Some(0o700)),
            ("theirs", 0o755, Some("file"), None),
            ("shared", 0o1777, None, None),
            ("opened", 0o750, Some("images/oci-layout"), None),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.join("images")).unwrap();
            match inside {
                Some(inside) => fs::write(path.join(inside), "").unwrap(),
                None => fs::remove_dir(path.join("images")).unwrap(),
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let opened = Home::open(Some(path.clone()));
            let now = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(opened.is_ok().then_some(now), want, "{name}");
            assert_eq!(now, want.unwrap_or(mode), "{name}");
        }
        let home = folder.path().join("a/b");
        Home::open(Some(home.clone())).unwrap();
        assert_eq!(fs::metadata(home).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
