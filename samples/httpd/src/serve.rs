use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use answer::{Answer, Method, Question, ResponseOutparam};

use crate::etag::{etag_of, etag_of_file, names};
use crate::media::media_type;
use crate::path::Wanted;
use crate::range::{Part, part};

/// What is read and sent at once, and so what a big file costs in memory.
const CHUNK_BYTES: usize = 64 * 1024;

/// Up to this length a file is read once, hashed and sent; pages and their pictures are below it.
const HELD_BYTES_MAX: u64 = 512 * 1024;

/// Above this length a file has no ETag: to name it would cost more than to send it again.
const NAMED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A file that was opened, with what the answer says about it.
struct Page {
    path: PathBuf,
    file: File,
    length: u64,
    /// All of its bytes, if it is short.
    held: Option<Vec<u8>>,
    etag: Option<String>,
}

/// Answers one question with a file, or says why not.
pub fn serve(question: &Question, out: ResponseOutparam) {
    let root = PathBuf::from(std::env::var_os("HTTPD_ROOT").unwrap_or_else(|| "/srv/www".into()));
    let Some(wanted) = Wanted::parse(&question.path) else {
        return say(question, out, Answer::new(400), "400: this path makes no sense here.");
    };
    if wanted.hidden() {
        return not_found(question, out, &root);
    }
    let path = wanted.below(&root);
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() && wanted.folder => {
            serve_file(question, out, &root, &path.join("index.html"))
        }
        Ok(meta) if meta.is_dir() => redirect(question, out, &wanted),
        Ok(_) if wanted.folder => not_found(question, out, &root), // `page.html/` names no file
        Ok(_) => serve_file(question, out, &root, &path),
        Err(error) => {
            if question.path == "/" {
                eprintln!("cannot read the root `{}`: {error}", root.display());
            }
            not_found(question, out, &root);
        }
    }
}

fn serve_file(question: &Question, out: ResponseOutparam, root: &Path, path: &Path) {
    match open(path) {
        Ok(page) => show(question, out, page),
        Err(error) if error.kind() == io::ErrorKind::NotFound => not_found(question, out, root),
        Err(error) => {
            eprintln!("cannot read `{}`: {error}", path.display());
            say(
                question,
                out,
                Answer::new(500),
                "500: this file cannot be read. The log says why.",
            );
        }
    }
}

fn open(path: &Path) -> io::Result<Page> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut length = meta.len();
    let (mut held, mut etag) = (None, None);
    if length <= HELD_BYTES_MAX {
        let mut bytes = Vec::with_capacity(length as usize);
        (&mut file).take(HELD_BYTES_MAX).read_to_end(&mut bytes)?;
        length = bytes.len() as u64;
        etag = Some(etag_of(&bytes));
        held = Some(bytes);
    } else if length <= NAMED_BYTES_MAX {
        etag = Some(etag_of_file(&mut file, CHUNK_BYTES)?);
    }
    Ok(Page { path: path.to_path_buf(), file, length, held, etag })
}

fn show(question: &Question, out: ResponseOutparam, page: Page) {
    let answer = |status| {
        let named = Answer::new(status).header("cache-control", cache_control());
        match &page.etag {
            Some(etag) => named.header("etag", etag.as_str()),
            None => named,
        }
    };
    if known_to_caller(question, &page) {
        return answer(304).send_head(out);
    }
    let (status, first, count) = match wanted_part(question, &page) {
        Part::Whole => (200, 0, page.length),
        Part::Bytes { first, count } => (206, first, count),
        Part::Nothing => {
            let nothing = answer(416).header("content-range", format!("bytes */{}", page.length));
            return say(question, out, nothing, "416: the file is shorter than that.");
        }
    };
    let mut head = answer(status)
        .content_type(media_type(&page.path))
        .header("accept-ranges", "bytes")
        .header("x-content-type-options", "nosniff");
    if status == 206 {
        head = head.header(
            "content-range",
            format!("bytes {first}-{}/{}", first + count - 1, page.length),
        );
    }
    if matches!(question.method, Method::Head) {
        return head.content_length(count).send_head(out);
    }
    if let Err(error) = send(head, out, page, first, count) {
        eprintln!("sending stopped: {error}");
    }
}

fn send(
    head: Answer,
    out: ResponseOutparam,
    mut page: Page,
    first: u64,
    count: u64,
) -> io::Result<()> {
    if let Some(bytes) = page.held {
        head.send(out, &bytes[first as usize..(first + count) as usize]);
        return Ok(());
    }
    page.file.seek(SeekFrom::Start(first))?;
    let mut body = head.content_length(count).open(out);
    let mut chunk = vec![0; CHUNK_BYTES.min(count as usize)];
    let mut left = count;
    while left > 0 {
        let want = chunk.len().min(left as usize);
        let got = match page.file.read(&mut chunk[..want])? {
            0 => return Err(io::Error::other(format!("`{}` became shorter", page.path.display()))),
            got => got,
        };
        body.write_all(&chunk[..got])?;
        left -= got as u64;
    }
    body.finish();
    Ok(())
}

fn known_to_caller(question: &Question, page: &Page) -> bool {
    match (question.header("if-none-match"), &page.etag) {
        (Some(header), Some(etag)) => names(&header, etag),
        _ => false,
    }
}

fn wanted_part(question: &Question, page: &Page) -> Part {
    let Some(range) = question.header("range").filter(|_| matches!(question.method, Method::Get))
    else {
        return Part::Whole;
    };
    // A client with the first half of another version must not get the second half of this one.
    match question.header("if-range") {
        Some(held) if Some(&held) != page.etag.as_ref() => Part::Whole,
        _ => part(&range, page.length),
    }
}

fn cache_control() -> String {
    match std::env::var("HTTPD_MAX_AGE").ok().and_then(|seconds| seconds.parse::<u32>().ok()) {
        None | Some(0) => "no-cache".to_owned(),
        Some(seconds) => format!("public, max-age={seconds}"),
    }
}

fn redirect(question: &Question, out: ResponseOutparam, wanted: &Wanted) {
    let mut location = wanted.as_folder();
    if let Some(query) = &question.query {
        location = format!("{location}?{query}");
    }
    let text = format!("308: this folder is at {location}");
    say(question, out, Answer::new(308).header("location", location), &text);
}

/// The image's own `404.html`, or a sentence.
fn not_found(question: &Question, out: ResponseOutparam, root: &Path) {
    let answer = Answer::new(404).header("cache-control", "no-cache");
    match open(&root.join("404.html")) {
        Ok(Page { held: Some(bytes), .. }) => {
            finish(question, out, answer.content_type("text/html; charset=utf-8"), &bytes);
        }
        Ok(_) | Err(_) => say(question, out, answer, "404: there is nothing here."),
    }
}

fn say(question: &Question, out: ResponseOutparam, answer: Answer, text: &str) {
    finish(
        question,
        out,
        answer.content_type("text/plain; charset=utf-8"),
        format!("{text}\n").as_bytes(),
    );
}

fn finish(question: &Question, out: ResponseOutparam, answer: Answer, body: &[u8]) {
    match question.method {
        Method::Head => answer.content_length(body.len() as u64).send_head(out),
        _ => answer.send(out, body),
    }
}
