use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write},
};

use serde::Serialize;
use spec::{Descriptor, Digest, Reference};

use crate::{
    error::{Error, io_error},
    layer::tarball::write_entry,
    layout::{Layout, REF_NAME, index_over},
};

/// Docker reads this one, and ignores the rest of a layout.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes images as a tar of an OCI layout, each under its name. Those of one platform can be read
/// as in a `docker save` archive too, so that `docker load` takes them. The same images give the
/// same bytes.
///
/// # Errors
/// [`Error::NoBlob`] when one is not complete.
pub fn export(
    layout: &Layout,
    images: &[(Reference, Descriptor)],
    out: impl Write,
) -> Result<(), Error> {
    let mut tar = io::BufWriter::with_capacity(256 << 10, out);
    let failed = || io_error("write", "the archive");
    write_entry(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed())?;
    let named: BTreeMap<&Reference, &Descriptor> =
        images.iter().map(|(reference, descriptor)| (reference, descriptor)).collect();
    let entries = named.iter().map(|(reference, descriptor)| {
        let mut entry = (*descriptor).clone();
        entry.annotations.insert(REF_NAME.to_owned(), reference.to_string());
        entry
    });
    let index = serde_json::to_vec(&index_over(entries.collect()));
    let index = index.expect("an index has string keys only");
    write_entry(&mut tar, "index.json", &index).map_err(failed())?;
    let saved = saved(layout, &named)?;
    if !saved.is_empty() {
        let saved = serde_json::to_vec(&saved).expect("strings only");
        write_entry(&mut tar, "manifest.json", &saved).map_err(failed())?;
    }
    let mut blobs = BTreeMap::new();
    for descriptor in named.values() {
        blobs.extend(layout.closure(descriptor)?.into_iter().map(|blob| (blob.digest, blob)));
    }
    for blob in blobs.into_values() {
        if !layout.has_blob(&blob.digest, blob.size) {
            return Err(Error::NoBlob(blob.digest));
        }
        let content = image::Verified::new(layout.open_blob(&blob.digest)?, &blob);
        write_blob(&mut tar, &path_of(&blob), blob.size, content).map_err(failed())?;
    }
    tar.write_all(&[0; 1024]).and_then(|()| tar.flush()).map_err(failed())
}

fn path_of(blob: &Descriptor) -> String {
    format!("blobs/{}/{}", blob.digest.algorithm().name(), blob.digest.hex())
}

/// What Docker reads: each image of one platform once, with all of its names.
fn saved(layout: &Layout, named: &BTreeMap<&Reference, &Descriptor>) -> Result<Vec<Saved>, Error> {
    let mut saved: BTreeMap<Digest, Saved> = BTreeMap::new();
    for (reference, descriptor) in named {
        let manifests = layout.manifests(descriptor)?;
        let [(_, manifest)] = manifests.as_slice() else { continue };
        let Some(config) = &manifest.config else { continue };
        let image = saved.entry(descriptor.digest).or_insert_with(|| Saved {
            config: path_of(config),
            repo_tags: Vec::new(),
            layers: manifest.layers.iter().map(path_of).collect(),
        });
        image.repo_tags.push(reference.to_string());
    }
    Ok(saved.into_values().collect())
}

fn write_blob(
    tar: &mut impl Write,
    path: &str,
    size: u64,
    mut content: impl io::Read,
) -> io::Result<()> {
    crate::layer::tarball::headers(tar, path, b'0', crate::items::Meta::of(0o644), size, "", 0)?;
    let copied = io::copy(&mut content.by_ref().take(size), tar)?;
    // One more byte asked for: the end is where the digest is compared.
    if copied != size || content.read(&mut [0])? != 0 {
        return Err(io::Error::other("a blob changed while it was written out"));
    }
    tar.write_all(&vec![0; (size.next_multiple_of(512) - size) as usize])
}
