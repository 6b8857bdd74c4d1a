/// Characters of a principal, an object and a code: names have 63, paths of the API and of
/// repositories some hundred.
pub(crate) const TEXT_CHARS_MAX: usize = 512;
/// Bytes of a line: four texts whose characters are all escaped.
pub(crate) const LINE_BYTES_MAX: usize = 32 << 10;
/// A file rotates at this size: some 60,000 records, which are read in a blink.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files of one log: a million records in 256 MiB.
pub(crate) const FILES_MAX: u64 = 16;
/// Space that is taken from the disk ahead of the records, so that what is done while the disk
/// fills up is still recorded.
pub(crate) const RESERVED_BYTES: u64 = 1 << 20;
/// When so little of it is left, the next piece is taken; and when there is none, changes are
/// refused, and this is for the records of requests that are under way.
pub(crate) const RESERVE_LOW_BYTES: u64 = 256 << 10;
/// Records of clients without a principal in one second. Of more, only the number is recorded: a
/// client that is refused without end must not rotate away what others did.
pub(crate) const UNAUTHENTICATED_PER_SECOND_MAX: u32 = 100;
