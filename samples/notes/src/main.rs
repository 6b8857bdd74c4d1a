//! Notes in a volume: `POST /` keeps a text and answers with its path, `GET /PATH` shows it.
//!
//! A note is named by a hash of its text, so that keeping it again makes no second one.

use std::{fs, hash::Hasher as _, io, path::PathBuf};

use wstd::http::{Body, Method, Request, Response, StatusCode};

const FOLDER: &str = "/data";
const NOTE_BYTES_MAX: usize = 64 << 10;

#[wstd::http_server]
async fn main(request: Request<Body>) -> wstd::http::Result<Response<Body>> {
    let (parts, mut body) = request.into_parts();
    let name = parts.uri.path().trim_matches('/').to_owned();
    let (status, text) = match (parts.method, name.as_str()) {
        (Method::POST, "") => keep(body.contents().await?),
        (Method::GET, "") => list(),
        (Method::GET, name) => show(name),
        (Method::DELETE, name) => remove(name),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "use POST, GET or DELETE\n".to_owned()),
    };
    let response = Response::builder().status(status);
    Ok(response.header("content-type", "text/plain; charset=utf-8").body(text.into())?)
}

type Answer = (StatusCode, String);

fn keep(text: &[u8]) -> Answer {
    if text.is_empty() || text.len() > NOTE_BYTES_MAX {
        return (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a note has 1 to {NOTE_BYTES_MAX} bytes\n"),
        );
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return (StatusCode::BAD_REQUEST, "a note is text in UTF-8\n".to_owned());
    };
    #[expect(deprecated, reason = "names of notes must not change with the version of Rust")]
    let mut hasher = std::hash::SipHasher::new();
    hasher.write(text.as_bytes());
    let name = format!("{:016x}", hasher.finish());
    match fs::write(PathBuf::from(FOLDER).join(&name), text) {
        Ok(()) => (StatusCode::CREATED, format!("/{name}\n")),
        Err(error) => failed(&error),
    }
}

fn list() -> Answer {
    let entries = match fs::read_dir(FOLDER) {
        Ok(entries) => entries.flatten(),
        Err(error) => return failed(&error),
    };
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    (StatusCode::OK, names.iter().map(|name| format!("/{name}\n")).collect())
}

fn show(name: &str) -> Answer {
    match path_of(name).map(fs::read_to_string) {
        Some(Ok(text)) => (StatusCode::OK, text),
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => failed(&error),
        Some(Err(_)) | None => (StatusCode::NOT_FOUND, format!("there is no note `{name}`\n")),
    }
}

fn remove(name: &str) -> Answer {
    match path_of(name).map(fs::remove_file) {
        Some(Ok(())) => (StatusCode::NO_CONTENT, String::new()),
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => failed(&error),
        Some(Err(_)) | None => (StatusCode::NOT_FOUND, format!("there is no note `{name}`\n")),
    }
}

/// Where a note with that name would be. Names are digits, so that none leads out of the folder.
fn path_of(name: &str) -> Option<PathBuf> {
    let is_name = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| PathBuf::from(FOLDER).join(name))
}

fn failed(error: &io::Error) -> Answer {
    let text = format!("cannot use the folder {FOLDER}: {error}; start with -v notes:{FOLDER}\n");
    (StatusCode::SERVICE_UNAVAILABLE, text)
}
