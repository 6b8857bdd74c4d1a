use std::io::{self, Read as _, Write};

use serde::Serialize;
use spec::{Descriptor, Reference};

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
    repo_tags: [String; 1],
    layers: Vec<String>,
}

/// Writes the image at `descriptor` as a tar of an OCI layout, under the name `reference`. For an
/// image of one platform it is a `docker save` archive too, so that `docker load` takes it. The
/// same image gives the same bytes.
///
/// # Errors
/// [`Error::NoBlob`] when it is not complete.
pub fn export(
    layout: &Layout,
    reference: &Reference,
    descriptor: &Descriptor,
    out: impl Write,
) -> Result<(), Error> {
    let mut tar = io::BufWriter::with_capacity(256 << 10, out);
    let failed = || io_error("write", "the archive");
    write_entry(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed())?;
    let mut entry = descriptor.clone();
    entry.annotations.insert(REF_NAME.to_owned(), reference.to_string());
    let index = serde_json::to_vec(&index_over(vec![entry]));
    let index = index.expect("an index has string keys only");
    write_entry(&mut tar, "index.json", &index).map_err(failed())?;
    let path_of = |blob: &Descriptor| {
        format!("blobs/{}/{}", blob.digest.algorithm().name(), blob.digest.hex())
    };
    if let [(_, manifest)] = layout.manifests(descriptor)?.as_slice()
        && let Some(config) = &manifest.config
    {
        let layers = manifest.layers.iter().map(path_of).collect();
        let saved = [Saved { config: path_of(config), repo_tags: [reference.to_string()], layers }];
        let saved = serde_json::to_vec(&saved).expect("strings only");
        write_entry(&mut tar, "manifest.json", &saved).map_err(failed())?;
    }
    let mut blobs = layout.closure(descriptor)?;
    blobs.sort_by_key(|blob| blob.digest);
    for blob in blobs {
        if !layout.has_blob(&blob.digest, blob.size) {
            return Err(Error::NoBlob(blob.digest));
        }
        let content = image::Verified::new(layout.open_blob(&blob.digest)?, &blob);
        write_blob(&mut tar, &path_of(&blob), blob.size, content).map_err(failed())?;
    }
    tar.write_all(&[0; 1024]).and_then(|()| tar.flush()).map_err(failed())
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
