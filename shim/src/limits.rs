//! Every number that bounds something in this crate, with the reason for it.

use std::time::Duration;

// Users of containers.

/// Files of containers have the ids `FIRST_ID..FIRST_ID + ID_COUNT` on disk; a container that runs
/// has one of the ranges after it. Above what `useradd` and `systemd-nspawn` assign, below 2^31.
pub(crate) const FIRST_ID: u32 = 0x7800_0000;
/// Ranges for containers that run, up to the ids that systemd keeps for foreign disk images, below
/// 2^31.
pub(crate) const ID_RANGES_MAX: u32 = 2044;
/// Ids in the user namespace of a container: what 16-bit ids address.
pub(crate) const ID_COUNT: u32 = 65_536;
/// Supplementary groups of one user; distributions have a dozen.
pub(crate) const GROUPS_MAX: usize = 64;
/// Bytes of `/etc/passwd` and of `/etc/group`: a longer file is no user database.
pub(crate) const USER_DATABASE_BYTES_MAX: u64 = 1 << 20;

// One container.

/// Processes and threads: enough for a JVM, not for a fork bomb.
pub(crate) const PIDS_MAX: u32 = 512;
/// What a run may ask for instead: a tenth of what a machine has by default.
pub(crate) const PIDS_ASKED_MAX: u32 = 3 << 10;
/// The threads of an OCI runtime count until it has started the program.
pub(crate) const PIDS_ASKED_MIN: u32 = 16;
/// Threads of an OCI runtime while it starts a program, and the shim.
pub(crate) const RUNTIME_THREADS_MAX: u64 = 16;
/// Open files of one process, as the hard limit.
pub(crate) const OPEN_FILES_MAX: u64 = 4096;
/// What a run may ask for instead: the kernel's own limit for one process.
pub(crate) const OPEN_FILES_ASKED_MAX: u64 = 1 << 20;
/// Pages in /tmp and in /dev/shm count as the container's memory; this bounds /dev/shm alone.
pub(crate) const SHM_BYTES_MAX: u64 = 64 << 20;
/// Bytes of arguments, and of variables: Linux takes a quarter of the stack, 2 MiB of the usual
/// eight, for both and what points at them.
pub(crate) const ARGS_BYTES_MAX: usize = 1 << 20;
/// Of one argument or variable: what the kernel takes, without the byte that ends it.
pub(crate) const ARG_BYTES_MAX: usize = (128 << 10) - 1;
/// Layers of one image. overlayfs takes 500; Docker allows 127.
pub(crate) const LAYERS_MAX: usize = 127;
/// Inodes of a writable layer in memory. A file takes at least a page, so these fill 256 MiB.
pub(crate) const WRITABLE_FILES_MAX: u64 = 65_536;
/// Bytes of the writable tmpfs that the shim uses itself: config.json, links and mount points.
pub(crate) const STAGE_BYTES: u64 = 4 << 20;

/// Files of an image that a volume begins with: a file tree of a distribution has 100,000.
pub(crate) const FILL_FILES_MAX: u64 = 1_000_000;
/// Bytes of them: as many as one layer may have.
pub(crate) const FILL_BYTES_MAX: u64 = 8 << 30;
/// Folders in each other, each with two descriptors of [`SHIM_OPEN_FILES_MAX`].
pub(crate) const FILL_DEPTH_MAX: u32 = 256;

// The writable layer on disk, and volumes.

/// Files that are looked at before other descriptors are served: about five milliseconds.
pub(crate) const WALK_STEP_FILES: usize = 2000;
/// Between two of these steps, so that a walk takes a tenth of the time at most.
pub(crate) const WALK_STEP_INTERVAL: Duration = Duration::from_millis(50);
/// It is walked without a sign of writing as well: what one task frees hides what another takes.
pub(crate) const WALK_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Bytes that the file system may lose before the layer is walked again.
pub(crate) const WALK_BYTES: u64 = 16 << 20;
/// Files in it: inodes are the machine's, too. A distribution has 100,000.
pub(crate) const LAYER_FILES_MAX: u64 = 1_000_000;
/// Bytes of a volume for each file that it may have, where that is more: a block of the disk.
pub(crate) const VOLUME_FILE_BYTES: u64 = 4096;
/// Folders in each other, each with two descriptors of [`SHIM_OPEN_FILES_MAX`] while it is walked.
pub(crate) const LAYER_DEPTH_MAX: usize = 256;
/// Open files in which removed ones are looked for: those of four processes with all they may have.
pub(crate) const OPEN_FILES_SEEN_MAX: u64 = 16_384;

