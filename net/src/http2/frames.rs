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
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

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
    block: Block,
    /// The frame that began the block.
    first: Option<Frame>,
}

/// The part of a header block that is being read. A block is one or more frames, between which
/// there is no other (RFC 9113 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    None,
    Open,
    Last,
}

impl Frames {
    /// Of a stream that begins with so many bytes that are no frame.
    pub fn after(skip: usize) -> Self {
        Self { head: [0; HEAD_BYTES], filled: 0, skip, block: Block::None, first: None }
    }

    /// Reads on, and calls `found` for each frame: one that begins a header block when all of the
    /// block is there, others with their head. Returns how many of `bytes` come before a head or a
    /// header block that is not there in full.
    pub fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Frame)) -> usize {
        let (mut at, mut whole) = (0, 0);
        while at < bytes.len() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len() - at);
                self.skip -= skipped;
                at += skipped;
            } else {
                at += self.read_head(&bytes[at..], &mut found);
            }
            if self.block == Block::Last && self.skip == 0 && self.filled == 0 {
                self.block = Block::None;
                self.first.take().into_iter().for_each(&mut found);
            }
            if self.block == Block::None && self.filled == 0 {
                whole = at;
            }
        }
        whole
    }

    fn read_head(&mut self, bytes: &[u8], found: &mut impl FnMut(Frame)) -> usize {
        let taken = (HEAD_BYTES - self.filled).min(bytes.len());
        self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        if self.filled == HEAD_BYTES {
            let frame = Frame::of(self.head);
            (self.filled, self.skip) = (0, frame.length as usize);
            self.block = match frame.kind {
                HEADERS | CONTINUATION if frame.flags & END_HEADERS != 0 => Block::Last,
                HEADERS | CONTINUATION => Block::Open,
                _ => Block::None, // h2 refuses one within a block
            };
            match frame.kind {
                HEADERS => self.first = Some(frame),
                _ => found(frame),
            }
        }
        taken
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

    #[test]
    fn a_header_block_is_passed_on_when_it_is_there_in_full() {
        let frame = |kind, flags, length: u8| {
            let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
            frame.extend(std::iter::repeat_n(0xff, length.into()));
            frame
        };
        let (data, more) = (frame(DATA, 0, 10), frame(CONTINUATION, 0, 7));
        let (open, last) = (frame(HEADERS, 0, 20), frame(CONTINUATION, END_HEADERS, 0));
        let mut frames = Frames::after(0);
        let mut kinds = Vec::new();
        let mut read = |bytes: &[u8]| frames.read(bytes, |frame| kinds.push(frame.kind));
        // Of a body each byte, as soon as it is known to be one.
        assert_eq!((read(&data[..5]), read(&data[5..12]), read(&data[12..])), (0, 7, 7));
        let begun = [&data[..], &open[..]].concat();
        assert_eq!(read(&begun), data.len());
        assert_eq!((read(&more), read(&last[..8])), (0, 0));
        assert_eq!(read(&[&last[8..], &data[..], &data[..3]].concat()), 1 + data.len());
        let rest = [&data[3..], &frame(HEADERS, END_HEADERS, 3)[..11]].concat();
        assert_eq!(read(&rest), data.len() - 3);
        assert_eq!(read(&[0xff]), 1);
        assert_eq!(kinds, [DATA, DATA, CONTINUATION, CONTINUATION, HEADERS, DATA, DATA, HEADERS]);
    }
}
