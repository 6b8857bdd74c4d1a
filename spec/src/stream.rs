//! What a client and a node send each other through the control plane about one task: frames, both
//! ways, each with a kind and a length.
//!
//! The control plane passes frames on whole and reads none, so that a stream that breaks off can
//! still be ended with a word: every stream that was begun ends with [`Frame::End`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    log::LogSource,
    name::{ContainerName, TaskId, Tenant},
    text::ParseError,
    time::Timestamp,
    usage::Usage,
    wire::Fault,
};

/// The media type of a body of frames.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.margay.stream";
/// Bytes in one frame: as much as a pipe holds, and more than the longest piece of a log line.
const PAYLOAD_BYTES_MAX: usize = 128 << 10;
/// A kind, and the length of what follows.
const HEAD_BYTES: usize = 5;
/// A log line has its time and its flags before its text.
const LOG_HEAD_BYTES: usize = 9;

/// Which lines of a log are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// Whether to wait for more until the task ends.
    pub follow: bool,
    /// Only the last so many of the lines that are there and meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// Only what was written since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only what was written until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Only lines that hold this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
}

/// Another program in a container that runs: the first frame of a client that asks for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecProgram {
    /// The program's name, then its arguments.
    #[schema(min_items = 1)]
    pub args: Vec<String>,
    /// Beyond the container's own variables, over which they win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The container's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// By name or number; the container's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The size of its terminal, if it gets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Whether its input is what the client sends.
    #[serde(default)]
    pub interactive: bool,
    /// Whether the stream ends when the program runs.
    #[serde(default)]
    pub detach: bool,
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// Streams that clients wait for, and that a node has not been told of: the answer to its poll for
/// them. It opens each with a request of its own, and its client is connected to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamRequests {
    /// [`VERSION`](crate::wire::VERSION).
    pub version: u32,
    /// In the order in which they were asked for.
    pub streams: Vec<StreamRequest>,
}

/// One stream that a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamRequest {
    /// Known to the node that is asked alone, and good for once.
    pub id: String,
    /// The tenant whose client it is.
    pub tenant: Tenant,
    /// The task that it is about; nothing where that is the node's ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Which of its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// What the client wants of it.
    pub ask: StreamAsk,
}

/// What a client wants of a container, or of the ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StreamAsk {
    /// What it wrote.
    Logs(LogQuery),
    /// Another program in it.
    Exec(Box<ExecProgram>),
    /// A connection to one of its ports.
    Forward(u16),
    /// What it uses, every second until its end.
    Stats,
    /// The requests that a service answered, of the access log of the node's ingress.
    AccessLog(AccessQuery),
}

/// Which lines of an access log are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessQuery {
    /// Those of this service, by the host name that it has by itself.
    pub service: String,
    /// Of these.
    pub lines: LogQuery,
}

/// What a container uses at one moment: the record of a stream of statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerStats {
    /// When it was read.
    pub at: Timestamp,
    /// What it used since its start.
    pub usage: Usage,
    /// Memory of its processes, in bytes.
    pub memory_bytes: u64,
    /// Memory that it never exceeds.
    pub memory_bytes_max: u64,
    /// Its processes.
    pub processes: u32,
}

