use super::{Executor, StageState};
use crate::{
    diagnostic::{DiagnosticKind, shortened},
    dockerfile::instruction::Word,
    fault::Fault,
    items::{Item, MODE_EXECUTABLE},
    limits::{PATH_BYTES_MAX, QUOTED_CHARS_MAX},
    path::clamped,
    stage::single_item,
};

impl Executor<'_, '_> {
    /// `WORKDIR path`: the folder of what runs and of relative paths, made where it is missing. It
    /// gets a layer of its own, as with Docker, because later instructions depend on whether it is
    /// there.
    pub(super) fn workdir(&mut self, state: &mut StageState, path: &Word) -> Result<(), Fault> {
        let path = self.word(&state.variables, path)?;
        let folder = format!("/{}", clamped(&state.stage.absolute(&path)));
        if folder.len() > PATH_BYTES_MAX {
            return Err(DiagnosticKind::PathTooLong(folder).into());
        }
        state.stage.config.working_dir = Some(folder.clone());
        let items = single_item(&state.stage, &folder, Item::Folder { mode: MODE_EXECUTABLE })?;
        if !items.is_empty() {
            let created_by = shortened(&format!("WORKDIR {folder}"), QUOTED_CHARS_MAX);
            self.add_layer(&mut state.stage, items, created_by)?;
        }
        Ok(())
    }
}
