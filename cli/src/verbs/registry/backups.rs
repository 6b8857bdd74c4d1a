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
    if done.sealed > 0 {
        notice(format_args!(
            "The passwords of {} are sealed with `secret.key` of the registry's folder, which the \
             backup has not got: keep a copy of it in another place",
            others(done.sealed)
        ));
    }
    check(&done.damaged, "the registry has lost", "push the images again that have them")
}

pub fn restore(folder: &Path, data_dir: &Path, output: Output) -> anyhow::Result<()> {
    let done = block_on(registry::restore(folder, data_dir))?;
    output.record(&done, brought)?;
    if done.sealed > 0 && !done.has_key {
        notice(format_args!(
            "The passwords of {} are sealed: copy `secret.key` of the registry that was backed up \
             to {} before the start, or make these anew",
            others(done.sealed),
            data_dir.join("secret.key").display()
        ));
    }
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

/// What has passwords.
fn others(count: u64) -> String {
    match count {
        1 => "one upstream, replication or webhook".to_owned(),
        _ => format!("{count} upstreams, replications and webhooks"),
    }
}

fn copied(done: &BackedUp) -> String {
    let BackedUp { records, blobs, bytes, kept, removed, sealed: _, damaged: _ } = done;
    format!(
        "Copied {records} records and {} ({}); {kept} were there, {removed} went",
        count(*blobs),
        size(*bytes)
    )
}

fn brought(done: &Restored) -> String {
    let Restored { records, blobs, bytes, .. } = done;
    format!("Restored {records} records and {} ({})", count(*blobs), size(*bytes))
}
