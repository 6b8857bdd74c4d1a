//! Every limit of reading images, with the reason for its number. Those of one layer are in
//! [`Budget`](crate::Budget).

/// PATH_MAX of Linux.
pub(crate) const PATH_BYTES_MAX: usize = 4096;
/// NAME_MAX of Linux.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Deeper trees are attacks on recursion; the deepest one seen in a public image has 40 levels.
pub(crate) const DEPTH_MAX: usize = 256;
/// As many links as Linux follows.
pub(crate) const LINKS_MAX: usize = 40;

/// The longest set of extended records that is held in memory: file capabilities and access lists
/// are far smaller.
pub(crate) const PAX_BYTES_MAX: u64 = 1 << 20;
/// A long name, and the NUL behind it.
pub(crate) const LONG_NAME_BYTES_MAX: u64 = PATH_BYTES_MAX as u64 + 1;
/// One read of a decoder.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;
/// Enough to tell gzip, zstd, xz and bzip2 from everything else.
pub(crate) const MAGIC_BYTES: u64 = 6;
/// What one block of xz may ask for: `xz -9` has a dictionary of 64 MiB, and the decoder itself
/// needs less than one.
pub(crate) const XZ_MEMORY_KIB_MAX: u32 = 65 << 10;
/// Parts with data in one sparse file. A map is held in memory, 16 bytes for each.
pub(crate) const SPARSE_PARTS_MAX: usize = 65_536;
/// Containers have the ids that 16 bits address.
pub(crate) const CONTAINER_ID_MAX: i64 = 65_535;
/// Names that one kind of note keeps as examples.
pub(crate) const NOTE_NAMES_MAX: usize = 3;
/// As many bytes as [`sniff`](crate::sniff) looks at.
pub(crate) const HEAD_BYTES: u64 = 512;

/// distribution-spec asks registries for 4 MiB; Docker's registry takes exactly this.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Overlay filesystems stop at 500 lower folders; Docker at 127 layers.
pub(crate) const LAYERS_MAX: usize = 500;
/// More wants cannot be reviewed.
pub(crate) const WANTS_MAX: usize = 256;
/// More imports or exports than this are an attack on the tools that list them.
pub(crate) const NAMES_MAX: usize = 10_000;
/// Requests that one instance answers: what a guest leaks in each ends with the instance.
pub(crate) const REUSE_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Of a wish that is no such number.
pub(crate) const REUSE_CHARS_SHOWN: usize = 32;
