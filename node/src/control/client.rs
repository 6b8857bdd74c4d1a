use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::protocol::{Answer, Frame, HEAD_BYTES, Order, Request, SOCKET, VERSION, json};
use crate::{tasks::TaskFolder, window::terminal_size};

/// A supervisor answers from its event loop, which waits for nothing but a start: seconds under
/// swap.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Asks the supervisor of a task for something.
///
/// # Errors
/// When it is gone, or does not answer.
pub(crate) fn ask(task: &TaskFolder, order: Order) -> io::Result<Answer> {
    let mut stream = disk::connect(&task.path().join(SOCKET))?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    stream.write_all(&Frame::Request.with_json(&Request { version: VERSION, order })?)?;
    match receive(&mut stream)? {
        (Frame::Answer, payload) => json(&payload),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks the supervisor of a task for its streams. They follow the answer over the connection.
///
/// # Errors
/// When it is gone, or does not answer.
pub(crate) fn attach(task: &TaskFolder) -> io::Result<(Answer, UnixStream)> {
    let mut stream = disk::connect(&task.path().join(SOCKET))?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    let order = Order::Attach(terminal_size());
    let request = Request { version: VERSION, order };
    stream.write_all(&Frame::Request.with_json(&request)?)?;
    match receive(&mut stream)? {
        (Frame::Answer, payload) => Ok((json(&payload)?, stream)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn receive(stream: &mut UnixStream) -> io::Result<(Frame, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head)?;
    let (frame, length) = Frame::of_head(head)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((frame, payload))
}
