//! The layers of an image, read to their end before the image gets a name: what is hostile or
//! broken is refused when it comes in, and not when it runs.

use std::io::{self, Read};

use image::{Budget, FileIndexBuilder, Format, Notes, Plan};
use spec::{Descriptor, Digest};

use crate::{error::Error, layout::Layout};

impl Layout {
    /// Reads every layer of the image at `descriptor` (of an index, of all its images that are
    /// here), and compares them with their digests. Each time anew, whatever was found before. Says
    /// in a line each what is read otherwise than it is written. `moved` is told the bytes of each
    /// piece that was read.
    ///
    /// # Errors
    /// [`Error::Layer`] names the entry and what is wrong with it.
    pub fn check_layers(
        &self,
        descriptor: &Descriptor,
        moved: &dyn Fn(u64),
    ) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        for (manifest, _) in self.manifests(descriptor)? {
            // What is no image (a signature, a chart) has nothing that could run.
            let Ok(plan) = self.plan(&manifest) else { continue };
            if !matches!(plan.format, Format::Image | Format::Runwasi) {
                continue;
            }
            let found = check(self, &plan, moved)?;
            notes.extend(found.lines(plan.kind_hint()));
        }
        notes.dedup();
        Ok(notes)
    }

    /// How many bytes [`Layout::check_layers`] will read.
    ///
    /// # Errors
    /// [`Error::Image`] when the image is malformed.
    pub fn layer_bytes(&self, descriptor: &Descriptor) -> Result<u64, Error> {
        let manifests = self.manifests(descriptor)?;
        let layers = manifests.iter().flat_map(|(_, manifest)| &manifest.layers);
        Ok(layers.map(|layer| layer.size).sum())
    }
}

fn check(layout: &Layout, plan: &Plan, moved: &dyn Fn(u64)) -> Result<Notes, Error> {
    let mut builder = FileIndexBuilder::new();
    let refused = |layer: &Digest, source| Error::Layer { layer: *layer, refusal: source };
    for (number, layer) in plan.layers.iter().enumerate() {
        let digest = &layer.descriptor.digest;
        let blob = Told { inner: layout.open_blob(digest)?, moved };
        layer
            .read(blob, io::sink(), &mut builder, number, Budget::default())
            .map_err(|source| refused(digest, source))?;
    }
    Ok(builder.notes().clone())
}

/// Tells how many bytes go through.
pub(crate) struct Told<'a, R> {
    pub(crate) inner: R,
    pub(crate) moved: &'a dyn Fn(u64),
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        (self.moved)(n as u64);
        Ok(n)
    }
}
