//! HTTP/1.1 towards replicas: one request at a time on a connection, which the request that has it
//! polls itself. No task, queue or copy of a head stands between a client and its replica.
//! Absent on purpose: pipelining, and bodies of requests that ask for permission first.

mod piece; // what comes of a body
mod chunks; // a chunked response, with its trailers
mod body; // how a body follows its head
mod head; // the head of a request is written, that of a response is read
#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, request, response};
use http_body::{Body, Frame, SizeHint};

use body::{Framing, Incoming};
use head::Answer;
use piece::Piece;

use super::{
    connection::{Connection, Upgraded},
    limits::REQUEST_BYTES_AHEAD,
    pool::Pool,
    request_body::RequestBody,
};

/// One request on a connection, and its response.
pub(super) struct Exchange {
    pool: Arc<Pool>,
    connection: Connection,
    method: Method,
    sending: Sending,
    /// It has no body: as good as another one of these.
    is_bare: bool,
    incoming: Incoming,
    /// Whether the connection may have another request after this one.
    keeps: bool,
    /// Where the end of the response's head is looked for, and how many came before it.
    scanned: usize,
    interim: usize,
}

/// What is left of the request, beside what its connection was given.
enum Sending {
    Body {
        body: RequestBody,
        framing: Framing,
    },
    Done,
    /// The replica takes no more of it, and may still answer.
    Broken(io::Error),
}

/// Why there is no response.
pub(super) enum Failed {
    /// Nothing was sent: this is the body.
    Unsent(RequestBody, String),
    /// Something was sent.
    Lost(String),
}

impl Failed {
    pub fn why(self) -> String {
        match self {
            Self::Unsent(_, why) | Self::Lost(why) => why,
        }
    }
}

/// Why a request cannot be sent to its end.
enum Stuck {
    Client(io::Error),
    Replica(io::Error),
}

impl Exchange {
    /// Begins a request with this head on `connection`, which goes back to `pool` after it.
    ///
    /// # Errors
    /// When the replica has closed the connection since its last request.
    pub fn begin(
        pool: Arc<Pool>,
        mut connection: Connection,
        head: &request::Parts,
        body: RequestBody,
    ) -> Result<Box<Self>, Failed> {
        if connection.used && !connection.is_alive() {
            return Err(Failed::Unsent(body, "the replica had closed the connection".to_owned()));
        }
        let framing = Framing::of(head, &body);
        head::write(head, framing, connection.out());
        Ok(Box::new(Self {
            pool,
            connection,
            method: head.method.clone(),
            sending: match framing {
                Framing::None => Sending::Done,
                framing => Sending::Body { body, framing },
            },
            is_bare: framing == Framing::None,
            incoming: Incoming::default(),
            keeps: false,
            scanned: 0,
            interim: 0,
        }))
    }

    /// Sends the request, and reads the head of its response.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Failed>> {
        self.poll_head(cx).map_err(|error| match self.is_bare && self.connection.is_untouched() {
            true => Failed::Unsent(RequestBody::none(), error.to_string()),
            false => Failed::Lost(error.to_string()),
        })
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<response::Parts>> {
        match self.poll_send(cx) {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Stuck::Client(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(Err(Stuck::Replica(error))) if self.connection.is_untouched() => {
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Err(Stuck::Replica(error))) => self.sending = Sending::Broken(error),
        }
        loop {
            if let Some(Answer { parts, incoming, keeps }) = self.read_head()? {
                (self.incoming, self.keeps) = (incoming, keeps);
                return Poll::Ready(Ok(parts));
            }
            if ready!(self.connection.poll_read(cx))? == 0 {
                let broken = match std::mem::replace(&mut self.sending, Sending::Done) {
                    Sending::Broken(error) => error,
                    Sending::Body { .. } | Sending::Done => {
                        let text = "the replica closed the connection before a response";
                        io::Error::new(io::ErrorKind::UnexpectedEof, text)
                    }
                };
                return Poll::Ready(Err(broken));
            }
        }
    }

    /// The head of the response, when it has come in full.
    fn read_head(&mut self) -> io::Result<Option<Answer>> {
        loop {
            let came = self.connection.came();
            if !head::is_complete(came, &mut self.scanned)? {
                return Ok(None);
            }
            self.scanned = 0;
            match head::read(came, &self.method)? {
                Some(answer) => return Ok(Some(answer)),
                None => self.interim += 1,
            }
            head::check_interim(self.interim)?;
        }
    }

    /// Sends as much as can be sent. Ready when that is all.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stuck>> {
        loop {
            let filled = self.poll_fill(cx).map_err(Stuck::Client)?;
            ready!(self.connection.poll_write_out(cx)).map_err(Stuck::Replica)?;
            if !matches!(self.sending, Sending::Body { .. }) {
                return Poll::Ready(Ok(()));
            }
            ready!(filled);
        }
    }

    /// Takes more of the body, as it comes. Pending when it must come first.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Sending::Body { body, framing } = &mut self.sending {
            let out = self.connection.out();
            if out.len() >= REQUEST_BYTES_AHEAD {
                break;
            }
            if let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)?) {
                if let Ok(data) = frame.into_data() {
                    framing.write(&data, out)?;
                }
                if !body.is_end_stream() {
                    continue;
                }
            }
            framing.end(out)?;
            self.sending = Sending::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece of the response's body; `None` at its end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Sending::Body { .. } = self.sending
            && let Poll::Ready(Err(stuck)) = self.poll_send(cx)
        {
            match stuck {
                Stuck::Client(error) => return Poll::Ready(Some(Err(error))),
                Stuck::Replica(error) => self.sending = Sending::Broken(error),
            }
        }
        loop {
            match self.incoming.take(self.connection.came())? {
                Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Piece::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(Piece::End) => return Poll::Ready(None),
                None => {}
            }
            if ready!(self.connection.poll_read(cx))? == 0 {
                return Poll::Ready(self.incoming.cut_off().map(Err));
            }
        }
    }

    /// Whether all of the response was taken.
    pub fn is_end(&self) -> bool {
        self.incoming.is_end()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// The response has come in full: the next request may have the connection, unless it is not
    /// to be used again.
    pub fn finish(self) {
        let is_sent = matches!(self.sending, Sending::Done);
        if self.keeps && is_sent && self.incoming.is_end() && self.connection.is_at_rest() {
            self.pool.keep(self.connection);
        }
    }

    /// The connection, which is HTTP no more.
    pub fn upgraded(self) -> Upgraded {
        self.connection.upgraded()
    }
}
