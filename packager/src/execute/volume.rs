use super::{Executor, StageState};
use crate::{diagnostic::Fault, dockerfile::instruction::Word};

/// `VOLUME path …`
pub(super) fn volume(
    executor: &Executor<'_, '_>,
    state: &mut StageState,
    paths: &[Word],
) -> Result<(), Fault> {
    for path in executor.words(&state.variables, paths)? {
        state.stage.add_volume(path);
    }
    Ok(())
}