/// How a stream ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamEnd {
    /// Of the program, where one ran to its end: its code, or 128 and the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Why it could not go on, or how the program ended other than with a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The other side is there: sent every few seconds, and to be ignored.
    Alive,
    /// The node has begun: the first frame from it, unless the stream ended at once.
    Started,
    /// One line of a log, or a part of one.
    Log {
        /// When it was written.
        time: Timestamp,
        /// Where it came from.
        source: LogSource,
        /// Whether the line goes on in the next frame.
        partial: bool,
        /// What, without the end of the line.
        text: Vec<u8>,
    },
    /// A document in JSON.
    Record(Vec<u8>),
    /// The program that the client asks for.
    Program(Box<ExecProgram>),
    /// To the program; nothing for the end of its input.
    Stdin(Vec<u8>),
    /// From the program.
    Stdout(Vec<u8>),
    /// From the program.
    Stderr(Vec<u8>),
    /// The client's terminal has another size.
    Resize(TerminalSize),
    /// A signal for the program.
    Signal(u8),
    /// Of a forwarded connection, either way; nothing for its end in this direction.
    Data(Vec<u8>),
    /// The last frame.
    End(StreamEnd),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Alive => 0,
            Self::Started => 1,
            Self::Log { .. } => 2,
            Self::Record(_) => 3,
            Self::Program(_) => 4,
            Self::Stdin(_) => 5,
            Self::Stdout(_) => 6,
            Self::Stderr(_) => 7,
            Self::Resize(_) => 8,
            Self::Signal(_) => 9,
            Self::Data(_) => 10,
            Self::End(_) => 11,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let json = |value: serde_json::Result<Vec<u8>>| value.expect("it has string keys");
        let payload = match self {
            Self::Alive | Self::Started => Vec::new(),
            Self::Log { time, source, partial, text } => {
                let flags = u8::from(*source == LogSource::Stderr) | u8::from(*partial) << 1;
                let head = time.millis().to_be_bytes();
                head.into_iter().chain([flags]).chain(text.iter().copied()).collect()
            }
            Self::Record(bytes)
            | Self::Stdin(bytes)
            | Self::Stdout(bytes)
            | Self::Stderr(bytes)
            | Self::Data(bytes) => bytes.clone(),
            Self::Program(program) => json(serde_json::to_vec(program)),
            Self::Resize(TerminalSize { rows, columns }) => {
                [rows.to_be_bytes(), columns.to_be_bytes()].concat()
            }
            Self::Signal(number) => vec![*number],
            Self::End(end) => json(serde_json::to_vec(end)),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
        bytes.push(self.kind());
        let length = u32::try_from(payload.len()).expect("a payload is some kilobytes");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// The frame in `bytes`, which [`Frames`] has cut out.
    ///
    /// # Errors
    /// For a kind that is not known here, and for a payload that is none of its kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, ParseError> {
        let wrong = || ParseError("a frame of the stream is malformed".to_owned());
        let (kind, payload) = match (bytes.first(), bytes.get(HEAD_BYTES..)) {
            (Some(kind), Some(payload)) => (*kind, payload),
            _ => return Err(wrong()),
        };
        let all = || payload.to_vec();
        Ok(match (kind, payload) {
            (0, []) => Self::Alive,
            (1, []) => Self::Started,
            (2, _) => {
                let (head, text) = payload.split_at_checked(LOG_HEAD_BYTES).ok_or_else(wrong)?;
                let (time, flags) = head.split_at(LOG_HEAD_BYTES - 1);
                let millis = u64::from_be_bytes(time.try_into().map_err(|_| wrong())?);
                let source = match flags[0] & 1 {
                    0 => LogSource::Stdout,
                    _ => LogSource::Stderr,
                };
                let time = Timestamp::from_millis(millis);
                Self::Log { time, source, partial: flags[0] & 2 != 0, text: text.to_vec() }
            }
            (3, _) => Self::Record(all()),
            (4, _) => Self::Program(crate::json::from_slice(payload).map_err(|_| wrong())?),
            (5, _) => Self::Stdin(all()),
            (6, _) => Self::Stdout(all()),
            (7, _) => Self::Stderr(all()),
            (8, &[a, b, c, d]) => Self::Resize(TerminalSize {
                rows: u16::from_be_bytes([a, b]),
                columns: u16::from_be_bytes([c, d]),
            }),
            (9, &[number]) => Self::Signal(number),
            (10, _) => Self::Data(all()),
            (11, _) => Self::End(crate::json::from_slice(payload).map_err(|_| wrong())?),
            _ => return Err(wrong()),
        })
    }
}

/// Cuts bytes that arrive in pieces into frames.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// What was given out already.
    taken: usize,
}

impl Frames {
    /// Takes in what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        // Once for each piece and not for each frame: what is left is less than one of those.
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes of the next whole frame, head included; nothing before more has come.
    ///
    /// # Errors
    /// When it is announced to be longer than any frame is.
    pub fn next_whole(&mut self) -> Result<Option<Vec<u8>>, ParseError> {
        let rest = &self.bytes[self.taken..];
        let Some(&[_, a, b, c, d]) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(ParseError(format!(
                "a frame of the stream has {length} bytes, at most {PAYLOAD_BYTES_MAX}"
            )));
        }
        let end = HEAD_BYTES + length;
        let Some(whole) = rest.get(..end) else { return Ok(None) };
        let whole = whole.to_vec();
        self.taken += end;
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Frame> {
        let program = ExecProgram { args: vec!["sh".to_owned()], ..ExecProgram::default() };
        let (time, text) = (Timestamp::from_millis(7), b"a line \xff".to_vec());
        let line = |source, partial| Frame::Log { time, source, partial, text: text.clone() };
        vec![
            Frame::Alive,
            Frame::Started,
            line(LogSource::Stdout, false),
            line(LogSource::Stderr, true),
            Frame::Record(b"{}".to_vec()),
            Frame::Program(Box::new(program)),
            Frame::Stdin(Vec::new()),
            Frame::Stdout(vec![0; PAYLOAD_BYTES_MAX]),
            Frame::Stderr(b"no".to_vec()),
            Frame::Resize(TerminalSize { rows: 24, columns: 500 }),
            Frame::Signal(15),
            Frame::Data(b"GET /".to_vec()),
            Frame::End(StreamEnd { exit_code: Some(3), fault: None }),
        ]
    }

    #[test]
    fn frames_arrive_as_they_were_sent_however_their_bytes_are_cut() {
        let sent = one_of_each();
        let bytes: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
        for piece in [1, 4, 5, 1000, bytes.len()] {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for bytes in bytes.chunks(piece) {
                frames.push(bytes);
                while let Some(whole) = frames.next_whole().unwrap() {
                    got.push(Frame::decode(&whole).unwrap());
                }
            }
            assert_eq!(got, sent, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut long = Frames::default();
        long.push(&[6, 0xff, 0xff, 0xff, 0xff, 0]);
        assert!(long.next_whole().unwrap_err().to_string().contains("has 4294967295 bytes"));
        for bytes in [
            &[][..],
            &[1, 0, 0],
            &[99, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1, 7],
            &[2, 0, 0, 0, 2, 1, 2],
            &[4, 0, 0, 0, 1, b'{'],
            &[8, 0, 0, 0, 1, 1],
            &[11, 0, 0, 0, 4, b'n', b'u', b'l', b'l'],
        ] {
            assert!(Frame::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
