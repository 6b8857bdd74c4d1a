/// The longest that UDP over IPv6 has without jumbograms; over IPv4 it is 20 bytes less.
pub const DATAGRAM_BYTES_MAX: usize = 65_527;
/// The length of a datagram, big-endian.
const HEADER_BYTES: usize = 2;

/// `datagram` with its length in front, as it goes through a stream of bytes. One that is longer
/// than any datagram has no frame.
pub fn framed(datagram: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(datagram.len()).ok()?;
    Some([&length.to_be_bytes()[..], datagram].concat())
}

/// Takes frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct FrameSplitter {
    /// Less than a frame, between two calls that drain it.
    pending: Vec<u8>,
}

impl FrameSplitter {
    /// Hands each datagram that `bytes` completes to `each`.
    pub fn split(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        let joined = match self.pending.is_empty() {
            true => bytes,
            false => {
                self.pending.extend_from_slice(bytes);
                &self.pending
            }
        };
        let mut rest = joined;
        while let Some((datagram, after)) = first(rest) {
            each(datagram);
            rest = after;
        }
        // A stream that has said all of its frames holds no buffer.
        self.pending = rest.to_vec();
    }
}

/// The first datagram, and what follows it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    rest.split_at_checked(u16::from_be_bytes(*header).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_of_a_stream_as_they_went_in_wherever_it_is_cut() {
        let longest = vec![7; DATAGRAM_BYTES_MAX];
        let datagrams: [&[u8]; 5] = [b"one", b"", b"three\0\0", &longest, b"x"];
        let stream: Vec<u8> = datagrams.iter().flat_map(|one| framed(one).unwrap()).collect();
        for step in [1, 2, 3, 7, 1024, stream.len()] {
            let (mut splitter, mut got) = (FrameSplitter::default(), Vec::new());
            for piece in stream.chunks(step) {
                splitter.split(piece, |one| got.push(one.to_vec()));
            }
            assert!(got == datagrams, "cut every {step} bytes");
            assert!(splitter.pending.is_empty());
        }
        assert!(framed(&vec![0; 1 << 16]).is_none());
    }
}
