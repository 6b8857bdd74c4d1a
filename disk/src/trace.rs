use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

/// One step of a durable write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    SyncFile(PathBuf),
    /// The new name.
    Rename(PathBuf),
    SyncFolder(PathBuf),
}

thread_local! {
    static STEPS: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

/// Runs `work` and returns the steps that this thread took meanwhile, in order. No test can cut the
/// power, so tests of durability compare these steps. Outside of `trace` a step costs one look at a
/// thread-local variable, which is nothing beside its fsync.
pub fn trace<T>(work: impl FnOnce() -> T) -> (T, Vec<Step>) {
    STEPS.with_borrow_mut(|steps| *steps = Some(Vec::new()));
    let value = work();
    (value, STEPS.take().unwrap_or_default())
}

pub(crate) fn note(step: fn(PathBuf) -> Step, path: &Path) {
    STEPS.with_borrow_mut(|steps| {
        if let Some(steps) = steps {
            steps.push(step(path.to_owned()));
        }
    });
}
