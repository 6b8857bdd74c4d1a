use crate::Timestamp;

/// The first line of a log whose older lines were dropped, a record like all others:
/// `TIME stderr F margay: N bytes of older log were dropped`.
///
/// It lets a reader that follows the log find its place again, and the next truncation count on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogHead {
    /// Bytes of all lines that were dropped, in all truncations.
    pub dropped: u64,
    /// Bytes of this line.
    pub bytes: u64,
}

impl LogHead {
    /// No head is longer.
    pub const BYTES_MAX: usize = 128;

    /// Reads the first line of a log that begins with `start`; zero when nothing was dropped.
    pub fn of(start: &[u8]) -> Self {
        let read = || {
            let end = start.iter().take(Self::BYTES_MAX).position(|byte| *byte == b'\n')?;
            let (_, text) =
                std::str::from_utf8(&start[..end]).ok()?.split_once(" stderr F margay: ")?;
            let dropped = text.strip_suffix(" bytes of older log were dropped")?.parse().ok()?;
            Some(Self { dropped, bytes: end as u64 + 1 })
        };
        read().unwrap_or_default()
    }

    /// The line for a log with this head of which the first `offset` bytes are dropped now.
    pub fn after_cut(self, offset: u64, now: Timestamp) -> String {
        format!(
            "{now} stderr F margay: {} bytes of older log were dropped\n",
            self.position(offset)
        )
    }

    /// Where the byte at `offset` is in all that was ever written.
    pub fn position(self, offset: u64) -> u64 {
        self.dropped.saturating_add(offset.saturating_sub(self.bytes))
    }

    /// Where the byte at `position` of all that was ever written is in the file; its beginning if
    /// that was dropped.
    pub fn offset(self, position: u64) -> u64 {
        position.checked_sub(self.dropped).map_or(0, |kept| kept.saturating_add(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_log_is_found_again_after_cuts() {
        let now = Timestamp::from_millis(0);
        let whole = LogHead::of(b"1970-01-01T00:00:00.000Z stdout F one\n");
        assert_eq!(whole, LogHead::default());
        let line = whole.after_cut(100, now);
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z stderr F margay: 100 bytes of older log were dropped\n"
        );
        let cut = LogHead::of(line.as_bytes());
        assert_eq!(cut, LogHead { dropped: 100, bytes: line.len() as u64 });
        // The byte that was the 150th is the 50th after the head; one that was dropped leads to the
        // head.
        assert_eq!((cut.offset(150), cut.offset(99)), (cut.bytes + 50, 0));
        assert_eq!(cut.position(cut.offset(150)), 150);
        let again = LogHead::of(cut.after_cut(cut.bytes + 60, now).as_bytes());
        assert_eq!(again.dropped, 160);
        let most = LogHead { dropped: u64::MAX, bytes: 0 }.after_cut(7, now);
        assert!(
            most.len() <= LogHead::BYTES_MAX && LogHead::of(most.as_bytes()).dropped == u64::MAX,
            "{most}"
        );
        for nonsense in [
            "",
            "\n",
            "T stderr F margay: x bytes of older log were dropped\n",
            "T stderr F margay: 1",
        ] {
            assert_eq!(LogHead::of(nonsense.as_bytes()), LogHead::default(), "{nonsense}");
        }
    }
}
