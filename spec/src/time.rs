use std::{fmt, str::FromStr, time::Duration};

use crate::text::{ParseError, written_as_text};

/// A point in time as a label: milliseconds since 1970 in UTC, printed as RFC 3339.
/// Durations are never differences of two of these; a monotonic clock measures them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since 1970.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// The given time, or 1970 for a clock that is set before it.
    pub fn of(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, in_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil(days);
        let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z",
            in_day / 1000 % 60,
            in_day % 1000
        )
    }
}

impl FromStr for Timestamp {
    type Err = ParseError;

    /// Accepts exactly what it prints.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::about(text, "is not a time like 2026-11-23T16:40:00.000Z");
        let number = |range: std::ops::Range<usize>| {
            text.get(range).and_then(|t| t.parse::<u64>().ok()).ok_or_else(wrong)
        };
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let days = days_before(year, month, day).ok_or_else(wrong)?;
        let in_day = ((number(11..13)? * 60 + number(14..16)?) * 60 + number(17..19)?) * 1000
            + number(20..23)?;
        let time = Self(days * 86_400_000 + in_day);
        if time.to_string() == text { Ok(time) } else { Err(wrong()) }
    }
}

/// Year, month and day of the day that is `days` after 1970-01-01. (Hinnant, "chrono-compatible
/// low-level date algorithms".)
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (
        year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day_of_year - (153 * shifted + 2) / 5 + 1,
    )
}

/// The inverse of [`civil`].
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month.checked_sub(3)? } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year)
        .checked_sub(719_468)
}

written_as_text!(
    Timestamp,
    "A point in time, UTC (RFC 3339, in milliseconds).",
    "2026-11-23T16:40:00.000Z",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$"
);

/// Parses a size in bytes: `512`, `64k`, `128m`, `1.5g` as Docker does, and `64KiB`, `128MiB`,
/// `1GiB`.
///
/// # Errors
/// Names the text when it is no size, or does not fit 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, ParseError> {
    let wrong = || ParseError::about(text, "is not a size like 512, 64k, 128m, 1.5g or 1GiB");
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // A billionth of a unit is finer than anything that is measured in it.
    if fraction.is_empty() || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)?;
    let part = fraction.parse::<u64>().map_err(|_| wrong())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
    let part = u128::from(part) * u128::from(factor) / scale;
    whole.checked_add(u64::try_from(part).unwrap_or(0)).ok_or_else(wrong)
}

/// The shortest exact form that [`parse_bytes`] reads back.
pub fn print_bytes(bytes: u64) -> String {
    for (factor, unit) in
        [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
    {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Parses a duration as Docker and Go write it: `300ms`, `10s`, `1m30s`, `2h`.
///
/// # Errors
/// Names the text when it is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let wrong = || ParseError::about(text, "is not a duration like 300ms, 10s, 1m30s, 2h or 90d");
    let (mut rest, mut total) = (text, Duration::ZERO);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let part = match &rest[..letters] {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            "d" => number.checked_mul(24 * 3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_what_it_parses() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_452_000_123, "2026-11-23T16:40:00.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap().millis(), millis);
        }
        for text in [
            "",
            "2026-02-30T00:00:00.000Z",
            "2026-11-23 16:40:00.123Z",
            "2026-13-01T00:00:00.000Z",
            "2026-11-23T25:00:00.000Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_as_docker_reads_them() {
        for (text, want) in [
            ("512", 512),
            ("64k", 65_536),
            ("128m", 128 << 20),
            ("1g", 1 << 30),
            ("1GiB", 1 << 30),
            ("1.5g", 3 << 29),
            ("0.5", 0),
            ("256MB", 256 << 20),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), want, "{text}");
        }
        for text in ["", "m", "-1", "1.g", ".5g", "1.2.3g", "1x", "99999999999t"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(print_bytes(1 << 30), "1GiB");
        assert_eq!(print_bytes(1000), "1000");
        assert_eq!(parse_duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("300ms").unwrap(), Duration::from_millis(300));
        assert_eq!(parse_duration("1d").unwrap(), Duration::from_hours(24));
        for text in ["", "10", "s", "1w", "-1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
