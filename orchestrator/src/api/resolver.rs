use futures_util::future::BoxFuture;
use spec::{Digest, NodeId, Reference, Tenant, Want, wire::Fault};

use crate::state::objects::Runs;

/// Resolves image names. Asked once, when a task definition is registered; from there
/// on everything names digests.
pub trait ImageResolver: Send + Sync + 'static {
    /// What `image`, as `tenant` wrote it, is now. Called at most once for each container of a
    /// definition, each call bounded by ten seconds; may be called at the same time for several
    /// tenants.
    ///
    /// # Errors
    /// A fault for the caller: what is wrong with the name, the image or the way to it, and what to
    /// try.
    fn resolve<'a>(
        &'a self,
        tenant: &'a Tenant,
        image: &'a str,
    ) -> BoxFuture<'a, Result<ResolvedImage, Fault>>;

    /// One short-lived registry token with which a node may pull all those of `images` that need
    /// one, for `tenant`, in the name of `node`. Must be quick: it is called for each task of each
    /// answer to a node.
    fn pull_token(&self, node: &NodeId, tenant: &Tenant, images: &[&str]) -> Option<String>;

    /// Makes every token that a removed node was given worthless.
    fn forget_node<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<(), Fault>>;
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// What the definition will say from now on. Without a registry it means the bundled one,
    /// wherever that is.
    pub reference: Reference,
    /// Its manifest.
    pub digest: Digest,
    /// What it asks for.
    pub wants: Vec<Want>,
    /// What can run it.
    pub runs: Runs,
}
