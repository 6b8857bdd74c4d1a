use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// One platform's folder on disk (`MARGAY_HOME`). Two of them on one machine never meet.
///
/// Everything below is for its owner alone (0700); a volume is open to all users below
/// these folders, so that only its task reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// A tenant's pulled blobs, in its folder.
pub(crate) const PULLED: &str = "pulled";

impl Home {
    /// The home at `root`, made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or is open to others and that cannot be changed.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        make_private(&root)?;
        // Names of files are handed to other processes, whose working folder is not ours.
        let root = fs::canonicalize(&root).map_err(Error::file("find", &root))?;
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The OCI layout of local images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Images of all tenants that were pulled or are ready to run.
    pub fn all_prepared(&self) -> PathBuf {
        self.root.join("prepared")
    }

    /// Those of one tenant, or of [`OPERATOR`](spec::OPERATOR). Nothing is shared: a
    /// tenant that knows the digest of another tenant's blob cannot reach it here either.
    pub fn prepared(&self, owner: &str) -> PathBuf {
        self.all_prepared().join(owner)
    }

    /// An OCI layout of files that were only run.
    pub fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// The OCI layout of what the agent has pulled for a tenant.
    pub(crate) fn pulled(&self, owner: &str) -> PathBuf {
        self.prepared(owner).join(PULLED)
    }

    /// Where each of them keeps the unpacked layers of native images.
    pub(crate) fn all_unpacked(&self) -> Vec<PathBuf> {
        let owners = fs::read_dir(self.all_prepared()).into_iter().flatten().flatten();
        owners.map(|owner| owner.path().join("native")).filter(|folder| folder.is_dir()).collect()
    }

    /// The key that seals this node's machine code.
    pub fn key(&self) -> PathBuf {
        self.root.join("key")
    }

    /// A folder for each task.
    pub fn tasks(&self) -> PathBuf {
        self.root.join("tasks")
    }

    /// The volumes of a tenant, or `local` for those of tasks without a control plane.
    pub fn volumes(&self, owner: &str) -> PathBuf {
        self.root.join("volumes").join(owner)
    }

    /// What the agent of a cluster's node keeps.
    pub fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// What the ingress reads.
    pub fn ingress(&self) -> PathBuf {
        self.root.join("ingress")
    }

    /// Sockets of the processes of `margay up`.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
}

/// Makes a folder for its owner alone, and its parents; one that exists keeps its mode.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    disk::private_folder(path).map_err(Error::file("make folder", path))
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("change the mode of", path))
}
