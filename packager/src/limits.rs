//! Every limit of a build and of image files, with the reason for its number.

/// Larger Dockerfiles are generated nonsense.
pub(crate) const DOCKERFILE_BYTES_MAX: u64 = 4 << 20;
/// Each stage may need another one; the largest public Dockerfiles have about 30.
pub(crate) const STAGES_MAX: usize = 100;
/// A hundred times what hand-written Dockerfiles have.
pub(crate) const INSTRUCTIONS_MAX: usize = 10_000;
/// As many as a program could be given; each ENV searches all of them.
pub(crate) const VARIABLES_MAX: usize = 1000;
/// More warnings are not read.
pub(crate) const WARNINGS_MAX: usize = 100;
/// As much of an instruction as a history or a message shows.
pub(crate) const QUOTED_CHARS_MAX: usize = 200;
/// A word of a hostile file can be as long as the file.
pub(crate) const MESSAGE_CHARS_MAX: usize = 1000;
/// All that variables may bring into one Dockerfile: four times the largest one.
pub(crate) const EXPANDED_BYTES_MAX: usize = 16 << 20;
/// A default inside of a default inside of …: deeper nesting is an attack on recursion.
pub(crate) const NESTING_MAX: u32 = 16;
/// As long as a line may be for BuildKit.
pub(crate) const LINE_BYTES_MAX: usize = (64 << 10) - 1;

/// As much of `/etc/passwd` and `/etc/group` as BuildKit reads.
pub(crate) const USERS_BYTES_MAX: u64 = 10 << 20;

/// Of a source or manifest that tells what an app is: what tells stands near its beginning, and
/// larger files are generated.
pub(crate) const SOURCE_BYTES_MAX: u64 = 1 << 20;

/// PATH_MAX of Linux: no longer path can be opened.
pub(crate) const PATH_BYTES_MAX: usize = 4096;
/// As many links as Linux follows.
pub(crate) const LINKS_MAX: usize = 40;
/// As many entries as a layer may have (`image::Budget`).
pub(crate) const ITEMS_MAX: usize = 1_000_000;
/// Images with more layers cannot be read (`image::plan`), nor mounted.
pub(crate) const LAYERS_MAX: usize = 500;

/// More files than this are the wrong folder (a whole home, say), not an app.
pub(crate) const CONTEXT_ENTRIES_MAX: usize = 500_000;
/// Deeper trees are loops or attacks; an image refuses them too.
pub(crate) const CONTEXT_DEPTH_MAX: usize = 256;
/// 8192 long lines of `.dockerignore`.
pub(crate) const IGNORE_BYTES_MAX: u64 = 1 << 20;

/// The largest Wasm programs seen (Python with libraries) have 60 MB.
pub(crate) const WASM_BYTES_MAX: u64 = 512 << 20;
/// Executables that are looked at for what an image is for that names no program: one of the first
/// says it.
pub(crate) const EXECUTABLES_MAX: usize = 64;
/// As many bytes as `image::sniff` looks at.
pub(crate) const HEAD_BYTES: u64 = 512;

/// The indexes of a hundred large bases; every other entry of the cache is below a KB.
pub(crate) const CACHE_BYTES_MAX: u64 = 512 << 20;
/// Each build that adds an entry lists all of them: some 10 ms.
pub(crate) const CACHE_ENTRIES_MAX: usize = 10_000;
/// The index of a million nodes.
pub(crate) const CACHE_ENTRY_BYTES_MAX: u64 = 128 << 20;

/// An archive of several images; one image is nearly always below the 8 GiB of a layer.
pub const ARCHIVE_BYTES_MAX: u64 = 64 << 30;
/// More images than any archive has.
pub(crate) const IMAGES_MAX: usize = 1000;
