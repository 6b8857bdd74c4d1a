//! Results on stdout, messages on stderr; aligned tables, JSON, sizes and times for humans.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;
use spec::Timestamp;

/// How records are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// JSON.
    Json,
}

/// The option of every verb that prints records.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Output {
    /// Print records as aligned columns or as JSON
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
}

impl Output {
    pub fn is_json(self) -> bool {
        self.output == Format::Json
    }

    pub fn records<T: Serialize, R: IntoIterator<Item = String>>(
        self,
        records: &[T],
        headings: &[&'static str],
        row: impl Fn(&T) -> R,
    ) -> anyhow::Result<()> {
        match self.output {
            Format::Table => print_table(headings, records.iter().map(row)),
            Format::Json => json(&records)?,
        }
        Ok(())
    }

    /// Prints one record: as JSON, or the lines that `words` makes of it. A line stays one,
    /// whatever an image or a peer has put into it: no name can look like a line of the report.
    pub fn report<T: Serialize>(
        self,
        record: &T,
        words: impl FnOnce(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        match self.output {
            Format::Table => {
                words(record).iter().for_each(|text| line(format_args!("{}", printable(text))));
            }
            Format::Json => json(record)?,
        }
        Ok(())
    }

    /// Prints one record: as JSON, or what `words` makes of it, in as many lines as that has.
    pub fn record<T: Serialize>(
        self,
        record: &T,
        words: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.output {
            Format::Table => {
                for words in words(record).split('\n') {
                    line(format_args!("{}", printable(words)));
                }
            }
            Format::Json => json(record)?,
        }
        Ok(())
    }
}

pub fn line(text: fmt::Arguments<'_>) {
    writeln!(std::io::stdout().lock(), "{text}").unwrap_or_else(|error| exit_unwritable(&error));
}

/// Bytes on stdout as they are.
pub fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).unwrap_or_else(|error| exit_unwritable(&error));
}

/// A closed pipe is no failure: `margay images | head -1` ends quietly. A full disk is one: a file
/// that holds half of the output must not pass for all of it.
pub fn exit_unwritable(error: &std::io::Error) -> ! {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    notice(format_args!("{} cannot write to stdout: {error}", Paint::on_stderr().error("error:")));
    std::process::exit(1);
}

/// A message on stderr. Without a reader it is dropped.
pub fn notice(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Says on stderr what is read otherwise than it is written in the layers of an image.
pub fn tell_notes(notes: &[String]) {
    for note in notes {
        notice(format_args!("{} {}", Paint::on_stderr().warn("note:"), printable(note)));
    }
}

pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(format_args!("{}", serde_json::to_string_pretty(value)?));
    Ok(())
}

pub fn print_table<R: IntoIterator<Item = String>>(
    headings: &[&str],
    rows: impl IntoIterator<Item = R>,
) {
    aligned(headings, rows).iter().for_each(|text| line(format_args!("{text}")));
}

/// Prints lines whose cells are separated by tabs, aligned. The first line are the headings.
pub fn print_cells<'a>(lines: impl Iterator<Item = &'a String>) {
    let mut rows = lines.map(|text| text.split('\t').map(str::to_owned));
    let headings: Vec<String> = rows.next().into_iter().flatten().collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    print_table(&headings, rows);
}

