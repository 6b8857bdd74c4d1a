/// The engine that an image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The Wasm worker.
    Wasm,
    /// An OCI runtime, through the shim.
    Native,
}
