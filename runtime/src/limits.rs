//! Every limit of this crate, with its reason. What an operator sets is in [`spec::Limits`] and
//! [`PrepareLimits`](crate::prepare::PrepareLimits).

use std::time::Duration;

/// What a worker's own heap may have: the memory and the writable layer of its container, and
/// [`HEAP_BYTES_SLACK`].
pub(crate) fn heap_bytes_max(limits: &spec::Limits) -> u64 {
    HEAP_BYTES_SLACK
        .saturating_add(limits.memory_bytes_max)
        .saturating_add(limits.writable_bytes_max)
}

/// What a worker may have in all, as the kernel counts it: its heap, and the pages that slots of
/// its pool keep between two instances. An honest worker refuses its guests long before.
pub(crate) fn worker_bytes_max(limits: &spec::Limits) -> u64 {
    let kept = u64::from(limits.concurrency_max).saturating_mul(KEEP_RESIDENT_BYTES as u64);
    heap_bytes_max(limits).saturating_add(kept)
}

// The engine.
/// Core instances in one component: Python's has 14.
pub(crate) const CORE_INSTANCES_PER_COMPONENT: u32 = 20;
/// Linear memories of one component: a program composed of two or three has one for each, and a
/// module with several memories seldom more than two. Only address space is reserved for them.
pub(crate) const MEMORIES_PER_COMPONENT: u32 = 4;
/// Tables of one component: one for each of its modules, and those of the adapter between them.
pub(crate) const TABLES_PER_COMPONENT: u32 = 8;
/// Bytes of a slot that stay resident between two instances: most programs dirty less, and
/// resetting them in place (`PAGEMAP_SCAN`) spares the `madvise` that serialises all threads.
pub(crate) const KEEP_RESIDENT_BYTES: usize = 1 << 20;
/// A wasm stack deep enough for honest recursion, shallow enough that thousands fit.
pub(crate) const WASM_STACK_BYTES: usize = 512 << 10;
/// The Wasm stack, and the host's part of a call above it.
pub(crate) const FIBER_STACK_BYTES: usize = 2 << 20;

/// Functions that are named when a guest breaks: the innermost say where it was, and thousands more
/// of a recursion say nothing.
pub(crate) const BACKTRACE_FRAMES_MAX: usize = 32;
/// How much of the name of one: those that a compiler makes of generic functions have no end.
pub(crate) const FUNCTION_NAME_CHARS_MAX: usize = 200;
/// How much of the path of a source file, from its end.
pub(crate) const SOURCE_PATH_CHARS_MAX: usize = 200;
/// Source files that the lines of a program are in: large ones have some thousands.
pub(crate) const SOURCE_FILES_MAX: usize = 1 << 16;
/// Changes of line within a program's code that are kept, 12 bytes each: 50 MB of code have fewer.
pub(crate) const SOURCE_LINES_MAX: usize = 4 << 20;
/// The same as the debugging information of one module has them.
pub(crate) const DEBUG_ROWS_MAX: usize = 8 << 20;

/// A key has 32 bytes.
pub(crate) const KEY_FILE_BYTES_MAX: u64 = 4 << 10;
/// The facts of an image: what it imports and exports, and its layers.
pub(crate) const META_BYTES_MAX: u64 = 16 << 20;

