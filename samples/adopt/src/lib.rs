//! The cats are looking for homes, and the book keeps each adoption.
//!
//! `/` is a page, `/cats/NAME.svg` are its pictures, `/healthz` a probe, `/whoami` tells which
//! task, node and image answer, `/book` lists the adoptions and `POST /adopt` adds one. The book
//! lies in `/data`: with a volume there it outlives the task, and without one the app says so
//! instead of pretending.
mod book; // what is written under /data
mod form; // what a visitor sends
mod page; // what a visitor sees
mod whoami; // which copy of the app answers

use answer::{Answer, IncomingRequest, Method, Question, ResponseOutparam};
use wasip2::exports::http::incoming_handler::Guest;

use crate::book::{Adoption, Book};

wasip2::http::proxy::export!(Adopt);

/// Two names fit into a fraction of it.
const FORM_BYTES_MAX: u64 = 4096;

struct Adopt;

impl Guest for Adopt {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let question = Question::of(request);
        let allowed = if question.path == "/adopt" { "POST" } else { "GET, HEAD" };
        match (&question.method, question.path.as_str()) {
            (Method::Post, "/adopt") => adopt(question, out),
            (_, "/" | "/healthz" | "/whoami" | "/book" | "/adopt")
                if !fits(&question.method, allowed) =>
            {
                say(
                    &question.method,
                    out,
                    Answer::new(405).header("allow", allowed),
                    &format!("405: use {allowed}"),
                );
            }
            (method, "/") => {
                give(method, out, "text/html; charset=utf-8", &page::page(&Book::open()))
            }
            (method, "/healthz") => say(method, out, Answer::new(200), "ok"),
            (method, "/whoami") => give(method, out, "application/json", &whoami::whoami()),
            (Method::Get | Method::Head, path) if page::picture(path).is_some() => {
                picture(&question, out)
            }
            (method, "/book") => {
                give(method, out, "application/json", &book::as_json(&Book::open()))
            }
            (method, _) => {
                say(method, out, Answer::new(404), "404: try /, /book, /whoami or /healthz.")
            }
        }
    }
}

fn fits(method: &Method, allowed: &str) -> bool {
    match method {
        Method::Get | Method::Head => allowed.starts_with("GET"),
        _ => false,
    }
}

fn adopt(question: Question, out: ResponseOutparam) {
    let post = &Method::Post;
    let json =
        question.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let body = match question.read(FORM_BYTES_MAX) {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return say(post, out, Answer::new(413), "413: a form has at most 4096 bytes.");
        }
        Err(error) => {
            return say(post, out, Answer::new(400), &format!("400: the form broke off: {error}"));
        }
    };
    let adoption = match form::parse(&body, json) {
        Ok(adoption) => adoption,
        Err(why) => return say(post, out, Answer::new(400), &format!("400: {why}")),
    };
    match Book::open().and_then(|mut book| book.write(&adoption)) {
        Ok(()) if json => created(out, &adoption),
        Ok(()) => Answer::new(303).header("location", "/#book").send(out, b""),
        Err(error) => {
            say(post, out, Answer::new(error.status()), &format!("{}: {error}", error.status()))
        }
    }
}

fn created(out: ResponseOutparam, adoption: &Adoption) {
    Answer::new(201).content_type("application/json").send(out, adoption.line().as_bytes());
}

fn picture(question: &Question, out: ResponseOutparam) {
    let drawn = page::picture(&question.path).unwrap_or_default();
    let answer = Answer::new(200)
        .content_type("image/svg+xml")
        .header("cache-control", "public, max-age=3600");
    send(&question.method, out, answer, drawn);
}

fn say(method: &Method, out: ResponseOutparam, answer: Answer, text: &str) {
    send(method, out, answer.content_type("text/plain; charset=utf-8"), &format!("{text}\n"));
}

fn give(method: &Method, out: ResponseOutparam, media_type: &str, body: &str) {
    send(
        method,
        out,
        Answer::new(200).content_type(media_type).header("cache-control", "no-store"),
        body,
    );
}

fn send(method: &Method, out: ResponseOutparam, answer: Answer, body: &str) {
    match method {
        Method::Head => answer.content_length(body.len() as u64).send_head(out),
        _ => answer.send(out, body.as_bytes()),
    }
}
