use std::fs::File;
use std::io::{self, Read};

use xxhash_rust::xxh3::Xxh3;

/// The name of some bytes, told from the bytes. Files of a reproducible image all have the time 0,
/// so size and time would give two versions of a page one name.
pub fn etag_of(bytes: &[u8]) -> String {
    let mut hash = Xxh3::new();
    hash.update(bytes);
    quoted(&hash)
}

/// The same for a file that is too big to hold, a chunk at a time.
pub fn etag_of_file(file: &mut File, chunk_bytes: usize) -> io::Result<String> {
    let mut hash = Xxh3::new();
    let mut chunk = vec![0; chunk_bytes];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(quoted(&hash)),
            count => hash.update(&chunk[..count]),
        }
    }
}

/// Whether a header like `If-None-Match` names `etag`. A weak name counts, because only equal bytes
/// share one here.
pub fn names(header: &str, etag: &str) -> bool {
    header
        .split(',')
        .map(str::trim)
        .any(|name| name == "*" || name.strip_prefix("W/").unwrap_or(name) == etag)
}

fn quoted(hash: &Xxh3) -> String {
    format!("\"{:032x}\"", hash.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_an_etag_among_others() {
        for (header, want) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(names(header, "\"a\""), want, "reading {header}");
        }
    }
}
