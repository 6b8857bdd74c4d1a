use super::{Executor, StageState};
use crate::{diagnostic::DiagnosticKind, dockerfile::instruction::Pair, fault::Fault};

impl Executor<'_, '_> {
    /// `LABEL name=value …`. Wants are checked and put into their canonical form, and so is a
    /// wish for reuse checked.
    pub(super) fn label(&self, state: &mut StageState, pairs: &[Pair]) -> Result<(), Fault> {
        for (name, mut value) in self.pairs(&state.variables, pairs)? {
            if name == image::WANTS_KEY {
                let wants = image::parse_wants(&value).map_err(DiagnosticKind::Wants)?;
                value = image::wants_text(&wants);
            }
            if name == image::REUSE_KEY {
                image::parse_reuse(&value).map_err(DiagnosticKind::Reuse)?;
            }
            state.stage.config.labels.get_or_insert_default().insert(name, value);
        }
        Ok(())
    }
}
