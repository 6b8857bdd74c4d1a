use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Causes that are remembered: more than can be wrong with one machine at a time.
const CAUSES_MAX: usize = 64;

/// Why starts have failed on this node: a cause that fails every start is a warning once.
#[derive(Debug, Default)]
pub(super) struct Causes(Mutex<VecDeque<String>>);

impl Causes {
    /// Whether `cause` was not met before, or so long ago that it is forgotten.
    pub fn is_new(&self, cause: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|text| text == cause) {
            return false;
        }
        if known.len() == CAUSES_MAX {
            known.pop_front();
        }
        known.push_back(cause.to_owned());
        true
    }

    /// A start went well: what fails next is news again.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_new_once_until_a_start_goes_well() {
        let causes = Causes::default();
        let asked: Vec<bool> = ["a", "a", "b", "a"].map(|cause| causes.is_new(cause)).to_vec();
        assert_eq!(asked, [true, false, true, false]);
        causes.forget();
        assert!(causes.is_new("a"));
        for other in 0..CAUSES_MAX {
            causes.is_new(&other.to_string());
        }
        assert!(causes.is_new("a"), "the oldest is forgotten");
    }
}
