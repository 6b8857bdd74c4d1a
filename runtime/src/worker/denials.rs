use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::limits::DENIED_LINES_MAX;

/// The line under which the rest is counted.
const OTHERS: &str = "(more than 1000 different capabilities)";

/// What was denied, and how often.
#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<HashMap<String, u64>>);

impl Denials {
    /// Counts one. The count, when it is worth telling: at the first and then at every power of
    /// two, so that no denial is silent and no loop becomes a flood.
    pub fn count(&self, line: &str) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.len() < DENIED_LINES_MAX || counts.contains_key(line);
        let count = counts.entry(if known { line } else { OTHERS }.to_owned()).or_insert(0);
        *count += 1;
        count.is_power_of_two().then_some(*count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_told_at_every_power_of_two() {
        let denials = Denials::default();
        let told: Vec<u64> = (0..1000).filter_map(|_| denials.count("env:A")).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        for number in 0..2 * DENIED_LINES_MAX {
            denials.count(&format!("env:A{number}"));
        }
        assert!(denials.0.lock().unwrap().len() <= DENIED_LINES_MAX + 1);
    }
}
