use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use memchr::memmem::Finder;
use serde::Deserialize;
use spec::{AccessQuery, Frame, LogQuery, LogSource, StreamEnd, Timestamp, wire::Fault};

use super::{Output, batch::Batch};
use crate::{
    error::{Error, Result},
    tasks::now,
};

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The ingress writes none that is longer: its texts are of 1,024 bytes, and JSON makes six of one.
const LINE_BYTES_MAX: u64 = 32 << 10;

/// The access log of the ingress of this node, and the one before it.
#[derive(Debug, Clone)]
pub(super) struct AccessLogs {
    pub now: PathBuf,
    pub before: PathBuf,
    /// For messages.
    pub node: String,
}

/// Sends the lines of the requests that one service answered.
pub(super) async fn send(
    logs: AccessLogs,
    query: AccessQuery,
    output: &Output,
) -> Result<StreamEnd> {
    if output.send(&Frame::Started).await.is_err() {
        return Ok(StreamEnd::default());
    }
    let output = output.clone();
    let read = tokio::task::spawn_blocking(move || {
        let read = logs.read(&query, &mut Batch::to(&output));
        read.map_err(|source| Error::File { verb: "read", path: logs.now, source })
    });
    let read = read.await.map_err(|error| Error::System {
        verb: "read the access log",
        source: io::Error::other(error),
    })?;
    read.map(|fault| StreamEnd { exit_code: None, fault })
}

impl AccessLogs {
    /// To the end of the log, or of the client. A fault where no line says which service answered.
    fn read(&self, query: &AccessQuery, lines: &mut Batch<'_>) -> io::Result<Option<Fault>> {
        if !names_services(&self.now)? && !names_services(&self.before)? {
            return Ok(Some(self.no_log()));
        }
        let wanted = Wanted::of(query);
        let mut skip = match query.lines.tail {
            None => 0,
            Some(tail) => self.count(&wanted)?.saturating_sub(tail),
        };
        let mut each = |lines: &mut Batch<'_>, time, text: &[u8]| {
            if skip > 0 {
                skip -= 1;
                return true;
            }
            let text = text.to_vec();
            lines.push(&Frame::Log { time, source: LogSource::Stdout, partial: false, text })
        };
        let mut offset = 0;
        let before = read_lines(&self.before, 0, &wanted, |time, text| each(lines, time, text))?;
        let mut goes_on = before.is_some();
        while goes_on {
            // A log that is shorter has become the one before.
            if fs::metadata(&self.now).is_ok_and(|now| now.len() < offset) {
                let rest = |time, text: &[u8]| each(lines, time, text);
                goes_on = read_lines(&self.before, offset, &wanted, rest)?.is_some();
                offset = 0;
                continue;
            }
            let more = |time, text: &[u8]| each(lines, time, text);
            let Some(end) = read_lines(&self.now, offset, &wanted, more)? else { break };
            offset = end;
            let is_over = query.lines.until.is_some_and(|until| now() > until);
            if !lines.flush() || !query.lines.follow || is_over {
                break;
            }
            sleep(LOOK_EVERY);
        }
        lines.flush();
        Ok(None)
    }

    fn count(&self, wanted: &Wanted<'_>) -> io::Result<u64> {
        let mut count = 0;
        for path in [&self.before, &self.now] {
            read_lines(path, 0, wanted, |_, _| {
                count += 1;
                true
            })?;
        }
        Ok(count)
    }

    fn no_log(&self) -> Fault {
        Fault {
            code: "no-access-log".to_owned(),
            message: format!("node `{}` keeps no access log that names services", self.node),
            hint: Some(
                "the operator of the node has one kept with --access-log json, of `margay up`, \
                 `node` or `ingress`"
                    .to_owned(),
            ),
        }
    }
}