// A worker.
/// Processes that are started for one worker until one has a user of its own: of a range with as
/// many ids as 1,000 workers use, 98 % are free.
pub(crate) const STARTS_MAX: usize = 16;
/// Threads that serve. More would only wait for the same sockets: one core answers tens of
/// thousands of requests.
pub(crate) const SERVING_THREADS_MAX: usize = 4;
/// The largest file that a worker may write, where no smaller quota holds.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 40;
/// What a file may be longer than its own limit says before the kernel refuses more: a line, or a
/// page.
pub(crate) const FILE_BYTES_SLACK: u64 = 1 << 20;
/// What a worker's own heap may have beyond the memory and the writable layer of its container.
pub(crate) const HEAP_BYTES_SLACK: u64 = 64 << 20;
/// Freed chunks of one size that a thread of glibc's allocator keeps at hand. A request frees some
/// dozens of one size when its store goes, and the next one asks for the same; of the usual seven
/// the rest would go through the shared lists. At most 2 MiB a thread, which count as given out.
pub(crate) const ALLOCATOR_TUNABLES: &str = "glibc.malloc.tcache_count=64";
/// Threads of a worker: those that serve, those that block, and one for ticks are a dozen.
pub(crate) const WORKER_THREADS_MAX: u32 = 64;
/// What the host copies for a guest in one call.
pub(crate) const HOSTCALL_BYTES_MAX: usize = 8 << 20;
/// The names and values of a program's variables: the libraries of C, Rust, Go and Python read them
/// through an adapter with one page of 64 KiB for the list of all and the longest string, which
/// traps beyond it.
pub(crate) const VARIABLES_BYTES_MAX: usize = 56 << 10;
/// All of them together: with more the adapter of a core module finds no room for them (tried with
/// 600,000 bytes, which it takes, and 700,000).
pub(crate) const ENVIRONMENT_BYTES_MAX: usize = 512 << 10;
/// What the list has for each: two pointers and two lengths.
pub(crate) const VARIABLE_BYTES: usize = 16;
/// All header fields of one message, as wasmtime counts them.
pub(crate) const HEADER_FIELDS_BYTES_MAX: usize = 128 << 10;
/// The unit of CPU limits and of fairness between runs.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Asking the allocator takes some microseconds, so not at every tick.
pub(crate) const TICKS_PER_HEAP_CHECK: u32 = 32;
/// Written at once at most: what a pipe takes without being split.
pub(crate) const OUTPUT_WRITE_BYTES_MAX: usize = 4096;
/// A line that is longer is cut in two, and marked as going on.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// Of one message of `wasi:logging`: with level and context it fits into a line.
pub(crate) const LOG_MESSAGE_BYTES_MAX: usize = 7 << 10;
/// Of its context.
pub(crate) const LOG_CONTEXT_BYTES_MAX: usize = 256;
/// How long a guest's connection waits for a new agent when the old one is gone.
pub(crate) const AGENT_TIME_MAX: Duration = Duration::from_secs(5);
/// For an answer of the broker: its own limit twice.
pub(crate) const BROKER_ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// A worker that cannot be adopted ends with its supervisor: this long for requests in progress.
pub(crate) const ORPHAN_TIME_MAX: Duration = Duration::from_secs(2);

// Programs of `exec`.
/// Clients of one container at once, those that wait among them.
pub(crate) const EXECS_MAX: usize = 64;
/// Programs of one container that run at once beside its own. Each has a place in the pool, with a
/// stack that costs a system call before anything runs.
pub(crate) const EXEC_INSTANCES_MAX: u32 = 8;
/// Copies of files at once: each has one of the four threads that may wait.
pub(crate) const COPIES_MAX: usize = 2;
/// How long a program waits for such a place: most that run beside others are short.
pub(crate) const EXEC_WAIT_TIME_MAX: Duration = Duration::from_secs(10);
/// A client sends its request whole.
pub(crate) const EXEC_REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Machine code of all programs that one worker was asked for. Addresses cost nothing; JavaScript's
/// engine has 18 MB.
pub(crate) const CODE_AREA_BYTES: u64 = 256 << 20;

// What a guest reaches.
/// Connections that one container has open at once.
pub(crate) const OUTBOUND_CONNECTIONS_MAX: usize = 64;
/// Of these, being made at once: half of what its tenant may have under way. Others wait.
pub(crate) const CONNECTING_PER_WORKER_MAX: usize = 32;
/// What waits in a body that a guest writes and the server has not read yet. A guest may hold a
/// body for every third of its handles, and this is memory of the host that its limit does not see.
pub(crate) const OUTBOUND_BODY_BYTES_MAX: usize = 64 << 10;
/// For each step of a request, where the guest sets no shorter time.
pub(crate) const OUTBOUND_STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Denied lines that are counted one by one; the others share one count.
pub(crate) const DENIED_LINES_MAX: usize = 1000;
/// Hosts of one run that is to be learned from: a role of more is no role that is reviewed.
pub(crate) const LEARNED_LINES_MAX: usize = 1000;
/// More random bytes at once than any honest program asks for.
pub(crate) const RANDOM_BYTES_MAX: u64 = 64 << 10;

