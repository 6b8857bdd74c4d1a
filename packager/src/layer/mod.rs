pub(crate) mod spool; // the bytes of what is copied, whatever they come from
pub(crate) mod gzip; // compression, the same bytes everywhere
pub(crate) mod tarball; // a layer's bytes, the same everywhere
