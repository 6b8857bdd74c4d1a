use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits::{HELD_HEAD_BYTES_FREE, HELD_HEAD_BYTES_STEP, HELD_HEADS_BYTES_MAX};

/// What the unfinished heads of all connections of a server hold beyond what each has for itself:
/// thousands of connections that never finish one do not take the memory of the machine.
#[derive(Debug, Default)]
pub(crate) struct HeldHeads(AtomicUsize);

/// The beginning of a head.
#[derive(Debug)]
pub(crate) struct HeldHead<'a> {
    bytes: Vec<u8>,
    counted: usize,
    all: &'a HeldHeads,
}

impl<'a> HeldHead<'a> {
    pub fn new(all: &'a HeldHeads) -> Self {
        Self { bytes: Vec::new(), counted: 0, all }
    }

    /// Holds `bytes` as well. False when there is no memory left for them.
    #[must_use]
    pub fn hold(&mut self, bytes: &[u8]) -> bool {
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            let room = length.next_multiple_of(HELD_HEAD_BYTES_STEP);
            if !self.count(room.saturating_sub(HELD_HEAD_BYTES_FREE)) {
                return false;
            }
            // Not twice of what there is, as a vector would.
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        true
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives away what is held, which is no unfinished head any more.
    pub fn take(&mut self) -> Vec<u8> {
        self.count(0);
        std::mem::take(&mut self.bytes)
    }

    fn count(&mut self, bytes: usize) -> bool {
        let all = &self.all.0;
        if bytes <= self.counted {
            all.fetch_sub(self.counted - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.counted;
            if all.fetch_add(more, Ordering::Relaxed) + more > HELD_HEADS_BYTES_MAX {
                all.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        self.counted = bytes;
        true
    }
}

impl Drop for HeldHead<'_> {
    fn drop(&mut self) {
        self.count(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_heads_share_their_memory_and_small_ones_need_none_of_it() {
        let all = HeldHeads::default();
        let large = vec![b'a'; 60_000];
        let mut held = Vec::new();
        let refused = loop {
            let mut head = HeldHead::new(&all);
            if !head.hold(&large) {
                break head;
            }
            held.push(head);
        };
        let count = held.len();
        assert!((200..400).contains(&count), "{count}");
        assert!(refused.bytes().is_empty());
        for _ in 0..1000 {
            let mut head = HeldHead::new(&all);
            assert!(head.hold(&large[..HELD_HEAD_BYTES_FREE]), "an ordinary one is held");
            held.push(head);
        }
        held.truncate(count);
        let mut last = held.pop().expect("some are held");
        assert_eq!(last.take(), large);
        assert!(last.hold(&large), "its memory is free again");
        drop((held, last, refused));
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
}
