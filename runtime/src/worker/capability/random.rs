use spec::RandomLevel;
use wasmtime_wasi::{Deterministic, WasiCtxBuilder};

use crate::limits::RANDOM_BYTES_MAX;

/// A seeded sequence repeats after this many bytes.
const SEQUENCE_BYTES: usize = 4096;
/// `margay`.
const SEED: u128 = 0x6d61_7267_6179;

/// Gives a guest its random numbers, as good as they were granted.
pub(crate) fn set(builder: &mut WasiCtxBuilder, level: RandomLevel) {
    builder.max_random_size(RANDOM_BYTES_MAX);
    match level {
        RandomLevel::Secure => {}
        RandomLevel::Seeded => fixed(builder, sequence(), SEED),
        RandomLevel::None => fixed(builder, vec![0], 0),
    }
}

fn fixed(builder: &mut WasiCtxBuilder, bytes: Vec<u8>, seed: u128) {
    builder
        .secure_random(Deterministic::new(bytes.clone()))
        .insecure_random(Deterministic::new(bytes))
        .insecure_random_seed(seed);
}

/// The same in every run (xorshift64).
fn sequence() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(SEQUENCE_BYTES / 8).flat_map(u64::to_le_bytes).collect()
}
