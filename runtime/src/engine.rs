use std::{num::NonZeroUsize, sync::Arc};

use wasmtime::{
    Config, CustomCodeMemory, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    Strategy,
};

use crate::limits::{
    BACKTRACE_FRAMES_MAX, CORE_INSTANCES_PER_COMPONENT, FIBER_STACK_BYTES, KEEP_RESIDENT_BYTES,
    MEMORIES_PER_COMPONENT, TABLES_PER_COMPONENT, WASM_STACK_BYTES,
};

/// The interface that stands for WASI 0.1's `proc_exit`: the preparer's adapter imports it, and the
/// worker's linker has it.
pub(crate) const EXIT_INTERFACE: &str = "margay:process/exit";
pub(crate) const EXIT_FUNCTION: &str = "exit-with-code";
/// The interface that stands for the socket calls of WASI 0.1, which the published adapter answers
/// with a trap: the name of each call there, and here.
pub(crate) const SOCKETS_INTERFACE: &str = "margay:process/sockets";
pub(crate) const SOCKET_FUNCTIONS: [(&str, &str); 4] = [
    ("sock_accept", "accept"),
    ("sock_recv", "receive"),
    ("sock_send", "send"),
    ("sock_shutdown", "shutdown"),
];

/// What decides whether machine code fits: the same for the preparer and for every worker.
fn tunables() -> Config {
    let mut config = Config::new();
    config
        // Never Winch for tenants: RUSTSEC-2026-0095 was an escape.
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        // No WASI 0.3 state at all in this engine.
        .concurrency_support(false)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .guard_before_linear_memory(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .signals_based_traps(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES_MAX))
        // WebAssembly 3.0 and atomics, as wasmtime has them by default; what it leaves off stays
        // off, and memory shared between threads too.
        .shared_memory(false);
    config
}

/// An engine that compiles and never runs.
pub(crate) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&tunables())
}

/// An engine that runs up to `instances` components at once, each in a slot of a pool made
/// beforehand. Their machine code becomes executable by `code_memory`.
pub(crate) fn pooled(
    instances: u32,
    code_memory: Option<Arc<dyn CustomCodeMemory>>,
) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        // One more for the heap of a guest with garbage collection or exceptions.
        .total_memories(instances.saturating_mul(MEMORIES_PER_COMPONENT + 1))
        .total_gc_heaps(instances)
        .total_tables(instances.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(instances)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_memories_per_module(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_tables_per_module(TABLES_PER_COMPONENT)
        .table_elements(100_000)
        // The engine's ceiling; a container's own limit is held by its meter.
        .max_memory_size(4 << 30)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(100);
    let mut config = tunables();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .with_custom_code_memory(code_memory);
    Engine::new(&config)
}

/// Everything that machine code depends on besides the Wasm itself: the engine's build, its
/// settings and the target, and the features of this processor. Code with another fingerprint is
/// compiled again.
pub(crate) fn fingerprint(engine: &Engine) -> String {
    use std::hash::{Hash, Hasher};
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    for feature in cpu_features() {
        feature.hash(&mut hasher);
    }
    format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish())
}

/// The processor's features that the compiler uses.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<(&'static str, bool)> {
    macro_rules! ask {
        ($($name:tt)+) => { vec![$(($name, std::arch::is_x86_feature_detected!($name))),+] };
    }
    ask!("sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "bmi1" "bmi2" "lzcnt"
        "avx512f" "avx512vl" "avx512dq" "avx512bitalg" "avx512vbmi")
}

/// The processor's features that the compiler uses.
#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// A hash that is the same in every process; the standard one is seeded.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::{Instance, Module, Store};

    /// One slot, two programs in turn: one writes all over its memory, the other looks for what it
    /// finds there.
    #[tokio::test]
    async fn a_slot_shows_nothing_of_its_last_instance() {
        let engine = pooled(1, None).unwrap();
        let module = |text: &str| Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let writer = module(
            r#"(module (memory 64) (func (export "go")
                (memory.fill (i32.const 0) (i32.const 0xAA) (i32.const 4194304))))"#,
        );
        let reader = module(
            r#"(module (memory 64) (func (export "go") (local $at i32)
                (loop $next
                    (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if $next (i32.lt_u (local.get $at) (i32.const 4194304))))))"#,
        );
        for round in 0..100 {
            for (name, module) in [("writer", &writer), ("reader", &reader)] {
                let mut store = Store::new(&engine, ());
                store.set_epoch_deadline(1);
                let instance = Instance::new_async(&mut store, module, &[]).await.unwrap();
                let go = instance.get_typed_func::<(), ()>(&mut store, "go").unwrap();
                go.call_async(&mut store, ())
                    .await
                    .unwrap_or_else(|e| panic!("{name}, round {round}: {e:?}"));
            }
        }
    }

    #[test]
    fn the_compiler_and_the_pool_agree_on_what_machine_code_is() {
        let (compiler, pool) = (compiler().unwrap(), pooled(2, None).unwrap());
        assert_eq!(fingerprint(&compiler), fingerprint(&pool));
    }
}
