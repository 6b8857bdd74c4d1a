use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use disk::{NewFile, Survives};
use serde::{Deserialize, Serialize};
use spec::Digest;

use super::preparation::{Facts, Prepared};
use crate::{Error, Key, engine, limits::META_BYTES_MAX};

/// The last file to be written: with it the others are complete.
const META: &str = "prepared.json";
pub(super) const CODE: &str = "code";
pub(super) const INDEX: &str = "index";
pub(super) const LINES: &str = "lines";
/// The version of [`Meta`]: 2 reads layers as builders write them, and refuses fewer; 3 keeps the
/// heap of Go apart from the adapter; 4 lets modules call their imports directly; 5 has the lines
/// of the source.
const VERSION: u32 = 5;

/// What is written beside the files: how they were made, and their seals.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub version: u32,
    /// Which engine, with which settings, on which processor.
    pub fingerprint: String,
    pub outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// Fit to run.
    Ready { facts: Facts, code_seal: String, index_seal: String, lines_seal: Option<String> },
    /// Not fit, for a reason that lies in the image: another preparation finds it too.
    Refused { code: String, message: String, hint: Option<String> },
}

/// What this build of the engine makes on this processor.
pub(super) fn fingerprint() -> Result<String, Error> {
    static FINGERPRINT: OnceLock<Option<String>> = OnceLock::new();
    let known = FINGERPRINT
        .get_or_init(|| engine::compiler().ok().map(|engine| engine::fingerprint(&engine)));
    known
        .clone()
        .ok_or_else(|| Error::NotStarted("this machine cannot host the Wasm engine".to_owned()))
}

/// Opens what an earlier preparation has left in `out`, if it is complete, made by this build on
/// this processor, and exactly what `key` has sealed. Anything else is as good as nothing: it is
/// made anew.
///
/// # Errors
/// [`Error::Refused`] when the image was found unfit before.
pub fn open(out: &Path, layers_dir: &Path, key: &Key) -> Result<Option<Prepared>, Error> {
    let Some(meta) = read_meta(out, key) else { return Ok(None) };
    if meta.fingerprint != fingerprint()? {
        return Ok(None);
    }
    match meta.outcome {
        Outcome::Refused { code, message, hint } => Err(Error::Refused { code, message, hint }),
        Outcome::Ready { facts, code_seal, index_seal, lines_seal } => {
            let (Some(code), Some(index)) = (
                sealed(&out.join(CODE), CODE, &code_seal, key),
                sealed(&out.join(INDEX), INDEX, &index_seal, key),
            ) else {
                return Ok(None);
            };
            let lines = match lines_seal {
                None => None,
                Some(seal) => match sealed(&out.join(LINES), LINES, &seal, key) {
                    Some(lines) => Some(lines),
                    None => return Ok(None),
                },
            };
            let layers = facts
                .layers
                .iter()
                .map(|layer| disk::open(&layer_path(layers_dir, layer), disk::Purpose::Read));
            let Ok(layers) = layers.collect::<io::Result<Vec<_>>>() else { return Ok(None) };
            Ok(Some(Prepared { code, index, lines, layers, facts, cached: true }))
        }
    }
}

/// The names, in its folder of layers, of those that the preparation in `out` needs; none when it
/// is not of this key.
pub fn layer_files(out: &Path, key: &Key) -> Vec<String> {
    match read_meta(out, key).map(|meta| meta.outcome) {
        Some(Outcome::Ready { facts, .. }) => facts.layers.iter().map(layer_name).collect(),
        Some(Outcome::Refused { .. }) | None => Vec::new(),
    }
}

fn read_meta(out: &Path, key: &Key) -> Option<Meta> {
    let path = out.join(META);
    let text = String::from_utf8(disk::read(&path, META_BYTES_MAX).ok()?).ok()?;
    let (seal, json) = text.split_once('\n')?;
    if key.seal(META, &mut json.as_bytes()).ok()? != seal {
        tracing::warn!(path = %path.display(), "not what this node has written: preparing the image anew");
        return None;
    }
    serde_json::from_str::<Meta>(json).ok().filter(|meta| meta.version == VERSION)
}

/// The file at `path`, from its start, when it bears `seal`.
fn sealed(path: &Path, purpose: &str, seal: &str, key: &Key) -> Option<File> {
    let mut file = disk::open(path, disk::Purpose::Read).ok()?;
    if key.seal(purpose, &mut file).ok()? == seal {
        return Some(file);
    }
    tracing::warn!(path = %path.display(), "not what this node has written: preparing the image anew");
    None
}

pub(super) fn write_meta(out: &Path, key: &Key, outcome: Outcome) -> Result<(), Error> {
    let path = out.join(META);
    let meta = Meta { version: VERSION, fingerprint: fingerprint()?, outcome };
    let json = serde_json::to_string(&meta)
        .map_err(io::Error::from)
        .map_err(Error::file("write", &path))?;
    let write = || -> io::Result<()> {
        let seal = key.seal(META, &mut json.as_bytes())?;
        let mut file = new_file(out)?;
        file.write_all(format!("{seal}\n{json}").as_bytes())?;
        file.commit(&path, Survives::PowerLoss)
    };
    write().map_err(Error::file("write", &path))
}

/// Where the uncompressed layer `diff_id` is kept.
pub(super) fn layer_path(layers_dir: &Path, diff_id: &Digest) -> PathBuf {
    layers_dir.join(layer_name(diff_id))
}

fn layer_name(diff_id: &Digest) -> String {
    format!("{}.tar", diff_id.to_string().replace(':', "-"))
}

/// A file for the preparer to write. A worker, under its own uid, opens it later through a
/// descriptor, so its mode is 0644; the folder is private.
pub(super) fn new_file(folder: &Path) -> io::Result<NewFile> {
    let file = NewFile::create_in(folder)?;
    file.set_mode(0o644)?;
    Ok(file)
}

/// The seal of the whole file.
pub(super) fn seal(file: &mut NewFile, purpose: &str, key: &Key) -> io::Result<String> {
    file.rewind()?;
    key.seal(purpose, file)
}

/// The digest of the whole file, as a layer is named.
pub(super) fn digest(file: &mut NewFile) -> io::Result<Digest> {
    file.rewind()?;
    let mut hasher = spec::Hasher::new(spec::Algorithm::Sha256);
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&chunk[..n]),
        }
    }
}
