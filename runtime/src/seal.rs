//! What this node has made is marked with a key that never leaves it, so that what it did not make
//! is not run.

use std::{io::Read, path::Path};

use ring::hmac;

use crate::Error;
use crate::limits::{KEY_FILE_BYTES_MAX, SEAL_CHUNK_BYTES};

/// A node's sealing key.
#[derive(Debug, Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// The key in the file at `path`, made when there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, or is no key.
    pub fn open(path: &Path) -> Result<Self, Error> {
        match disk::read(path, KEY_FILE_BYTES_MAX) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            Ok(_) => Err(Error::Unsealed(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(Error::file("read the key", path)(error)),
        }
    }

    fn make(path: &Path) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| Error::os("make a key")(e.into()))?;
        // Two threads of one agent may both be first: then one of them has made the key.
        disk::create(path, &bytes).map_err(Error::file("make the key", path))?;
        match disk::read(path, KEY_FILE_BYTES_MAX) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            Ok(_) => Err(Error::Unsealed(path.to_owned())),
            Err(error) => Err(Error::file("read the key", path)(error)),
        }
    }

    /// The mark on `purpose` and all that `content` holds, in hex.
    pub(crate) fn seal(&self, purpose: &str, content: &mut impl Read) -> std::io::Result<String> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        let mut chunk = vec![0; SEAL_CHUNK_BYTES];
        loop {
            match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => context.update(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
        }
        Ok(context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_marks_what_it_saw_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let (one, again) = (Key::open(&path).unwrap(), Key::open(&path).unwrap());
        let mark = one.seal("code", &mut &b"abc"[..]).unwrap();
        assert_eq!(mark, again.seal("code", &mut &b"abc"[..]).unwrap());
        assert_ne!(mark, one.seal("code", &mut &b"abd"[..]).unwrap());
        assert_ne!(mark, one.seal("index", &mut &b"abc"[..]).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(Key::open(&path).is_err());
    }

    #[test]
    fn concurrent_first_users_hold_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let marks: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..8)
                .map(|_| {
                    scope
                        .spawn(|| Key::open(&path).unwrap().seal("code", &mut &b"abc"[..]).unwrap())
                })
                .collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        assert_eq!(marks.len(), 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-made is left");
    }
}
