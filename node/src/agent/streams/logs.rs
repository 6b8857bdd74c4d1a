use std::{cell::RefCell, ops::ControlFlow};

use memchr::memmem::Finder;
use spec::{Frame, LogQuery, LogSource, StreamEnd, Timestamp};

use super::{Output, batch::Batch};
use crate::{
    error::{Error, Result},
    tasks::{LogLine, LogOptions, LogStream, TaskFolder, follow_while, now},
};

/// Sends the lines that are meant, to the end of the log or of the task.
pub(super) async fn send(
    folder: TaskFolder,
    query: LogQuery,
    output: &Output,
) -> Result<StreamEnd> {
    if output.send(&Frame::Started).await.is_err() {
        return Ok(StreamEnd::default());
    }
    let output = output.clone();
    let read = tokio::task::spawn_blocking(move || read(&folder, &query, &output));
    let read = read.await.map_err(|error| Error::System {
        verb: "read a log",
        source: std::io::Error::other(error),
    })?;
    read.map(|()| StreamEnd::default())
}

fn read(folder: &TaskFolder, query: &LogQuery, output: &Output) -> Result<()> {
    // What is written from now on is later than an end that is past.
    let follow = query.follow && query.until.is_none_or(|until| until > now());
    let tail = query.tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let lines = RefCell::new(Batch::to(output));
    // A text of a client is looked for in what a guest wrote: in linear time, whatever both are.
    let text = query.grep.as_deref().map(Finder::new);
    let wanted = |line: &LogLine<'_>| is_wanted(query, text.as_ref(), line);
    let is_over = || query.until.is_some_and(|until| now() > until);
    let goes_on = || lines.borrow_mut().flush() && !is_over();
    follow_while(folder, LogOptions { follow, tail }, wanted, goes_on, |line| {
        let frame = Frame::Log {
            time: time_of(&line),
            source: match line.stream {
                LogStream::Stdout => LogSource::Stdout,
                LogStream::Stderr => LogSource::Stderr,
            },
            partial: line.partial,
            text: line.text.to_vec(),
        };
        match lines.borrow_mut().push(&frame) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })
}

/// Of a line whose time cannot be read: 1970.
fn time_of(line: &LogLine<'_>) -> Timestamp {
    line.time.parse().unwrap_or_default()
}

fn is_wanted(query: &LogQuery, text: Option<&Finder<'_>>, line: &LogLine<'_>) -> bool {
    let time = time_of(line);
    query.since.is_none_or(|since| time >= since)
        && query.until.is_none_or(|until| time <= until)
        && text.is_none_or(|text| text.find(line.text).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_meant_by_their_time_and_their_text() {
        let at = |millis| Some(Timestamp::from_millis(millis));
        for (since, until, grep, want) in [
            (None, None, None, true),
            (at(5), None, None, true),
            (at(6), None, None, false),
            (None, at(5), None, true),
            (None, at(4), None, false),
            (None, None, Some("b c"), true),
            (None, None, Some("a b c d"), true),
            (None, None, Some("a b c d e"), false),
            (None, None, Some("B"), false),
            (at(6), None, Some("b"), false),
        ] {
            let (query, text) =
                (LogQuery { since, until, ..LogQuery::default() }, grep.map(Finder::new));
            let (time, stream) = (Timestamp::from_millis(5).to_string(), LogStream::Stdout);
            let line = LogLine { time: &time, stream, partial: false, text: b"a b c d" };
            assert_eq!(is_wanted(&query, text.as_ref(), &line), want, "{query:?} {grep:?}");
        }
    }
}
