use super::{Executor, StageState};
use crate::{dockerfile::instruction::Word, fault::Fault};

impl Executor<'_, '_> {
    /// `VOLUME path …`
    pub(super) fn volume(&self, state: &mut StageState, paths: &[Word]) -> Result<(), Fault> {
        for path in self.words(&state.variables, paths)? {
            state.stage.add_volume(path);
        }
        Ok(())
    }
}
