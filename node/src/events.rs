//! What happened in this home: one line of JSON for each event, newest last.
//!
//! Every process that changes something appends its line in one write, so no process has to run for
//! it. The log is bounded: a full one becomes the older half, and the older half before it goes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    ops::ControlFlow,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use disk::{Lock, Purpose};
use serde::{Deserialize, Serialize};
use spec::Timestamp;

use crate::{
    error::{Error, Result},
    home::Home,
};

/// Of each half of the log: some ten thousand events.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// Of one event: an append of so much arrives whole.
const LINE_BYTES_MAX: usize = 4096;
/// Of a value in an event: a name, an image, an exit code.
const VALUE_CHARS_MAX: usize = 256;
/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Task,
    Image,
    Volume,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub time: Timestamp,
    pub subject: Subject,
    /// Docker's word: `create`, `start`, `die`, `pull`, …
    pub action: String,
    /// The id of a task, the digest of an image, the name of a volume.
    pub id: String,
    /// Its name, its image, the code that it ended with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// That happens now.
    pub fn of(subject: Subject, action: &str, id: &str) -> Self {
        Self {
            time: now(),
            subject,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::new(),
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        let value: String = value.to_string().chars().take(VALUE_CHARS_MAX).collect();
        self.attributes.insert(name.to_owned(), value);
        self
    }
}

fn now() -> Timestamp {
    Timestamp::of(std::time::SystemTime::now())
}

/// Where the newer half is, and the older one.
fn halves(root: &Path) -> (PathBuf, PathBuf) {
    (root.join("events"), root.join("events.old"))
}

/// Appends an event. One that cannot be written is no reason to fail what it is about.
pub fn record(home: &Home, event: Event) {
    record_at(home.root(), &event);
}

/// The same, for what knows a folder of the home only.
pub(crate) fn record_at(root: &Path, event: &Event) {
    if let Err(error) = append(root, event) {
        tracing::warn!(%error, "an event could not be written");
    }
}

fn append(root: &Path, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    if line.len() > LINE_BYTES_MAX {
        return Err(io::Error::other("it is too long"));
    }
    let (path, older) = halves(root);
    let mut log = disk::open(&path, Purpose::Append)?;
    if log.metadata()?.len() + line.len() as u64 > LOG_BYTES_MAX {
        let lock = Lock::exclusive(&root.join(".events.lock"))?;
        // Another process may have done it meanwhile.
        if fs::metadata(&path).is_ok_and(|facts| facts.len() + line.len() as u64 > LOG_BYTES_MAX) {
            fs::rename(&path, older)?;
        }
        drop(lock);
        log = disk::open(&path, Purpose::Append)?;
    }
    log.write_all(&line)
}

/// Which events are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Period {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Wait for what is still to come, up to `until` or for ever.
    pub follow: bool,
}

impl Period {
    fn holds(self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until)
    }

    fn is_over(self) -> bool {
        !self.follow || self.until.is_some_and(|until| now() > until)
    }
}

/// Gives each event of a period to `sink`, oldest first, until it breaks.
///
/// # Errors
/// When the log cannot be read.
pub fn read(
    home: &Home,
    period: Period,
    mut sink: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<()> {
    let mut give = |bytes: &[u8]| {
        for line in bytes.split(|byte| *byte == b'\n') {
            // One that a power cut has halved, or a newer margay wrote, is left out.
            let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
            if period.holds(&event) && sink(event).is_break() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    };
    let (path, older) = halves(home.root());
    // Opened before the older half is read: what becomes older meanwhile is read to its end.
    let mut current = open(&path)?;
    if let Some(mut file) = open(&older)?
        && number(Some(&file)) != number(current.as_ref())
        && give(&whole(&mut file, &older)?).is_break()
    {
        return Ok(());
    }
    let mut rest = Vec::new();
    loop {
        // Asked first: what happened until then has been written when it is read.
        let is_over = period.is_over();
        // Asked before the read as well: nothing is appended to a half that has become older.
        let is_current =
            fs::metadata(&path).ok().map(|facts| facts.ino()) == number(current.as_ref());
        if let Some(file) = &mut current {
            rest.append(&mut whole(file, &path)?);
            let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            if give(&rest[..end]).is_break() {
                return Ok(());
            }
            rest.drain(..end);
        }
        match (is_over, is_current) {
            (true, true) => return Ok(()),
            (_, false) => (current, rest) = (open(&path)?, Vec::new()),
            (false, true) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match disk::open(path, Purpose::Read) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// Which file it is, whatever its name is by now.
fn number(file: Option<&File>) -> Option<u64> {
    Some(file?.metadata().ok()?.ino())
}

/// From where it was read to its end, which is not far.
fn whole(file: &mut File, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(2 * LOG_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(Error::file("read", path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(home: &Home, since: Option<Timestamp>) -> Vec<String> {
        let mut found = Vec::new();
        read(home, Period { since, ..Period::default() }, |event| {
            found.push(format!("{} {}", event.action, event.id));
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    #[test]
    fn events_are_read_in_order_from_a_time_on() {
        let temporary = tempfile::tempdir().unwrap();
        let home = Home::at(temporary.path().join("home")).unwrap();
        assert!(all(&home, None).is_empty());
        for (number, action) in (1..).zip(["create", "start", "die"]) {
            let time = Timestamp::from_millis(number);
            record(&home, Event { time, ..Event::of(Subject::Task, action, "t") });
        }
        File::options()
            .append(true)
            .open(home.root().join("events"))
            .and_then(|mut log| log.write_all(b"{\"half"))
            .unwrap();
        assert_eq!(all(&home, None), ["create t", "start t", "die t"]);
        assert_eq!(all(&home, Some(Timestamp::from_millis(2))), ["start t", "die t"]);
    }

    #[test]
    fn the_log_is_bounded_and_a_reader_follows_what_is_appended() {
        let temporary = tempfile::tempdir().unwrap();
        let home = Home::at(temporary.path().join("home")).unwrap();
        let event = |number: u32| {
            Event::of(Subject::Image, "tag", &number.to_string()).with("name", "x".repeat(500))
        };
        record(&home, event(0));
        let line = fs::metadata(home.root().join("events")).unwrap().len();
        let count = u32::try_from(2 * LOG_BYTES_MAX / line + 100).unwrap();
        let reader = std::thread::spawn({
            let home = home.clone();
            move || {
                let mut seen = 0;
                read(&home, Period { follow: true, ..Period::default() }, |event| {
                    assert_eq!(event.id, seen.to_string());
                    seen += 1;
                    if seen == 2000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
            }
        });
        for number in 1..2000 {
            record(&home, event(number));
        }
        reader.join().unwrap();
        for number in 2000..count {
            record(&home, event(number));
        }
        let size = |name| fs::metadata(home.root().join(name)).map_or(0, |facts| facts.len());
        assert!(size("events") <= LOG_BYTES_MAX && size("events.old") <= LOG_BYTES_MAX);
        let kept = all(&home, None);
        assert!(kept.len() > 1000 && kept.last() == Some(&format!("tag {}", count - 1)));
    }
}