/// The id that Linux shows for one that a user namespace does not have.
pub(crate) const OVERFLOW_ID: u32 = 65_534;

// The unpacking process.

/// Hard links of one layer to files of layers below: each is copied, and waits for its turn.
pub(crate) const LOWER_LINKS_MAX: usize = 10_000;
/// As many in one message: two paths have at most 8 KiB, and a message 16.
pub(crate) const LOWER_LINKS_PER_MESSAGE: usize = 1;

/// 8 GiB at the slowest decompression measured (141 MiB/s) take a minute; disks take longer.
pub(crate) const UNPACK_TIME_MAX: Duration = Duration::from_secs(600);
/// The decoder's window is at most 64 MiB; the rest is for the program itself.
pub(crate) const UNPACK_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Pages that it has at once, those of the files that it writes included, which the kernel writes
/// out and takes back first: as much again.
pub(crate) const UNPACK_RESIDENT_BYTES_MAX: u64 = 2 << 30;
/// Deep trees are opened one folder at a time.
pub(crate) const UNPACK_OPEN_FILES_MAX: u64 = 64;
/// Of a process that copies: one for each of [`engine::COPY_DEPTH_MAX`] folders in each other.
pub(crate) const VISIT_OPEN_FILES_MAX: u64 = 512;
/// Until the process is forked and has its namespaces: milliseconds, and seconds under swap.
pub(crate) const UNPACK_START_TIME_MAX: Duration = Duration::from_secs(60);

// The OCI runtime.

/// A runtime that answers `--version` later than this hangs.
pub(crate) const VERSION_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of its output: more than any runtime prints about its version, less than would hurt.
pub(crate) const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// For `create` and for `start`. 50 ms are usual, seconds happen under swap. Both together are
/// less than [`START_TIME_MAX`].
pub(crate) const RUNTIME_TIME_MAX: Duration = Duration::from_secs(25);
/// Bytes at the end of the runtime's log in which its last error is looked for.
pub(crate) const RUNTIME_LOG_BYTES_MAX: u64 = 64 << 10;
/// Characters of that error.
pub(crate) const RUNTIME_ERROR_CHARS_MAX: usize = 500;
/// The runtime connects to the console socket before `create` returns.
pub(crate) const CONSOLE_TIME_MAX: Duration = Duration::from_secs(5);

/// From the runtime's word that a program has started to its first instruction: less than a
/// millisecond, and some of them on a busy machine.
pub(crate) const PROGRAM_TIME_MAX: Duration = Duration::from_secs(1);

// The client of a task shim.

/// Until the container runs. 50 ms are usual; a machine that swaps takes seconds, and a longer wait
/// should be reported.
pub(crate) const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A shim replies from its event loop, which never blocks.
pub(crate) const REPLY_TIME_MAX: Duration = Duration::from_secs(10);
/// Interval of attempts to reach a shim that may be alive.
pub(crate) const RETRY_TIME: Duration = Duration::from_millis(100);

// The task shim.

/// Two descriptors for each of [`CONNECTIONS_MAX`] and [`FRAMED_SESSIONS_MAX`], one for each of
/// [`SESSIONS_MAX`], and the shim's own.
pub(crate) const SHIM_OPEN_FILES_MAX: u64 = 6144;
/// Interval of reading the cgroup's counters and of enforcing time limits.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// After the program's end, its output waits this long for a reader that does not read.
pub(crate) const OUTPUT_DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
/// After the program's end, what it sent over the network waits this long for a slow client. Also
/// the wait for its output when a supervisor asked it to stop and waits for that.
pub(crate) const NETWORK_DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// For one request on the control socket: a supervisor sends it whole.
pub(crate) const REQUEST_TIME_MAX: Duration = Duration::from_secs(1);
/// Supervisors that are connected and have not sent their request.
pub(crate) const REQUESTS_MAX: usize = 64;
/// Supervisors that wait for the end: the agent, and now and then a `margay wait`.
pub(crate) const WAITERS_MAX: usize = 64;
/// From a kill for want of memory to the end that it explains: the kernel takes a moment to take a
/// big process apart, and a shell to report that its child is dead.
pub(crate) const OOM_TIME_MAX: Duration = Duration::from_secs(5);
/// Between the stop signal and SIGKILL for a container whose supervisor died.
pub(crate) const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// Events taken from epoll at once; more wait for the next call.
pub(crate) const EVENTS_MAX: usize = 64;

