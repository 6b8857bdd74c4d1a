use bytes::Bytes;
use spec::Descriptor;

/// A manifest or an index as a registry or a local image has it.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub descriptor: Descriptor,
    /// Checked against the digest.
    pub bytes: Bytes,
}
