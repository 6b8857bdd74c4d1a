/// What a `Range` header means for a file of some length.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// No range that is understood: the whole file, as HTTP wants it.
    Whole,
    /// From the first byte, so many.
    Bytes { first: u64, count: u64 },
    /// Nothing of the file lies in the range.
    Nothing,
}

/// Reads a `Range` header for a file of `length` bytes.
///
/// # Spec
/// RFC 9110, 14.1.2. Several ranges in one header are answered with the whole file, which it
/// allows.
pub fn part(header: &str, length: u64) -> Part {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Part::Whole;
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Part::Whole,
        (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => {
            Part::Nothing
        }
        (Some(first), Some(last)) => Part::Bytes { first, count: last.min(length - 1) - first + 1 },
        (Some(first), None) if last.is_empty() => Part::Bytes { first, count: length - first },
        (None, Some(0)) if first.is_empty() => Part::Nothing,
        (None, Some(_)) if first.is_empty() && length == 0 => Part::Nothing,
        (None, Some(count)) if first.is_empty() => {
            let count = count.min(length);
            Part::Bytes { first: length - count, count }
        }
        _ => Part::Whole,
    }
}

// Digits alone: `parse` would also take a plus sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX)) // past u64 is past every file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_the_file() {
        let bytes = |first, count| Part::Bytes { first, count };
        for (header, length, want) in [
            ("bytes=0-0", 10, bytes(0, 1)),
            ("bytes=2-5", 10, bytes(2, 4)),
            ("bytes=5-", 10, bytes(5, 5)),
            ("bytes=5-99", 10, bytes(5, 5)),
            ("bytes=5-99999999999999999999", 10, bytes(5, 5)),
            ("bytes=-3", 10, bytes(7, 3)),
            ("bytes=-99", 10, bytes(0, 10)),
            ("bytes=-0", 10, Part::Nothing),
            ("bytes=10-", 10, Part::Nothing),
            ("bytes=99999999999999999999-", 10, Part::Nothing),
            ("bytes=0-", 0, Part::Nothing),
            ("bytes=-1", 0, Part::Nothing),
            ("bytes=5-2", 10, Part::Whole),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("bytes=10-x", 10, Part::Whole),
            ("lines=1-2", 10, Part::Whole),
        ] {
            assert_eq!(part(header, length), want, "reading {header} of {length}");
        }
    }
}
