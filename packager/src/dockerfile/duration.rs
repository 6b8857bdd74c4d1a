/// `30s`, `1m30s`, `1.5m`, `500ms` or `0`, in nanoseconds, as Go reads durations.
pub fn parse_duration_ns(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total) = (text, 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let unit_ns: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let part = part_ns(number, unit_ns)?;
        total = total.checked_add(part)?;
        rest = behind;
    }
    Some(total)
}

fn part_ns(number: &str, unit_ns: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Each digit is worth a tenth of the one before it; what is below a nanosecond is nothing.
    let (mut worth, mut below) = (unit_ns, 0);
    for digit in fraction.bytes() {
        below += u64::from(digit - b'0') * worth / 10;
        worth /= 10;
    }
    whole.checked_mul(unit_ns)?.checked_add(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_docker_reads_them() {
        for (text, want) in [
            ("0", Some(0)),
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5m", Some(90_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("300ms", Some(300_000_000)),
            ("2h45m", Some(9_900_000_000_000)),
            ("10µs", Some(10_000)),
            ("1.123456789123s", Some(1_123_456_789)),
            ("", None),
            ("10", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("-1s", None),
            ("1 s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse_duration_ns(text), want, "{text}");
        }
    }
}
