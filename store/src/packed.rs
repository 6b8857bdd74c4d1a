use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

use crate::{Kv, Rev};

/// A key and all that is kept of it, in one allocation: most memory of a store with many small
/// values would go into what holds them.
///
/// ```text
/// length of the key, key, revision that made it, revisions until the last change, version, value
/// ```
///
/// Numbers are in groups of seven bits, the last group first, as in LEB128.
pub(crate) struct Packed(Box<[u8]>);

/// What is kept of a key beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revs {
    pub create_rev: Rev,
    pub mod_rev: Rev,
    pub version: i64,
}

impl Packed {
    pub fn new(key: &str, value: &[u8], revs: Revs) -> Self {
        let length = key.len() as i64;
        let numbers = [revs.create_rev, revs.mod_rev - revs.create_rev, revs.version];
        let header: usize = numbers.iter().chain([&length]).map(|number| groups(*number)).sum();
        // Exactly, so that it is not moved into a smaller place at the end.
        let mut bytes = Vec::with_capacity(header + key.len() + value.len());
        put(&mut bytes, length);
        bytes.extend_from_slice(key.as_bytes());
        numbers.into_iter().for_each(|number| put(&mut bytes, number));
        bytes.extend_from_slice(value);
        Self(bytes.into())
    }

    pub fn of(kv: &Kv) -> Self {
        let Kv { key, value, create_rev, mod_rev, version } = kv;
        let revs = Revs { create_rev: *create_rev, mod_rev: *mod_rev, version: *version };
        Self::new(key, value, revs)
    }

    pub fn key(&self) -> &str {
        std::str::from_utf8(self.split().0).expect("it was made of text")
    }

    pub fn revs(&self) -> Revs {
        self.parts().0
    }

    /// As others see it.
    pub fn kv(&self) -> Arc<Kv> {
        let (revs, value) = self.parts();
        self.with(revs, value)
    }

    /// The same without its value.
    pub fn without_value(&self) -> Arc<Kv> {
        self.with(self.revs(), &[])
    }

    fn with(&self, Revs { create_rev, mod_rev, version }: Revs, value: &[u8]) -> Arc<Kv> {
        let (key, value) = (self.key().into(), value.into());
        Arc::new(Kv { key, value, create_rev, mod_rev, version })
    }

    fn parts(&self) -> (Revs, &[u8]) {
        let mut rest = self.split().1;
        let [create_rev, changes, version] = [(); 3].map(|()| take(&mut rest));
        (Revs { create_rev, mod_rev: create_rev + changes, version }, rest)
    }

    /// The key, and what is behind it.
    fn split(&self) -> (&[u8], &[u8]) {
        let mut rest = &*self.0;
        let length = take(&mut rest) as usize; // as it was put there
        rest.split_at(length)
    }
}

/// How many bytes it takes.
fn groups(number: i64) -> usize {
    (u64::BITS - number.leading_zeros()).max(1).div_ceil(7) as usize
}

fn put(bytes: &mut Vec<u8>, number: i64) {
    let mut left = number.cast_unsigned();
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}

fn take(bytes: &mut &[u8]) -> i64 {
    let (mut number, mut shift) = (0_u64, 0);
    while let Some((byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number.cast_signed()
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kv().fmt(f)
    }
}

/// The order of texts is that of their bytes.
impl Borrow<[u8]> for Packed {
    fn borrow(&self) -> &[u8] {
        self.split().0
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.split().0.cmp(other.split().0)
    }
}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Packed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let long = "k".repeat(1000);
        for (key, value) in [("/a", &b""[..]), ("/ä", b"\xff\0"), (&long, &[7; 100_000])] {
            for (create_rev, mod_rev, version) in
                [(1, 1, 1), (2, 200, 127), (128, 1 << 40, 128), (i64::MAX, i64::MAX, i64::MAX)]
            {
                let (key, value) = (Arc::from(key), Arc::from(value));
                let kv = Kv { key, value, create_rev, mod_rev, version };
                let packed = Packed::of(&kv);
                assert_eq!(*packed.kv(), kv);
                assert_eq!(packed.revs(), Revs { create_rev, mod_rev, version });
                assert_eq!(*packed.without_value(), Kv { value: Arc::from([]), ..kv });
            }
        }
    }
}
