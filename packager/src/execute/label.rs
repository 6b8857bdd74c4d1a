use super::{Executor, StageState};
use crate::{diagnostic::DiagnosticKind, fault::Fault};

/// `LABEL name=value …`. Wants are checked and put into their canonical form.
pub(super) fn label(
    executor: &Executor<'_, '_>,
    state: &mut StageState,
    text: &str,
) -> Result<(), Fault> {
    for (name, mut value) in executor.pairs(&state.variables, text)? {
        if name == image::WANTS_KEY {
            value = image::wants_text(&image::parse_wants(&value).map_err(DiagnosticKind::Wants)?);
        }
        state.stage.config.labels.get_or_insert_default().insert(name, value);
    }
    Ok(())
}
