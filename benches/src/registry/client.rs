use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use spec::{Algorithm, Digest, Hasher};

use super::peers::Address;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY_CONFIG: &[u8] = b"{}";

/// One connection that is kept.
pub struct Client {
    stream: BufReader<TcpStream>,
    address: Address,
    space: Vec<u8>,
}

/// An answer without its body.
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub bytes: u64,
}

/// Bytes that no server has seen, and none can make smaller.
pub struct Random {
    state: u64,
    megabytes: usize,
}

impl Client {
    pub fn connect(address: &Address) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", address.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let stream = BufReader::with_capacity(256 << 10, stream);
        Ok(Self { stream, address: address.clone(), space: vec![0; 1 << 20] })
    }

    /// One request, with the answer's body read and forgotten.
    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        let kind = match method {
            "PUT" if path.contains("/manifests/") => MANIFEST,
            _ => "application/octet-stream",
        };
        let login = match &self.address.login {
            Some(login) => format!("authorization: {login}\r\n"),
            None => String::new(),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\naccept: {MANIFEST}\r\n{login}\
             content-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            self.address.port,
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.stream.get_mut().write_all(body)?;
        self.answer(method == "HEAD").with_context(|| format!("{method} {path}"))
    }

    fn answer(&mut self, is_head: bool) -> Result<Answer> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the server closed the connection");
        let status = line.split(' ').nth(1).context("no status line")?.parse()?;
        let mut answer = Answer { status, location: None, bytes: 0 };
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match &*name.to_ascii_lowercase() {
                "content-length" => answer.bytes = value.parse()?,
                "location" => answer.location = Some(path_of(value)),
                _ => {}
            }
        }
        let mut left = if is_head || status == 204 { 0 } else { answer.bytes };
        while left > 0 {
            let most = left.min(self.space.len() as u64) as usize;
            let read = self.stream.read(&mut self.space[..most])?;
            ensure!(read > 0, "the body broke off");
            left -= read as u64;
        }
        Ok(answer)
    }

    /// One request that has to succeed.
    pub fn expect(&mut self, method: &str, path: &str, body: &[u8], status: u16) -> Result<Answer> {
        let answer = self.send(method, path, body)?;
        ensure!(answer.status == status, "{method} {path} answered {}", answer.status);
        Ok(answer)
    }

    /// A whole blob: `POST`, then `PUT`, as most clients send a small one.
    pub fn push(&mut self, repository: &str, blob: &[u8], digest: &Digest) -> Result<()> {
        let begun = self.expect("POST", &format!("/v2/{repository}/blobs/uploads/"), b"", 202)?;
        let location = begun.location.context("an upload without a location")?;
        let mark = if location.contains('?') { '&' } else { '?' };
        self.expect("PUT", &format!("{location}{mark}digest={digest}"), blob, 201).map(drop)
    }

    pub fn pull(&mut self, repository: &str, digest: &Digest) -> Result<u64> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        Ok(self.expect("GET", &path, b"", 200)?.bytes)
    }

    /// Another manifest of the empty config, under the tag of its number.
    pub fn put_manifest(&mut self, repository: &str, number: usize) -> Result<Digest> {
        let manifest = manifest(number);
        let path = format!("/v2/{repository}/manifests/{}", tag(number));
        self.expect("PUT", &path, manifest.as_bytes(), 201)?;
        Ok(Digest::of(manifest.as_bytes()))
    }

    /// What every manifest of these names.
    pub fn push_config(&mut self, repository: &str) -> Result<()> {
        self.push(repository, EMPTY_CONFIG, &Digest::of(EMPTY_CONFIG))
    }
}

/// The path of an address, which may have a host before it.
fn path_of(location: &str) -> String {
    match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or_else(String::new, |at| rest[at..].to_owned()),
        None => location.to_owned(),
    }
}

pub fn tag(number: usize) -> String {
    format!("tag-{number:06}")
}

pub fn manifest(number: usize) -> String {
    let config = Digest::of(EMPTY_CONFIG);
    let size = EMPTY_CONFIG.len();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{size}}},"layers":[],"annotations":{{"bench.number":"{number}"}}}}"#
    )
}

impl Random {
    /// Large blobs have so many megabytes.
    pub fn new(megabytes: usize) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.map_or(1, |since| since.as_nanos() as u64);
        Self { state: seed | 1, megabytes }
    }

    pub fn large_megabytes(&self) -> usize {
        self.megabytes
    }

    pub fn large(&mut self) -> (Vec<u8>, Digest) {
        self.blob(self.megabytes)
    }

    pub fn blob(&mut self, megabytes: usize) -> (Vec<u8>, Digest) {
        let mut bytes = Vec::with_capacity(megabytes << 20);
        while bytes.len() < megabytes << 20 {
            // xorshift: no disk and no network finds a pattern in it.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            bytes.extend_from_slice(&self.state.to_le_bytes());
        }
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&bytes);
        (bytes, hasher.finish())
    }
}
