//! A static file server: `GET` and `HEAD` for the files of one folder, and nothing else.
//!
//! It reads [`path`] first, since that is where untrusted bytes become a file name. The folder
//! is `/srv/www`, or the variable `HTTPD_ROOT`; `HTTPD_MAX_AGE` is for how many seconds a browser
//! need not ask again (default: it always asks, and mostly hears 304). Absent on purpose: listings,
//! uploads, several ranges at once, and a memory between requests.
mod path; // from what was asked to the names of folders and files
mod media; // file extensions and their types
mod etag; // the name of a file's content
mod range; // the part of a file that is wanted
mod serve; // one file, found or not

use answer::{Answer, IncomingRequest, Method, Question, ResponseOutparam};
use wasip2::exports::http::incoming_handler::Guest;

wasip2::http::proxy::export!(Httpd);

struct Httpd;

impl Guest for Httpd {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let question = Question::of(request);
        match question.method {
            Method::Get | Method::Head => serve::serve(&question, out),
            _ => Answer::new(405)
                .header("allow", "GET, HEAD")
                .content_type("text/plain; charset=utf-8")
                .send(out, b"405: this server only reads. Ask with GET or HEAD.\n"),
        }
    }
}
