//! A guest that tries the walls of its box, one route per wall. The platform's tests name the limit
//! that stops it.
//!
//! Every route answers 200 with what it got, and 403 with the error when the box refused.
use std::hint::black_box;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use answer::{Answer, IncomingRequest, Question, ResponseOutparam, query_value};
use wasip2::exports::http::incoming_handler::Guest;

mod fetch; // one request to somewhere else

wasip2::http::proxy::export!(Probe);

const ROUTES: &str = "/fetch?url=  /read?path=  /write?path=&bytes=  /list?path=  /env  /spin  /hog?mb=  /recurse  \
    /flood?lines=  /sleep?ms=  /panic  /echo\n";

struct Probe;

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let question = Question::of(request);
        let (status, text) = match probe(question) {
            Ok(Some(text)) => (200, text),
            Ok(None) => (404, format!("routes: {ROUTES}")),
            Err(error) => (403, format!("{error}\n")),
        };
        Answer::new(status).content_type("text/plain; charset=utf-8").send(out, text.as_bytes());
    }
}

fn probe(question: Question) -> io::Result<Option<String>> {
    let query = question.query.clone().unwrap_or_default();
    let text = |key: &str| {
        query_value(&query, key).ok_or_else(|| io::Error::other(format!("`{key}=` is missing")))
    };
    let number = |key: &str, otherwise: u64| {
        query_value(&query, key).and_then(|n| n.parse().ok()).unwrap_or(otherwise)
    };
    Ok(Some(match question.path.as_str() {
        "/" => format!("routes: {ROUTES}"),
        "/fetch" => fetch::get(&text("url")?)?,
        "/read" => format!("read {} bytes\n", std::fs::read(text("path")?)?.len()),
        "/write" => write(&text("path")?, number("bytes", 1))?,
        "/list" => list(&text("path")?)?,
        "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/spin" => spin(),
        "/hog" => hog(number("mb", u64::MAX)),
        "/recurse" => format!("reached the bottom: {}\n", recurse(black_box(0))),
        "/flood" => flood(number("lines", u64::MAX)),
        "/sleep" => sleep(number("ms", 1000)),
        "/panic" => panic!("as asked"),
        "/echo" => return echo(question).map(Some),
        _ => return Ok(None),
    }))
}

fn echo(question: Question) -> io::Result<String> {
    let bytes = question.read(1 << 20)?.map_err(|_| io::Error::other("more than 1 MiB"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(path: &str, bytes: u64) -> io::Result<String> {
    let mut file = std::fs::File::create(path)?;
    let written = io::copy(&mut io::repeat(b'm').take(bytes), &mut file)?;
    Ok(format!("wrote {written} bytes\n"))
}

fn list(path: &str) -> io::Result<String> {
    let mut names =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.iter().map(|name| format!("{}\n", name.display())).collect())
}

fn spin() -> ! {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn hog(mib: u64) -> String {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for count in 1..=mib {
        let mut block = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            return format!("refused after {} MiB\n", count - 1);
        }
        block.resize(1 << 20, count as u8); // touched, so it counts
        held.push(block);
    }
    format!("holding {} MiB\n", black_box(held).len())
}

// Not a sum, or the compiler would turn the recursion into a loop.
fn recurse(depth: u64) -> u64 {
    if depth == black_box(u64::MAX) { 0 } else { recurse(depth + 1).rotate_left(5) ^ depth }
}

fn flood(lines: u64) -> String {
    for count in 0..lines {
        println!("{count:>12} {}", "meow ".repeat(20));
    }
    format!("wrote {lines} lines\n")
}

fn sleep(ms: u64) -> String {
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(ms));
    format!("slept {} ms\n", begun.elapsed().as_millis())
}
