use std::io::{self, Read};

use spec::{Descriptor, Digest, Hasher};

use crate::error::Error;

/// Passes bytes through, and fails at the end (or beyond it) when they are not those of a
/// descriptor.
///
/// Bytes are unproven until the end was read: before that, do nothing with them that lasts.
pub struct Verified<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: u64,
    seen: u64,
    what: String,
}

impl<R: Read> Verified<R> {
    /// Expects exactly the bytes that `descriptor` describes.
    pub fn new(inner: R, descriptor: &Descriptor) -> Self {
        Self {
            inner,
            hasher: Some(Hasher::new(descriptor.digest.algorithm())),
            expected: descriptor.digest,
            size: descriptor.size,
            seen: 0,
            what: format!("blob `{}`", descriptor.digest),
        }
    }

    fn check_end(&mut self) -> Result<(), Error> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if self.seen != self.size {
            return Err(Error::WrongSize {
                what: self.what.clone(),
                expected: self.size,
                found: self.seen,
            });
        }
        let found = hasher.finish();
        match found == self.expected {
            true => Ok(()),
            false => {
                Err(Error::WrongDigest { what: self.what.clone(), expected: self.expected, found })
            }
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buf)?;
        if n == 0 {
            return self.check_end().map(|()| 0).map_err(io::Error::other);
        }
        self.seen += n as u64;
        if self.seen > self.size {
            let (what, expected, found) = (self.what.clone(), self.size, self.seen);
            return Err(io::Error::other(Error::WrongSize { what, expected, found }));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        Ok(n)
    }
}

/// The bytes that `descriptor` describes, all of them, proven. At most `bytes_max`.
///
/// # Errors
/// [`Error::WrongDigest`], [`Error::WrongSize`], [`Error::Budget`] when it announces more than
/// `bytes_max`.
pub fn read_verified(
    reader: impl Read,
    descriptor: &Descriptor,
    bytes_max: u64,
) -> Result<Vec<u8>, Error> {
    if descriptor.size > bytes_max {
        let why = format!(
            "`{}` has {} bytes, and at most {bytes_max} are read",
            descriptor.digest, descriptor.size
        );
        return Err(Error::Budget { why });
    }
    let mut bytes = Vec::new();
    Verified::new(reader, descriptor)
        .read_to_end(&mut bytes)
        .map_err(|source| unwrapped(source, || format!("blob `{}`", descriptor.digest)))?;
    Ok(bytes)
}

/// The [`Error`] that `source` carries, else a read error about `what`.
pub(crate) fn unwrapped(source: io::Error, what: impl FnOnce() -> String) -> Error {
    match source.downcast::<Error>() {
        Ok(inner) => inner,
        Err(source) => Error::Read { what: what(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_described_bytes_pass() {
        let descriptor = Descriptor::of("application/octet-stream", b"cats");
        assert_eq!(read_verified(&b"cats"[..], &descriptor, 10).unwrap(), b"cats");
        for (bytes, code) in
            [(&b"dogs"[..], "E_DIGEST"), (b"cat", "E_SIZE"), (b"catss", "E_SIZE"), (b"", "E_SIZE")]
        {
            assert_eq!(
                read_verified(bytes, &descriptor, 10).unwrap_err().code(),
                code,
                "{bytes:?}"
            );
        }
        assert_eq!(
            read_verified(&b"cats"[..], &descriptor, 3).unwrap_err().code(),
            "E_LAYER_BUDGET"
        );
    }

    #[test]
    fn a_wrong_digest_names_both() {
        let descriptor = Descriptor::of("application/octet-stream", b"cats");
        let error = read_verified(&b"dogs"[..], &descriptor, 10).unwrap_err().to_string();
        assert!(
            error.contains(&Digest::of(b"cats").to_string())
                && error.contains(&Digest::of(b"dogs").to_string())
        );
    }
}
