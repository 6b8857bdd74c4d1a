use std::{io, path::Path};

/// A key in PEM has some hundred bytes.
pub const KEY_BYTES_MAX: u64 = 64 << 10;

/// The text of a file, or of a pipe, that a user named: devices and what grows meanwhile say no
/// size before they are read.
///
/// # Errors
/// When it has more than `bytes_max`, is no text, or cannot be read.
pub fn text_file(path: &Path, bytes_max: u64) -> io::Result<String> {
    let bytes = disk::read_stream(path, bytes_max)?;
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(bytes).map_err(no_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_and_what_is_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("named");
        for (bytes, want) in [
            (&b"eight by"[..], Ok("eight by")),
            (&b"nine byte"[..], Err("it has more than 8 bytes")),
            (&b"\xff"[..], Err("it is no text in UTF-8")),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let read = text_file(&path, 8).map_err(|error| error.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), want);
        }
        let endless = text_file(Path::new("/dev/zero"), 8).unwrap_err().to_string();
        assert_eq!(endless, "it has more than 8 bytes");
    }
}
