//! What stands in a request beside its path: parameters and ranges. Pure, and suspicious.

use http::HeaderMap;

/// `name=value&…`, decoded. Order and repetition are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

/// No request of ours has more parameters.
const PARAMETERS_MAX: usize = 64;

impl Query {
    /// Pairs that are not UTF-8 are left out, as is what exceeds 64 of them.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(PARAMETERS_MAX);
        Self(
            pairs
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decoded(name)?, decoded(value)?))
                })
                .collect(),
        )
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (
                    char::from(rest.next()?).to_digit(16)?,
                    char::from(rest.next()?).to_digit(16)?,
                );
                u8::try_from(high << 4 | low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Which bytes of a blob were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// From here, so many; at least one.
    Part {
        start: u64,
        length: u64,
    },
    /// None that there are.
    Unsatisfiable,
}

impl Wanted {
    /// What the `Range` header means for a blob of `size` bytes. A list of ranges, or another unit,
    /// means all (RFC 9110 lets us): whoever asks for a hundred overlapping ranges gets one blob.
    pub fn of(headers: &HeaderMap, size: u64) -> Self {
        let text = headers.get(http::header::RANGE).and_then(|value| value.to_str().ok());
        match text.and_then(|text| text.trim().strip_prefix("bytes=")) {
            Some(range) if !range.contains(',') => Self::single(range.trim(), size),
            _ => Self::All,
        }
    }

    fn single(range: &str, size: u64) -> Self {
        let Some((start, end)) = range.split_once('-') else { return Self::Unsatisfiable };
        let bounds = match (number(start), number(end)) {
            (Some(start), Some(end)) if start <= end => {
                Some((start, end.min(size.saturating_sub(1))))
            }
            (Some(start), None) if end.is_empty() => Some((start, size.saturating_sub(1))),
            (None, Some(last)) if start.is_empty() && last > 0 => {
                Some((size.saturating_sub(last), size.saturating_sub(1)))
            }
            _ => None,
        };
        match bounds {
            Some((start, end)) if start < size => Self::Part { start, length: end - start + 1 },
            _ => Self::Unsatisfiable,
        }
    }
}

/// Where a chunk of an upload belongs: `Content-Range: START-END`, as the distribution-spec writes
/// it (some clients put `bytes ` in front and `/*` behind).
pub(crate) fn chunk(headers: &HeaderMap) -> Result<Option<(u64, u64)>, ()> {
    let Some(value) = headers.get(http::header::CONTENT_RANGE) else { return Ok(None) };
    let text = value.to_str().map_err(drop)?.trim();
    let text = text.strip_prefix("bytes").map_or(text, |text| text.trim_start_matches([' ', '=']));
    let text = text.split('/').next().unwrap_or_default();
    let (start, end) = text.split_once('-').ok_or(())?;
    match (number(start), number(end)) {
        (Some(start), Some(end)) if start <= end => Ok(Some((start, end))),
        _ => Err(()),
    }
}

/// Digits only: `+1` is no number here.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_pair_by_pair() {
        let query = Query::parse(
            "scope=repository%3Aann%2Fcats%3Apull,push&scope=b+c&empty&bad=%ff&cut=%2&=x",
        );
        assert_eq!(
            query.all("scope").collect::<Vec<_>>(),
            ["repository:ann/cats:pull,push", "b c"]
        );
        assert_eq!(
            (query.get("empty"), query.get("bad"), query.get("cut")),
            (Some(""), None, None)
        );
        assert_eq!(Query::parse(&"a=b&".repeat(1000)).all("a").count(), PARAMETERS_MAX);
    }

    #[test]
    fn a_range_is_one_part_or_none() {
        use Wanted::*;
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
            ("bytes=0-1,2-3", 4096, All),
            ("lines=0-1", 4096, All),
            ("", 4096, All),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::RANGE, range.parse().unwrap());
            assert_eq!(Wanted::of(&headers, size), want, "{range} of {size}");
        }
    }

    #[test]
    fn a_chunk_says_where_it_belongs() {
        for (range, want) in [
            ("0-9", Ok(Some((0, 9)))),
            ("bytes 5-9/10", Ok(Some((5, 9)))),
            ("bytes=5-9", Ok(Some((5, 9)))),
            ("9-0", Err(())),
            ("-9", Err(())),
            ("0-", Err(())),
            ("x", Err(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_RANGE, range.parse().unwrap());
            assert_eq!(chunk(&headers), want, "{range}");
        }
        assert_eq!(chunk(&HeaderMap::new()), Ok(None));
    }
}
