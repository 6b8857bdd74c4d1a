//! What the two engines, Wasm and native, have in common: one vocabulary and one trait.
