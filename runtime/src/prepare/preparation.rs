use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::{cgroup::Place, exec::CodeRange};
use serde::{Deserialize, Serialize};
use spec::Digest;

use crate::{Error, Key, World, code_area};

/// What is to be prepared, and where it goes.
#[derive(Debug)]
pub struct Preparation<'a> {
    /// The binary whose `main` calls [`main`] when it sees `arguments`.
    pub exe: PathBuf,
    pub arguments: Vec<OsString>,
    /// From the lowest to the highest.
    pub layers: Vec<LayerBlob>,
    pub program: Program,
    /// Where the uncompressed tars of all images are kept, by diff id. A private folder, made when
    /// it is missing.
    pub layers_dir: &'a Path,
    /// Where this image's index, machine code and facts go. A private folder, made when it is
    /// missing.
    pub out: &'a Path,
    /// Seals what was made.
    pub key: &'a Key,
    /// What the process may use.
    pub limits: PrepareLimits,
    /// The cgroup that it is put into, among those of the image's owner, where there are any.
    pub place: Option<Place>,
}

/// A layer as it was pulled or built.
#[derive(Debug)]
pub struct LayerBlob {
    /// Open for reading: plain tar, gzip or zstd.
    pub blob: File,
    /// The digest of the blob.
    pub digest: Digest,
    /// The digest of the uncompressed tar, as the image's config claims it.
    pub diff_id: Option<Digest>,
}

/// Where the program is.
#[derive(Debug)]
pub enum Program {
    /// A file in the layers, relative to their root.
    InLayers(String),
    /// A blob of its own (`application/wasm`).
    Blob { blob: File, digest: Digest },
}

/// What one preparation may use. Compiling is where hostile bytes hurt most (W6 in the threat
/// model).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareLimits {
    /// Address space of the process, in bytes. A 13 MB JavaScript engine needs 369 MB to compile.
    pub memory_bytes_max: u64,
    /// Pages that it has at once, those of the files that it writes included, which the kernel
    /// takes back first. Enforced where it has a cgroup.
    pub resident_bytes_max: u64,
    /// Time on a processor. The same engine needs 8.5 s.
    pub cpu_time_max: Duration,
    /// Until it is killed.
    pub wall_time_max: Duration,
    /// Bytes of the uncompressed layers together.
    pub layer_bytes_max: u64,
    /// Bytes of the program. 100 MiB as Fastly allows.
    pub program_bytes_max: u64,
}

impl Default for PrepareLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 4 << 30,
            resident_bytes_max: 2 << 30,
            cpu_time_max: Duration::from_secs(120),
            wall_time_max: Duration::from_secs(180),
            layer_bytes_max: 4 << 30,
            program_bytes_max: 100 << 20,
        }
    }
}

/// An image that is ready to be assigned, every file open.
#[derive(Debug)]
pub struct Prepared {
    /// For [`Assignment::code`](crate::Assignment::code).
    pub code: File,
    /// For [`Assignment::index`](crate::Assignment::index).
    pub index: File,
    /// For [`Assignment::lines`](crate::Assignment::lines).
    pub lines: Option<File>,
    /// For [`Assignment::layers`](crate::Assignment::layers).
    pub layers: Vec<File>,
    /// About the program.
    pub facts: Facts,
    /// Whether all of it was there already.
    pub cached: bool,
}

impl Prepared {
    /// Puts its machine code where the worker of the task in `folder` can run it beside its own
    /// program.
    ///
    /// # Errors
    /// When it does not fit, or cannot be written.
    pub fn place_for(&self, folder: &Path, key: &Key) -> Result<CodeRange, Error> {
        code_area::place(folder, &self.code, key)
    }
}

/// Facts about an image's program, from its preparation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What the program is written for.
    pub world: World,
    /// The digest of the program as it is in the image.
    pub wasm: Digest,
    /// Whether it is a WASI 0.1 module that became a component here.
    pub adapted: bool,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The uncompressed layers, from the lowest to the highest.
    pub layers: Vec<Digest>,
}
