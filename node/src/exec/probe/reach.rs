//! One probe of a replica from outside of its container: a request through the socket of the
//! ingress, or a look at the ports on which its program listens.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use spec::Port;

use crate::{
    home::Home,
    ingress::{IngressFolder, socket_name},
    tasks::{Check, Kind, Origin, ProcessId, Reach, TaskFolder},
};

/// A status line and the beginning of a head. The rest is not read.
const ANSWER_BYTES_MAX: usize = 1024;
/// A table of sockets of the kernel is read to here: some ten thousand sockets.
const TABLE_BYTES_MAX: u64 = 2 << 20;
/// The state of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";

/// Whether `task`, which `process` runs, is reached as `check` asks, and what was seen.
pub(super) fn ask(
    home: &Home,
    task: &TaskFolder,
    process: Option<ProcessId>,
    check: &Check,
    reach: &Reach,
) -> (bool, String) {
    match reach {
        Reach::Runs => (true, "it runs".to_owned()),
        Reach::Tcp { port } => match listens(process, *port) {
            Ok(true) => (true, format!("it listens on port {port}")),
            Ok(false) => (false, format!("nothing listens on port {port}")),
            Err(error) => (false, format!("cannot see on which ports it listens: {error}")),
        },
        Reach::Http { port, path, below } => {
            // Of a program that does not listen, the relay holds connections for a while.
            let waits =
                task.record().kind == Kind::Native && listens(process, *port).is_ok_and(|l| !l);
            if waits {
                return (false, format!("nothing listens on port {port}"));
            }
            let Origin::Cluster(origin) = &task.record().origin else {
                return (false, "it has no socket for the ingress".to_owned());
            };
            let name = socket_name(&origin.tenant, &origin.task, Port::tcp(*port));
            let socket = IngressFolder::at(home.ingress()).sockets().join(name);
            let asked = format!("GET {path} on port {port}");
            match get(&socket, path, check.timeout) {
                Ok(status) => {
                    ((200..*below).contains(&status), format!("{asked} answered {status}"))
                }
                Err(error) if is_timeout(&error) => {
                    (false, format!("{asked} did not answer within {:?}", check.timeout))
                }
                Err(error) => (false, format!("{asked} failed: {error}")),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The status of an answer. What answers is a guest: nothing but the first line of it is looked at.
fn get(socket: &Path, path: &str, time_max: Duration) -> io::Result<u16> {
    let deadline = Instant::now() + time_max;
    let mut stream = disk::connect(socket)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: margay-health/{}\r\n\
         accept: */*\r\nconnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; ANSWER_BYTES_MAX];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let count = match stream.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        answer.extend_from_slice(&piece[..count]);
        if let Some(status) = status(&answer) {
            return status;
        }
        if count == 0 || answer.len() >= ANSWER_BYTES_MAX {
            let text =
                if answer.is_empty() { "it closed the connection" } else { "no HTTP answer" };
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The status in the first line, once that is whole. An answer that only announces another
/// (`100 Continue`) is none: nothing that was sent asks for it.
fn status(answer: &[u8]) -> Option<io::Result<u16>> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&answer[..end]).ok().map(|line| line.trim_end_matches('\r'));
    let status = line.and_then(|line| {
        let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
        let digits = rest.split(' ').next()?;
        let is_status = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| is_status)
    });
    Some(status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no HTTP answer")))
}

/// Whether a program listens on `port` in the network namespace of `process`.
fn listens(process: Option<ProcessId>, port: u16) -> io::Result<bool> {
    let process = process.filter(|process| process.is_alive()).ok_or(ErrorKind::NotFound)?;
    for name in ["tcp", "tcp6"] {
        let mut table = String::new();
        match File::open(format!("/proc/{}/net/{name}", process.pid)) {
            Ok(file) => file.take(TABLE_BYTES_MAX).read_to_string(&mut table)?,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if listening(&table).any(|found| found == port) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The ports of listening sockets in a table of the kernel.
fn listening(table: &str) -> impl Iterator<Item = u16> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_an_answer_is_read_and_no_other() {
        for (answer, want) in [
            (&b""[..], None),
            (b"HTTP/1.1 200 OK", None),
            (b"HTTP/1.1 200 OK\r\n", Some(Ok(200))),
            (b"HTTP/1.0 503\n", Some(Ok(503))),
            (b"HTTP/1.1 404 Not Found\r\nx: y\r\n\r\n", Some(Ok(404))),
            (b"HTTP/2 200\r\n", Some(Err(()))),
            (b"HTTP/1.1 +20 x\r\n", Some(Err(()))),
            (b"HTTP/1.1 20000 x\r\n", Some(Err(()))),
            (b"\xff\xfe\r\n", Some(Err(()))),
            (b"SSH-2.0-x\r\n", Some(Err(()))),
        ] {
            let found = status(answer).map(|status| status.map_err(drop));
            assert_eq!(found, want, "{:?}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn a_guest_that_stalls_or_floods_ends_a_probe_in_time() {
        let folder = tempfile::tempdir().unwrap();
        for (name, answer, want) in [
            ("silent", &b""[..], ErrorKind::WouldBlock),
            ("half", b"HTTP/1.1 20", ErrorKind::WouldBlock),
            ("flood", &[b'x'; 4096], ErrorKind::InvalidData),
        ] {
            // Also in a home whose paths are longer than an address.
            let path = folder.path().join("a".repeat(120)).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let listener = disk::bind(&path).unwrap();
            let answer = answer.to_vec();
            let guest = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(&answer);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let began = Instant::now();
            let error = get(&path, "/", Duration::from_millis(200)).unwrap_err();
            assert!(
                error.kind() == want || want == ErrorKind::WouldBlock && is_timeout(&error),
                "{name}: {error}"
            );
            assert!(began.elapsed() < Duration::from_secs(5), "{name}");
            guest.join().unwrap();
        }
    }

    #[test]
    fn a_redirect_is_an_answer_and_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let listener = disk::bind(&path).unwrap();
        let guest = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let answer = b"HTTP/1.1 302 Found\r\nlocation: http://localhost/other\r\n\r\n";
            stream.write_all(answer).unwrap();
            let mut asked = String::new();
            let _ = stream.read_to_string(&mut asked);
            listener.set_nonblocking(true).unwrap();
            (asked.matches("GET ").count(), listener.accept().is_err())
        });
        assert_eq!(get(&path, "/", Duration::from_secs(5)).unwrap(), 302);
        assert_eq!(guest.join().unwrap(), (1, true), "it is asked once, by one connection");
    }

    #[test]
    fn listening_ports_are_read_from_the_kernel() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = Some(ProcessId::this());
        assert!(listens(this, port).unwrap());
        drop(listener);
        assert!(!listens(this, port).unwrap());
        assert!(listens(None, port).is_err());
    }
}
