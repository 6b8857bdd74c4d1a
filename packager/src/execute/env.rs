use super::{Executor, StageState};
use crate::{
    diagnostic::DiagnosticKind, dockerfile::instruction::Pair, fault::Fault, limits::VARIABLES_MAX,
};

impl Executor<'_, '_> {
    /// `ENV NAME=value …`: into the config, and for the instructions that follow.
    pub(super) fn env(&self, state: &mut StageState, pairs: &[Pair]) -> Result<(), Fault> {
        for (name, value) in self.pairs(&state.variables, pairs)? {
            if state.stage.set_env(&name, &value) > VARIABLES_MAX {
                return Err(DiagnosticKind::TooManyVariables.into());
            }
            state.variables.set(&name, &value);
        }
        Ok(())
    }
}
