//! A file in which the ingress tells the agent something, again and again.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use spec::Digest;

use crate::error::{Error, Result};

/// One of them, opened while that is allowed.
#[derive(Debug, Clone)]
pub(super) struct ToldFile(Arc<File>);

impl ToldFile {
    pub fn open(path: &Path) -> Result<Self> {
        let file = disk::open(path, disk::Purpose::Keep).map_err(Error::file("open", path))?;
        Ok(Self(Arc::new(file)))
    }

    /// Writes it beside the requests.
    pub async fn write(&self, value: &impl Serialize) -> io::Result<()> {
        let (file, bytes) = (self.0.clone(), sealed(value));
        let written = tokio::task::spawn_blocking(move || {
            file.write_all_at(&bytes, 0)?;
            file.set_len(bytes.len() as u64)
        });
        written.await.map_err(io::Error::other)?
    }
}

/// What was written last; nothing while that is done, and where it never was.
pub(super) fn read<T: DeserializeOwned>(path: &Path, bytes_max: u64) -> Option<T> {
    unsealed(&disk::read_optional(path, bytes_max).ok()??)
}

/// With a digest in front, by which a reader knows that it is whole.
fn sealed(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut bytes = format!("{}\n", Digest::of(&json)).into_bytes();
    bytes.extend(json);
    bytes
}

fn unsealed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (digest, json) = (&bytes[..end], &bytes[end + 1..]);
    let is_whole = digest == Digest::of(json).to_string().as_bytes();
    is_whole.then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_read_as_it_was_written_and_never_half() {
        let all = vec![("cats-1".to_owned(), 4), ("dogs-1".to_owned(), 17)];
        let bytes = sealed(&all);
        assert_eq!(unsealed(&bytes), Some(all));
        for cut in 0..bytes.len() {
            assert_eq!(unsealed::<Vec<(String, u32)>>(&bytes[..cut]), None, "{cut}");
        }
        let mut mixed = bytes.clone();
        let last = mixed.len() - 4;
        mixed[last] ^= 1;
        assert_eq!(unsealed::<Vec<(String, u32)>>(&mixed), None);
    }
}
