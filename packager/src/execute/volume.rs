use super::{Executor, StageState};
use crate::{dockerfile::instruction::Word, fault::Fault};

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
