use std::io;

use engine::Stop;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The control socket in a task's folder.
pub(crate) const SOCKET: &str = "control.sock";
/// Another version is refused: the two sides are the same binary, except across an upgrade.
pub(crate) const VERSION: u32 = 2;
/// Bytes of one frame: a chunk of a stream, or a request of some hundred bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes before the payload: its kind, and its length.
pub(crate) const HEAD_BYTES: usize = 5;

/// The first frame of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub version: u32,
    pub order: Order,
}

/// What a supervisor is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Hand its program a signal.
    Signal(i32),
    /// End it, and start it again.
    Restart(Stop),
    /// Its terminal has other rows and columns.
    Resize(u16, u16),
    /// Send what it writes over this connection, and take what is for it, at a terminal of these
    /// rows and columns.
    Attach(Option<(u16, u16)>),
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    /// What it writes follows; whether it has a terminal, and a standard input.
    Streams {
        terminal: bool,
        input: bool,
    },
    /// It was started without a standard input and a terminal: what it writes is in its log.
    NoStreams,
    Refused(String),
}

/// How a task ended, for those that are attached to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub exit_code: i32,
    pub reason: Option<String>,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Request,
    Answer,
    /// To the program: its standard input.
    Input,
    /// The end of that.
    EndOfInput,
    /// From the program.
    Output,
    ErrorOutput,
    /// How it ended: the last one.
    Ended,
}

impl Frame {
    fn to_byte(self) -> u8 {
        match self {
            Self::Request => b'r',
            Self::Answer => b'a',
            Self::Input => b'i',
            Self::EndOfInput => b'n',
            Self::Output => b'o',
            Self::ErrorOutput => b'x',
            Self::Ended => b'e',
        }
    }

    fn of_byte(byte: u8) -> io::Result<Self> {
        Ok(match byte {
            b'r' => Self::Request,
            b'a' => Self::Answer,
            b'i' => Self::Input,
            b'n' => Self::EndOfInput,
            b'o' => Self::Output,
            b'x' => Self::ErrorOutput,
            b'e' => Self::Ended,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown frame")),
        })
    }

    /// A frame with `payload`, which must not be longer than [`FRAME_BYTES_MAX`].
    pub fn with(self, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("frames are shorter than 64 KiB");
        let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
        frame.push(self.to_byte());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// A frame with a value as JSON.
    pub fn with_json(self, value: &impl Serialize) -> io::Result<Vec<u8>> {
        Ok(self.with(&serde_json::to_vec(value)?))
    }

    /// What follows `head`, and how many bytes.
    pub fn of_head(head: [u8; HEAD_BYTES]) -> io::Result<(Self, usize)> {
        let [kind, a, b, c, d] = head;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        Ok((Self::of_byte(kind)?, length))
    }
}

/// A payload as a value.
pub(crate) fn json<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written_and_no_longer_one_is_taken() {
        use Frame::{Answer, EndOfInput, Ended, ErrorOutput, Input, Output, Request};
        for kind in [Request, Answer, Input, EndOfInput, Output, ErrorOutput, Ended] {
            let frame = kind.with(b"purr");
            let head = frame[..HEAD_BYTES].try_into().unwrap();
            assert_eq!(Frame::of_head(head).unwrap(), (kind, 4));
        }
        for head in [[b'r', 0, 1, 0, 1], [b'r', 255, 255, 255, 255], [b'?', 0, 0, 0, 0]] {
            assert!(Frame::of_head(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn orders_and_answers_survive_the_socket() {
        let stop = Stop { grace: std::time::Duration::from_secs(3), signal: Some(2) };
        for order in [Order::Signal(2), Order::Restart(stop), Order::Resize(1, 2)] {
            let text = serde_json::to_vec(&Request { version: VERSION, order }).unwrap();
            assert_eq!(json::<Request>(&text).unwrap().order, order);
        }
        let refused = Answer::Refused("no".to_owned());
        let text = serde_json::to_vec(&refused).unwrap();
        assert_eq!(json::<Answer>(&text).unwrap(), refused);
    }
}
