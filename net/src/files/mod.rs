//! Bodies of responses that are files: from the file to the socket within the kernel.
//!
//! hyper writes the head. When that has left it, the connection is taken out of its hands, the file
//! is sent with `sendfile(2)`, and a new hyper connection goes on with the next request. Only over
//! plain TCP: TLS is made in this process.

mod body; // the file, and what has to know of its way
mod hand_over; // when the head has left hyper
mod send; // the bytes

pub(crate) use body::may_take;
pub use body::{FileBody, TakesFiles};
pub(crate) use hand_over::{FlushNoticed, HandOver, Placeholder};
pub(crate) use send::send;