// A guest's files.
/// Links followed on one path, as on Linux.
pub(crate) const LINKS_MAX: usize = 40;
/// `PATH_MAX` of Linux.
pub(crate) const PATH_BYTES_MAX: usize = 4096;
/// Names walked, and still to walk, in one call: twice what one path can have, so that links that
/// lead through long links hold neither the processor nor memory.
pub(crate) const NAMES_MAX: usize = 4096;
/// `NAME_MAX` of Linux.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// What one name costs beyond its content: without this, a quota of bytes would allow names without
/// end.
pub(crate) const UNION_ENTRY_BYTES: u64 = 256;
/// What a folder that was made or changed costs beyond its names: the first entry of a map
/// allocates eleven.
pub(crate) const UNION_FOLDER_BYTES: u64 = 1024;
/// A file that shrank keeps this much beyond twice its length: less is not worth another place in
/// memory.
pub(crate) const FILE_SPARE_BYTES_MAX: usize = 4096;
/// What a file, folder or link costs beyond its content: a block, so that a limit of bytes is one
/// of inodes too.
pub(crate) const VOLUME_ENTRY_BYTES: u64 = 4096;
/// No folder is made or moved below this depth: each level of counting holds descriptors.
pub(crate) const VOLUME_DEPTH_MAX: usize = 64;
/// What one look into a folder takes from the kernel: at least one name of 255 bytes, and at most
/// forty short ones.
pub(crate) const LISTING_BYTES: usize = 1024;
/// Bytes of one `read`: what the guest gets at once is also what the host holds for it.
pub(crate) const READ_BYTES_MAX: u64 = 1 << 20;
/// What one read takes at most: large enough that a picture leaves in one piece, small enough that
/// a hundred readers at once are no burden.
pub(crate) const STREAM_READ_BYTES_MAX: usize = 256 << 10;
/// What one write takes at most: a guest splits what is longer.
pub(crate) const STREAM_WRITE_BYTES_MAX: usize = 64 << 10;

// The broker.
/// For the name and the connection together: half of what browsers and curl wait, because a guest's
/// request has 30 s in all.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// For one address of a name: one that swallows packets leaves time for two others.
pub(crate) const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried: no honest name needs more.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// Connections being made at once, for all workers of an agent: each holds a descriptor of the
/// agent.
pub(crate) const CONNECTING_MAX: usize = 256;
/// Of one tenant: two busy tasks' worth, and a quarter of what the machine has.
pub(crate) const CONNECTING_PER_TENANT_MAX: usize = 64;
/// Names being looked up at once. Each holds a thread for as long as the system's resolver likes,
/// which no deadline ends; tokio has 512 for everything.
pub(crate) const RESOLVING_MAX: usize = 64;
/// Of one tenant, so that a slow resolver holds up that tenant only.
pub(crate) const RESOLVING_PER_TENANT_MAX: usize = 8;
/// How old the list of the machine's addresses may be; an address that comes up in between is found
/// after connecting.
pub(crate) const OWN_ADDRESSES_AGE_MAX: Duration = Duration::from_secs(10);

// The preparer.
/// A preparer's answer: a few kilobytes, and more for a program that imports many names.
pub(crate) const PREPARER_ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Its threads: one for each processor compiles, and no more than a worker may have.
pub(crate) const PREPARER_THREADS_MAX: u32 = WORKER_THREADS_MAX;
/// Read at a time while a file is sealed.
pub(crate) const SEAL_CHUNK_BYTES: usize = 256 << 10;
