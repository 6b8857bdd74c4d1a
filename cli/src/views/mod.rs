//! What lists and `inspect` say about tasks, images and volumes: our own records, which `--output
//! json` prints, and the same facts under Docker's names, which templates read.

pub mod ports; // as Docker writes them
pub mod summary; // a task in one row
pub mod task; // a task under Docker's names
pub mod image; // an image under Docker's names
pub mod volume; // a volume, both ways
