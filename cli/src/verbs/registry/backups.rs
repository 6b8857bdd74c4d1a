//! Everything in a folder, and back.

use std::path::Path;

use anyhow::ensure;
use registry::{Admin, BackedUp, Restored};
use spec::Digest;

use super::space::count;
use crate::{
    failure::Advice,
    output::{Output, notice, size},
    serve::block_on,
};

pub fn back_up(admin: &Admin, folder: &Path, output: Output) -> anyhow::Result<()> {
    let done = block_on(registry::back_up(admin, folder))?;
    output.record(&done, copied)?;
    check(&done.damaged, "the registry has lost", "push the images again that have them")
}

pub fn restore(folder: &Path, data_dir: &Path, output: Output) -> anyhow::Result<()> {
    let done = block_on(registry::restore(folder, data_dir))?;
    output.record(&done, brought)?;
    if !output.is_json() {
        notice(format_args!("Start it: margay up"));
    }
    check(&done.damaged, "the backup lacks", "push the images again that have them")
}

fn check(damaged: &[Digest], fault: &str, hint: &str) -> anyhow::Result<()> {
    damaged.iter().for_each(|digest| notice(format_args!("{fault} {digest}")));
    let lost = format!("{fault} {}", count(damaged.len() as u64));
    ensure!(damaged.is_empty(), Advice::new(lost).hint(hint));
    Ok(())
}

fn copied(done: &BackedUp) -> String {
    let BackedUp { records, blobs, bytes, kept, removed, damaged: _ } = done;
    format!(
        "Copied {records} records and {} ({}); {kept} were there, {removed} went",
        count(*blobs),
        size(*bytes)
    )
}

fn brought(done: &Restored) -> String {
    let Restored { records, blobs, bytes, damaged: _ } = done;
    format!("Restored {records} records and {} ({})", count(*blobs), size(*bytes))
}
