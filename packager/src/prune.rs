use blobs::collect::{self, Swept};
use disk::Lock;
use spec::Descriptor;

use crate::{cache::Cache, error::Error, layout::Layout};

impl Layout {
    /// Removes every blob that no named image needs, what the build cache knows of such, and
    /// whatever was left half-written.
    ///
    /// # Errors
    /// As [`Layout::mark`], and [`Error::Io`] for the last blob that could not be removed.
    pub fn prune(&self) -> Result<Swept, Error> {
        let _alone = self.lock("prune.lock", Lock::exclusive)?;
        let marked = self.mark(&[])?;
        let (mut swept, result) = collect::sweep_blobs(&self.store, &marked);
        result?;
        self.store.remove_unfinished()?;
        let cache = Cache::of(self, true);
        let keys = |layers: &Vec<Descriptor>| {
            [cache.index_key(layers.iter()), cache.attributes_key(layers.iter())]
        };
        let indexes = marked.layers.iter().flat_map(keys).collect();
        swept.bytes += cache.prune(&indexes);
        Ok(swept)
    }
}