/// The headings and the rows as lines, each column as wide as its widest cell. Cells are cleaned of
/// control characters here, once for all verbs.
pub fn aligned<R: IntoIterator<Item = String>>(
    headings: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> Vec<String> {
    let rows =
        rows.into_iter().map(|cells| cells.into_iter().map(|cell| printable(&cell)).collect());
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows: Vec<Vec<String>> = [headings].into_iter().chain(rows).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(padded).collect()
}

/// `text` with every control character spelled out: names and messages may come from
/// untrusted peers, and a terminal obeys them.
pub fn printable(text: &str) -> String {
    if !text.chars().any(is_unsafe) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| if is_unsafe(c) { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// Control characters, and the invisible ones that reorder text around them.
fn is_unsafe(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A size in the unit that keeps it readable: `412 KiB`, `1.3 MiB`.
pub fn size(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "B" || amount >= 10.0 {
        format!("{amount:.0} {unit}")
    } else {
        format!("{amount:.1} {unit}")
    }
}

/// A duration in the unit that keeps it readable: `430 µs`, `12.1 ms`, `3.2 s`, `4 m 05 s`.
pub fn duration(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1_000 => format!("{micros} µs"),
        micros @ 1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        micros @ 1_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => format!("{} m {:02} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// A duration in one unit, in Docker's words.
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3_600 => format!("{minutes} minutes"),
        3_600..7_200 => "About an hour".to_owned(),
        7_200..172_800 => format!("{hours} hours"),
        172_800..1_209_600 => format!("{} days", hours / 24),
        1_209_600..5_184_000 => format!("{} weeks", hours / 24 / 7),
        5_184_000..63_072_000 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago `then` was, in one unit, as Docker says it.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", human(now.since(then)))
}

/// A size as Docker writes it, in units of 1000: `1.21MB`.
pub fn docker_size(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if amount < 1000.0 {
            break;
        }
        (amount, unit) = (amount / 1000.0, larger);
    }
    match amount {
        _ if unit == "B" => format!("{bytes}B"),
        ..10.0 => format!("{amount:.2}{unit}"),
        ..100.0 => format!("{amount:.1}{unit}"),
        _ => format!("{amount:.0}{unit}"),
    }
}

/// A time as Docker's lists write it: `2026-11-23 16:40:00 +0000 UTC`.
pub fn docker_time(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{} {} +0000 UTC", &text[..10], &text[11..19])
}

pub fn now() -> Timestamp {
    Timestamp::of(std::time::SystemTime::now())
}

/// Colour, on a terminal and unless `NO_COLOR` is set.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    pub fn on_stderr() -> Self {
        Self(std::io::stderr().is_terminal() && colour_enabled())
    }

    pub fn is_on_stderr() -> bool {
        Self::on_stderr().0
    }

    pub fn on_stdout() -> Self {
        Self(std::io::stdout().is_terminal() && colour_enabled())
    }

    pub fn error(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn hint(self, text: &str) -> String {
        self.wrap("36", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// <https://no-color.org>: any value but the empty one turns colour off.
fn colour_enabled() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_holds_no_control_characters() {
        let rows = [["cats", "1"], ["x\x1b[2Jy", "22"]].map(|row| row.map(str::to_owned));
        let lines = aligned(&["NAME", "SIZE"], rows);
        assert_eq!(lines, ["NAME          SIZE", "cats          1", "x\\u{1b}[2Jy   22"]);
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (421_888, "412 KiB"),
            (1 << 30, "1.0 GiB"),
        ] {
            assert_eq!(size(bytes), want);
        }
        for (bytes, want) in
            [(12, "12B"), (1_210_000, "1.21MB"), (45_600, "45.6kB"), (123_400_000, "123MB")]
        {
            assert_eq!(docker_size(bytes), want);
        }
        assert_eq!(docker_time(Timestamp::from_millis(0)), "1970-01-01 00:00:00 +0000 UTC");
        for (micros, want) in
            [(430, "430 µs"), (12_100, "12.1 ms"), (3_200_000, "3.2 s"), (245_000_000, "4 m 05 s")]
        {
            assert_eq!(duration(Duration::from_micros(micros)), want);
        }
        for (seconds, want) in [
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (61, "About a minute ago"),
            (300, "5 minutes ago"),
            (3_700, "About an hour ago"),
            (7_300, "2 hours ago"),
            (200_000, "2 days ago"),
            (2_000_000, "3 weeks ago"),
            (8_000_000, "3 months ago"),
            (70_000_000, "2 years ago"),
        ] {
            assert_eq!(
                ago(Timestamp::from_millis(0), Timestamp::from_millis(seconds * 1000)),
                want
            );
        }
    }
}