/// Programs that joined one container and run at once, and clients that are about to ask for one:
/// each takes up to eight descriptors of [`SHIM_OPEN_FILES_MAX`].
pub(crate) const EXECS_MAX: usize = 64;
/// How often the processes of a program that is killed are looked for again: a shell that starts
/// one after another is dead after the first time.
pub(crate) const SESSION_ROUNDS_MAX: u32 = 8;

// Streams and the log.

/// Bytes read at once: a pipe holds as much.
pub(crate) const STREAM_CHUNK_BYTES: usize = 64 << 10;
/// Bytes written at once: a pipe or socket that polls as writable takes as much without blocking.
pub(crate) const STREAM_WRITE_BYTES: usize = 4096;
/// Reads of one stream before other descriptors are served.
pub(crate) const STREAM_ROUNDS_MAX: usize = 16;
/// Bytes of one log record. Longer lines are split, so that output without newlines costs no
/// memory.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 16 << 10;

// The relay of published ports.

/// Each takes two descriptors of [`SHIM_OPEN_FILES_MAX`].
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Of these, from one address (an IPv6 /64 counts as one); more are closed. A quarter, as at the
/// ingress: a proxy in front brings all clients from one. The ingress itself has no such share.
pub(crate) const CONNECTIONS_PER_ADDRESS_MAX: usize = CONNECTIONS_MAX / 4;
/// Bytes moved at once in one direction.
pub(crate) const RELAY_CHUNK_BYTES: usize = 64 << 10;
/// Chunks of one direction before other connections are served.
pub(crate) const RELAY_ROUNDS_MAX: usize = 8;
/// Connections accepted on one listener before other descriptors are served.
pub(crate) const ACCEPTS_MAX: usize = 64;
/// A client that comes in this time after the start, or before it, came while the program was being
/// started, and waits for it. One that comes later hears at once where no program listens.
pub(crate) const START_LISTEN_TIME_MAX: Duration = Duration::from_secs(1);
/// How long it waits, and how long any connection from the ingress does. A program that takes
/// longer needs a health check.
pub(crate) const LISTEN_TIME_MAX: Duration = Duration::from_secs(10);
/// How often it is looked which other ports a program listens on that clients wait for.
pub(crate) const LISTENING_INTERVAL: Duration = Duration::from_millis(100);
/// Clients whose datagrams are relayed at once, each with one descriptor of
/// [`SHIM_OPEN_FILES_MAX`]; the one that was silent for longest makes room for another.
pub(crate) const SESSIONS_MAX: usize = 1024;
/// The same of clients of the ingress, each with two descriptors.
pub(crate) const FRAMED_SESSIONS_MAX: usize = 1024;
/// A client that was silent, and was not answered, for so long is forgotten, as by Docker's proxy.
pub(crate) const SESSION_IDLE_TIME_MAX: Duration = Duration::from_secs(90);
/// How often they are looked for.
pub(crate) const SESSION_SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Datagrams of one socket before other descriptors are served.
pub(crate) const DATAGRAM_ROUNDS_MAX: usize = 64;
/// No datagram of IP is longer.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// Interval of attempts to connect to such a program.
pub(crate) const CONNECT_INTERVAL: Duration = Duration::from_millis(10);

// Connections that a container opens.

/// Each takes two descriptors of [`SHIM_OPEN_FILES_MAX`]; more wait in the listener.
pub(crate) const OUTBOUND_MAX: usize = 256;
/// Ports of granted connections, each with a listener.
pub(crate) const OUTBOUND_PORTS_MAX: usize = 64;
/// Names that a container asks for: each may have 253 bytes, and the network that stands for them
/// has 131,072 addresses.
pub(crate) const OUTBOUND_NAMES_MAX: usize = 4096;
/// Denials and failures that are told, each once.
pub(crate) const OUTBOUND_TOLD_MAX: usize = 64;
/// A name keeps its address while its container runs: this only says how often it is asked for.
pub(crate) const NAME_TTL_SECONDS: u32 = 60;
/// A question with the longest name and what resolvers add to it.
pub(crate) const NAME_MESSAGE_BYTES_MAX: usize = 1232;
/// For a supervisor to connect: its own limit, and the time in which an agent is replaced.
pub(crate) const BROKER_TIME_MAX: Duration = Duration::from_secs(30);

/// Terminals of one container: the kernel has 4096 for the whole machine, 1024 of which it keeps
/// for the machine itself.
pub(crate) const TERMINALS_MAX: u32 = 256;
