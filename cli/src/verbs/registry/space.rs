//! What a collection has done and a scrub has found, in words.

use registry::{Collected, Fault, Scrubbed};

use crate::output::size;

/// `1 blob`, `2 blobs`.
pub fn count(blobs: u64) -> String {
    format!("{blobs} {}", if blobs == 1 { "blob" } else { "blobs" })
}

pub fn told(collected: &Collected) -> String {
    let Collected { blobs, bytes, waiting, waiting_bytes, unclear, interrupted, dry_run } =
        collected;
    let verb = if *dry_run { "Would remove" } else { "Removed" };
    let mut told = format!("{verb} {} ({})", count(*blobs), size(*bytes));
    if *waiting > 0 {
        let waiting_size = size(*waiting_bytes);
        told += &format!("\nUnused, within their grace time: {} ({waiting_size})", count(*waiting));
    }
    if *unclear > 0 {
        told += &format!(
            "\nRepositories left as they are, because a manifest of theirs cannot be read: {unclear}"
        );
    }
    if *interrupted {
        told += "\nStopped before the end, for another change: run it again";
    }
    told
}

pub fn scrubbed(scrubbed: &Scrubbed) -> String {
    let Scrubbed { checked, bytes, damaged } = scrubbed;
    let mut told = format!("Read {} ({})", count(*checked), size(*bytes));
    for blob in damaged {
        let fault = match blob.fault {
            Fault::Missing => "its file is gone",
            Fault::WrongSize => "it has not the size that was pushed",
            Fault::WrongBytes => "its bytes have changed",
            Fault::Unreadable => "the disk does not read it",
        };
        told += &format!("\n{}  {fault}", blob.digest);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_told_with_what_is_left_to_do() {
        let none = Collected::default();
        assert_eq!(told(&none), "Removed 0 blobs (0 B)");
        let some = Collected { blobs: 1, bytes: 1536, dry_run: true, ..none.clone() };
        assert_eq!(told(&some), "Would remove 1 blob (1.5 KiB)");
        let all = Collected { waiting: 3, waiting_bytes: 9, unclear: 1, interrupted: true, ..none };
        let lines: Vec<_> = told(&all).lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "Unused, within their grace time: 3 blobs (9 B)");
        assert!(lines[2].ends_with("be read: 1") && lines[3].ends_with("run it again"));
    }
}
