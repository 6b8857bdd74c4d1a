//! What the program in a local image imports and exports: read from its bytes, for
//! `margay inspect` and `margay diff`.

use std::{fs::File, io};

use image::{Budget, Layers, Plan, ProgramFacts};
use packager::Layout;
use spec::Digest;

/// Larger programs are run, and not shown.
pub const PROGRAM_BYTES_MAX: u64 = 256 << 20;

/// The layers of a local image, which may be as large as those that are run.
pub fn layers<'a>(
    layout: &'a Layout,
    plan: &'a Plan,
) -> Layers<'a, impl Fn(&Digest) -> io::Result<File>> {
    let whole = Budget { bytes_max: 64 << 30, entries_max: 4_000_000, ..Budget::default() };
    Layers::new(plan, |digest| layout.open_blob(digest).map_err(io::Error::other), whole)
}

/// Reads every layer once, and that of the program once more. `None` for native images, for those
/// without a program, and for programs beyond measure.
pub fn of(layout: &Layout, plan: &Plan) -> anyhow::Result<Option<ProgramFacts>> {
    let layers = layers(layout, plan);
    Ok(layers.program(&layers.index()?, PROGRAM_BYTES_MAX)?)
}
