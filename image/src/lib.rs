//! What an image is, read from hostile bytes: which format it has, what is in its layers, what its
//! program asks for.
//!
//! Enter at [`plan`] with the bytes of a manifest to learn what an image is made of, at
//! [`LayerReader`] to walk a layer, at [`FileIndex`] for the root filesystem that the layers make
//! together, and at [`inspect_wasm`] for what a program imports and exports. What something is, its
//! bytes decide; media types, platforms and labels are hints. Absent on purpose: paths of this
//! machine, networks, unpacking. Everything works over `Read` and byte slices.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod sniff; // what some bytes are, by their first bytes
mod verify; // bytes compared with their descriptor

mod limits; // every limit, with the reason for its number
mod budget; // what reading one layer may cost
mod stream; // the uncompressed bytes of a layer, counted and hashed on their way through
mod header; // 512 bytes of tar
mod extended; // the records in front of a header that change it: PAX and GNU
mod path; // names inside a layer, normal or refused
mod sparse; // files with holes
mod kind; // which engine runs an image
mod notes; // what was read otherwise than it is written
mod layer; // a layer as a sequence of entries
mod archive; // entries as a tar

mod merge; // layers on top of each other, with whiteouts
mod index; // the merged tree: look up, list, resolve links
mod index_bytes; // the same in a file, read back without trust

mod wasm; // what a program imports, exports, and therefore is
mod sections; // a core module taken apart, to change a part of it
mod plan; // manifest and config of every format, as one plan
mod program; // which file runs, and whether it is Wasm or native
mod contents; // the files of an image: all of them by name, and the bytes of some

mod error;

pub use archive::{ArchiveWriter, Attributes, write_header};
pub use budget::Budget;
pub use contents::{Layers, ProgramFacts, ProgramKind};
pub use error::Error;
pub use index::{DirEntry, FileIndex, FileNode, LookupError, Node, NodeId};
pub use kind::Kind;
pub use layer::{Entry, EntryKind, LayerReader, LayerSummary};
pub use merge::FileIndexBuilder;
pub use notes::Notes;
pub use path::{InvalidName, link_leaves, normal_name, through_links};
pub use plan::{
    Document, Format, LayerContent, Plan, PlannedLayer, Program, REUSE_KEY, WANTS_KEY, choose,
    choose_platform, is_same, parse_document, parse_reuse, parse_wants, plan, wants_text,
};
pub use program::{Located, locate, program_paths};
pub use sections::{
    CODE, DATA, EXPORTS, FUNCTIONS, GLOBALS, IMPORTS, MEMORIES, Sections, TYPES, leb, signed_leb,
};
pub use sniff::{Sniffed, sniff};
pub use verify::{Verified, read_verified};
pub use wasm::{Wasi, WasmFacts, World, inspect_wasm};