/// Whether it is there, and empty or in JSON.
fn names_services(path: &Path) -> io::Result<bool> {
    let mut first = [0];
    match File::open(path).and_then(|mut file| file.read(&mut first)) {
        Ok(0) => Ok(true),
        Ok(_) => Ok(first == *b"{"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Hands whole lines from `offset` on that are wanted to `each`. Where the next one begins; nothing
/// when `each` wants no more.
fn read_lines(
    path: &Path,
    offset: u64,
    wanted: &Wanted<'_>,
    mut each: impl FnMut(Timestamp, &[u8]) -> bool,
) -> io::Result<Option<u64>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(offset)),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let (mut reader, mut offset, mut line) = (BufReader::new(file), offset, Vec::new());
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
        let is_whole = line.ends_with(b"\n");
        if !is_whole && read < LINE_BYTES_MAX {
            return Ok(Some(offset)); // its end is not written yet
        }
        offset += read;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(time) = wanted.time_of(text)
            && !each(time, text)
        {
            return Ok(None);
        }
    }
}

/// Which lines are meant.
struct Wanted<'a> {
    service: &'a str,
    lines: &'a LogQuery,
    /// Both are looked for in what clients wrote: in linear time, whatever it is.
    name: Finder<'a>,
    grep: Option<Finder<'a>>,
}

/// What of a line decides that.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    service: Option<Cow<'a, str>>,
}

impl<'a> Wanted<'a> {
    fn of(query: &'a AccessQuery) -> Self {
        let AccessQuery { service, lines } = query;
        let grep = lines.grep.as_deref().map(Finder::new);
        Self { service, lines, name: Finder::new(service), grep }
    }

    /// When its request came, if it is meant. A client that writes the name of another service into
    /// its path is in no line of that service.
    fn time_of(&self, text: &[u8]) -> Option<Timestamp> {
        self.name.find(text)?;
        self.grep.as_ref().map_or(Some(0), |grep| grep.find(text))?;
        let head: Head<'_> = serde_json::from_slice(text).ok()?;
        let time: Timestamp = head.time.parse().ok()?;
        let is_meant = head.service.as_deref() == Some(self.service)
            && self.lines.since.is_none_or(|since| time >= since)
            && self.lines.until.is_none_or(|until| time <= until);
        is_meant.then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(second: u32, service: &str, path: &str) -> String {
        serde_json::json!({
            "time": format!("2026-11-28T07:00:{second:02}.000Z"), "path": path, "service": service,
        })
        .to_string()
            + "\n"
    }

    fn read(path: &Path, offset: u64, query: &AccessQuery) -> (Option<u64>, Vec<String>) {
        let mut got = Vec::new();
        let end = read_lines(path, offset, &Wanted::of(query), |_, text| {
            got.push(String::from_utf8(text.to_vec()).unwrap() + "\n");
            true
        });
        (end.unwrap(), got)
    }

    #[test]
    fn lines_are_meant_by_their_service_alone_and_come_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let own = [line(1, "cats.main", "/a"), line(3, "cats.main", "/b?grep me")];
        let others = [
            line(2, "dogs.main", "/cats.main"),
            line(2, "dogs.main", "\",\"service\":\"cats.main\",\""),
            "cats.main is no JSON\n".to_owned(),
            line(2, "cats.main.evil", "/"),
        ];
        let text = [&own[0], &others[0], &others[1], &others[2], &own[1], &others[3]];
        let rest = line(9, "cats.main", "/c");
        fs::write(&path, text.map(String::as_str).concat() + &rest[..8]).unwrap();
        let query = |lines| AccessQuery { service: "cats.main".to_owned(), lines };
        let all = query(LogQuery::default());
        let (end, got) = read(&path, 0, &all);
        assert_eq!(got, own);
        // The rest of a line comes with the line.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&rest.as_bytes()[8..]).unwrap();
        assert_eq!(read(&path, end.unwrap(), &all).1.concat(), rest);
        let at = |second: &str| Some(format!("2026-11-28T07:00:{second}.000Z").parse().unwrap());
        for (lines, want) in [
            (LogQuery { since: at("03"), ..LogQuery::default() }, vec![&own[1], &rest]),
            (LogQuery { until: at("02"), ..LogQuery::default() }, vec![&own[0]]),
            (LogQuery { grep: Some("grep".into()), ..LogQuery::default() }, vec![&own[1]]),
        ] {
            let query = query(lines);
            assert_eq!(read(&path, 0, &query).1.iter().collect::<Vec<_>>(), want, "{query:?}");
        }
        assert!(names_services(&path).unwrap());
        assert!(!names_services(&folder.path().join("none")).unwrap());
        fs::write(&path, "127.0.0.1 - - combined\n").unwrap();
        assert!(!names_services(&path).unwrap());
    }
}
