use super::{Executor, StageState};
use crate::{diagnostic::DiagnosticKind, dockerfile::instruction::Word, fault::Fault};

impl Executor<'_, '_> {
    /// `VOLUME path …`
    pub(super) fn volume(&self, state: &mut StageState, paths: &[Word]) -> Result<(), Fault> {
        for word in paths {
            let path = self.word(&state.variables, word)?.trim().to_owned();
            if path.is_empty() {
                return Err(DiagnosticKind::NoArguments("VOLUME").at(word.place));
            }
            state.stage.add_volume(path);
        }
        Ok(())
    }
}
