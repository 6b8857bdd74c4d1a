//! Where everything of one margay lives. Two homes on one machine never meet.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::failure::{Advice, fail};

/// The folder `MARGAY_HOME`. Holding one proves that it exists and that only its owner may look inside.
#[derive(Debug, Clone)]
pub struct Home(node::Home);

impl Home {
    /// Finds and makes the home: `given`, else the machine's folder for root, else the XDG data folder.
    pub fn open(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = match given {
            Some(path) => path,
            None => Self::default_path()?,
        };
        make_private(&path)?;
        Ok(Self(node::Home::at(path)?))
    }

    fn default_path() -> anyhow::Result<PathBuf> {
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/margay"));
        }
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
            (Some(data), _) => Ok(data.join("margay")),
            (None, Some(home)) => Ok(home.join(".local/share/margay")),
            (None, None) => fail(
                Advice::new("cannot tell where to keep images and tasks: neither `MARGAY_HOME` nor `HOME` is set")
                    .hint("set it: MARGAY_HOME=/some/folder margay …"),
            ),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.0.root()
    }

    /// The same, as the room that runs tasks knows it.
    pub fn node(&self) -> &node::Home {
        &self.0
    }

    /// The local images, one OCI layout.
    pub fn images(&self) -> PathBuf {
        self.path().join("images")
    }

    /// Images of files that were run without being taken in; a layout as well.
    pub fn files(&self) -> PathBuf {
        self.path().join("files")
    }

    /// Registry logins.
    pub fn credentials(&self) -> PathBuf {
        self.path().join("credentials.json")
    }

    /// What `margay up` says about itself.
    pub fn up_json(&self) -> PathBuf {
        self.path().join("up.json")
    }

    /// The control plane's socket.
    pub fn server_socket(&self) -> PathBuf {
        self.path().join("run/server.sock")
    }

    /// A folder of this home, made when it is missing.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        make_private(&path)?;
        Ok(path)
    }
}

/// Makes `path` with mode 0700, and tightens one that was there already and is ours.
fn make_private(path: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot make the folder `{}`", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(named)?;
    let mode = fs::metadata(path).with_context(named)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot make `{}` private", path.display()))?;
    }
    Ok(())
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let named = || format!("cannot write `{}`", path.display());
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(named)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(named)?;
    fs::rename(&temporary, path).with_context(named)?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(named)?;
    }
    Ok(())
}
