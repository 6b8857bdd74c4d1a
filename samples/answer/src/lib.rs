//! One HTTP answer of a wasi:http guest.
//!
//! Enter at [`Answer`]: name the status, add headers, then send it with a body, without one, or as
//! a [`Body`] to write into. [`Question`] is the other half: the parts of a request that the
//! samples look at. Absent on purpose: routing, async and trailers.
mod question; // what was asked
mod reply; // what is answered
mod text; // percent signs, queries and HTML

pub use question::{Question, TooLong};
pub use reply::{Answer, Body};
pub use text::{escape_html, percent_decode, query_value};
pub use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
