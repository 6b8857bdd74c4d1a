/// What every client sends first (RFC 9113 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;

/// The head of a frame (RFC 9113 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub length: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

impl Frame {
    fn of(head: [u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = head;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        }
    }

    /// Whether its sender sends no more on its stream.
    pub fn ends_stream(&self) -> bool {
        self.kind == RST_STREAM
            || matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// Finds the heads of frames in bytes that come in pieces of any size.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    filled: usize,
    /// Until the next head.
    skip: usize,
}

impl Frames {
    /// Of a stream that begins with so many bytes that are no frame.
    pub fn after(skip: usize) -> Self {
        Self { head: [0; HEAD_BYTES], filled: 0, skip }
    }

    /// Reads on, and calls `found` for each head in `bytes`.
    pub fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_BYTES {
                let frame = Frame::of(self.head);
                (self.filled, self.skip) = (0, frame.length as usize);
                found(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_their_bytes_come() {
        let mut bytes = PREFACE.to_vec();
        let frames = [(0, 4, 0, 0), (5, HEADERS, 5, 1), (300, DATA, 0, 1), (4, RST_STREAM, 0, 1)];
        for (length, kind, flags, stream) in frames {
            bytes.extend_from_slice(&u32::to_be_bytes(length)[1..]);
            bytes.extend_from_slice(&[kind, flags, 0x80, 0, 0, stream]); // one bit is reserved
            bytes.extend(std::iter::repeat_n(0xff, length as usize));
        }
        let want: Vec<_> = frames
            .map(|(length, kind, flags, stream)| Frame {
                length,
                kind,
                flags,
                stream: stream.into(),
            })
            .into();
        for size in [1, 2, 8, 9, 10, 100, bytes.len()] {
            let (mut reader, mut found) = (Frames::after(PREFACE.len()), Vec::new());
            for piece in bytes.chunks(size) {
                reader.read(piece, |frame| found.push(frame));
            }
            assert_eq!(found, want, "in pieces of {size}");
        }
        assert_eq!(
            want.iter().map(Frame::ends_stream).collect::<Vec<_>>(),
            [false, true, false, true]
        );
    }
}
