use std::io;

use bytes::BytesMut;
use http::{header, request};
use http_body::{Body, SizeHint};

use super::{
    chunks::Chunks,
    piece::{Piece, malformed},
};

/// How the body of a request follows its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    /// So many bytes more.
    Length(u64),
    Chunked,
}

impl Framing {
    pub fn of(head: &request::Parts, body: &impl Body) -> Self {
        if body.is_end_stream() {
            return Self::None;
        }
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|said| said.to_str().ok());
        length.and_then(|said| said.parse().ok()).map_or(Self::Chunked, Self::Length)
    }

    /// Appends a piece of the body.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Chunked if data.is_empty() => {} // would be the last chunk
            Self::Chunked => {
                out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
            Self::Length(left) => {
                let too_long = || malformed("the body of the request is longer than it says");
                *left = left.checked_sub(data.len() as u64).ok_or_else(too_long)?;
                out.extend_from_slice(data);
            }
            Self::None => {}
        }
        Ok(())
    }

    /// Appends what ends the body.
    pub fn end(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Chunked => out.extend_from_slice(b"0\r\n\r\n"),
            Self::Length(1..) => {
                return Err(malformed("the body of the request is shorter than it says"));
            }
            Self::Length(0) | Self::None => {}
        }
        Ok(())
    }
}

/// What is still to come of the body of a response.
#[derive(Debug)]
pub(super) enum Incoming {
    /// So many bytes.
    Length(u64),
    Chunked(Box<Chunks>),
    UntilClosed,
}

impl Default for Incoming {
    fn default() -> Self {
        Self::Length(0)
    }
}

impl Incoming {
    pub fn chunked() -> Self {
        Self::Chunked(Box::default())
    }

    /// The next piece of what `came`; `None` when more must come first.
    pub fn take(&mut self, came: &mut BytesMut) -> io::Result<Option<Piece>> {
        let data = |came: &mut BytesMut, length| Some(Piece::Data(came.split_to(length).freeze()));
        match self {
            Self::Length(0) => Ok(Some(Piece::End)),
            _ if came.is_empty() => Ok(None),
            Self::Length(left) => {
                let length = came.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                Ok(data(came, length))
            }
            Self::UntilClosed => {
                let length = came.len();
                Ok(data(came, length))
            }
            Self::Chunked(chunks) => chunks.take(came),
        }
    }

    /// What it means that the connection has ended.
    pub fn cut_off(&mut self) -> Option<io::Error> {
        match self {
            Self::UntilClosed => {
                *self = Self::Length(0);
                None
            }
            Self::Length(_) | Self::Chunked(_) => Some(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the replica closed the connection within a response",
            )),
        }
    }

    pub fn ends_with_its_connection(&self) -> bool {
        matches!(self, Self::UntilClosed)
    }

    /// Whether all of it was taken.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_end(),
            Self::UntilClosed => false,
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(_) | Self::UntilClosed => SizeHint::default(),
        }
    }
}
