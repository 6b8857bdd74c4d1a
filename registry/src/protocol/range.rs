use http::{HeaderMap, header};

/// The part of a blob that a `GET` requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobRange {
    Whole,
    /// `length` is at least one.
    Part {
        start: u64,
        length: u64,
    },
    /// No byte of the blob lies in it.
    Unsatisfiable,
}

impl BlobRange {
    /// What the `Range` header means for a blob of `size` bytes. A list of ranges, or another unit,
    /// means the whole blob, as RFC 9110 allows: a request for a hundred overlapping ranges is
    /// answered with one blob.
    pub fn of(headers: &HeaderMap, size: u64) -> Self {
        let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        match text.and_then(|text| text.trim().strip_prefix("bytes=")) {
            Some(range) if !range.contains(',') => Self::single(range.trim(), size),
            _ => Self::Whole,
        }
    }

    fn single(range: &str, size: u64) -> Self {
        let Some((start, end)) = range.split_once('-') else { return Self::Unsatisfiable };
        let last = size.saturating_sub(1);
        let bounds = match (number(start), number(end)) {
            (Some(start), Some(end)) if start <= end => Some((start, end.min(last))),
            (Some(start), None) if end.is_empty() => Some((start, last)),
            (None, Some(suffix)) if start.is_empty() && suffix > 0 => {
                Some((size.saturating_sub(suffix), last))
            }
            _ => None,
        };
        match bounds {
            Some((start, end)) if start < size => Self::Part { start, length: end - start + 1 },
            _ => Self::Unsatisfiable,
        }
    }
}

/// Where a chunk of an upload belongs: `Content-Range: START-END` as the distribution-spec writes
/// it. Some clients write `bytes START-END/*`, as RFC 9110 does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkRange {
    pub start: u64,
    /// Inclusive.
    pub end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Content-Range is not START-END")]
pub(crate) struct InvalidContentRange;

impl ChunkRange {
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, InvalidContentRange> {
        let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
        let text = value.to_str().map_err(|_| InvalidContentRange)?.trim();
        let text =
            text.strip_prefix("bytes").map_or(text, |text| text.trim_start_matches([' ', '=']));
        let text = text.split('/').next().unwrap_or_default();
        let (start, end) = text.split_once('-').ok_or(InvalidContentRange)?;
        match (number(start), number(end)) {
            (Some(start), Some(end)) if start <= end => Ok(Some(Self { start, end })),
            _ => Err(InvalidContentRange),
        }
    }
}

/// How many bytes of an upload have arrived: `Range: 0-LAST`.
///
/// The specification has no way to write an empty range, and registries write `0-0` for it.
pub(crate) struct UploadRange;

impl UploadRange {
    pub fn format(bytes: u64) -> String {
        format!("0-{}", bytes.saturating_sub(1))
    }

    /// `0-0` may mean no byte or one, and counts as none: sending a byte twice is an error,
    /// starting over is not.
    pub fn parse(headers: &HeaderMap) -> Option<u64> {
        let (_, last) = headers.get(header::RANGE)?.to_str().ok()?.split_once('-')?;
        match last.parse::<u64>().ok()? {
            0 => Some(0),
            last => last.checked_add(1),
        }
    }
}

/// Digits only: `+1` is no number here.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_range_is_one_part_or_unsatisfiable_or_ignored() {
        use BlobRange::*;
        let part = |start, length| Part { start, length };
        for (range, size, want) in [
            ("bytes=500-1499", 4096, part(500, 1000)),
            ("bytes=500-", 4096, part(500, 3596)),
            ("bytes=-500", 4096, part(3596, 500)),
            ("bytes=-5000", 4096, part(0, 4096)),
            ("bytes=2000-5000", 4096, part(2000, 2096)),
            ("bytes=0-0", 4096, part(0, 1)),
            ("bytes=500-0", 4096, Unsatisfiable),
            ("bytes=4096-", 4096, Unsatisfiable),
            ("bytes=-0", 4096, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=a-b", 4096, Unsatisfiable),
            ("bytes=+1-2", 4096, Unsatisfiable),
            ("bytes=18446744073709551615-", 4096, Unsatisfiable),
            ("bytes=0-18446744073709551615", 4096, part(0, 4096)),
            ("bytes=99999999999999999999-", 4096, Unsatisfiable),
            ("bytes=0-1,2-3", 4096, Whole),
            ("lines=0-1", 4096, Whole),
            ("", 4096, Whole),
        ] {
            let got = BlobRange::of(&headers(header::RANGE, range), size);
            assert_eq!(got, want, "{range} of {size}");
        }
    }

    #[test]
    fn a_chunk_states_its_position() {
        let chunk = |start, end| Ok(Some(ChunkRange { start, end }));
        for (range, want) in [
            ("0-9", chunk(0, 9)),
            ("bytes 5-9/10", chunk(5, 9)),
            ("bytes=5-9", chunk(5, 9)),
            ("9-0", Err(InvalidContentRange)),
            ("-9", Err(InvalidContentRange)),
            ("0-", Err(InvalidContentRange)),
            ("x", Err(InvalidContentRange)),
        ] {
            let got = ChunkRange::of(&headers(header::CONTENT_RANGE, range));
            assert_eq!(got, want, "{range}");
        }
        assert_eq!(ChunkRange::of(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn the_status_of_an_upload_counts_its_bytes() {
        for (range, want) in [("0-0", Some(0)), ("0-9", Some(10)), ("0-", None), ("x", None)] {
            assert_eq!(UploadRange::parse(&headers(header::RANGE, range)), want, "{range}");
        }
        assert_eq!(UploadRange::format(0), "0-0");
        assert_eq!(UploadRange::format(10), "0-9");
    }
}
