use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open descriptors to what the system allows, and warns when that is less
/// than `needed`. By default most systems give 1024, which a few hundred connections use up.
pub fn raise_descriptor_limit(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        tracing::warn!(needed, have = ?limit.maximum, "few descriptors: raise `ulimit -Hn`");
    }
}
