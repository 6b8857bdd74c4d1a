use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::outbound::{Allowed, line_for};
use crate::{frame::Target, limits::LEARNED_LINES_MAX};

/// The connections of guests whose broker learns: the lines that would grant them.
#[derive(Debug, Clone, Default)]
pub(super) struct Learned(Arc<Mutex<BTreeSet<String>>>);

impl Learned {
    pub fn add(&self, target: &Target, allowed: Allowed) {
        let private = if allowed.private { ";private" } else { "" };
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < LEARNED_LINES_MAX {
            lines.insert(format!("{}{private}", line_for(target)));
        }
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
