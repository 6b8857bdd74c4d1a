use std::time::Duration;

/// After the first end: at once, but for what a process needs to be really gone.
const FIRST: Duration = Duration::from_millis(20);
/// The longest wait: a person who looks sees it tried.
const MAX: Duration = Duration::from_secs(30);
/// Who has run for so long has not failed at once: the next end counts as a first one.
pub(super) const STEADY_AFTER: Duration = Duration::from_secs(30);

/// How long to wait before the next start after so many ends in a row: nothing much, then 1, 2, 4 …
/// 30 seconds.
pub(super) fn pause(ends: u32) -> Duration {
    match ends {
        0 | 1 => FIRST,
        n => Duration::from_secs(1 << (n - 2).min(5)).min(MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_almost_nothing_to_half_a_minute() {
        let pauses: Vec<_> = (1..=9).map(|ends| pause(ends).as_millis()).collect();
        assert_eq!(pauses, [20, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(pause(u32::MAX), MAX);
    }
}
