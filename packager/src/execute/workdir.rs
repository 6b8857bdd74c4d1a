use super::{Executor, StageState, owner::Names};
use crate::{
    diagnostic::{DiagnosticKind, shortened},
    dockerfile::instruction::Word,
    fault::Fault,
    items::{MODE_EXECUTABLE, Meta, Owner},
    limits::{PATH_BYTES_MAX, QUOTED_CHARS_MAX},
    path::clamped,
    stage::LayerBuilder,
};

impl Executor<'_, '_> {
    /// `WORKDIR path`: the folder of what runs and of relative paths, made where it is missing, for
    /// the user that USER says. It gets a layer of its own, as with Docker, because later
    /// instructions depend on whether it is there.
    pub(super) fn workdir(&mut self, state: &mut StageState, path: &Word) -> Result<(), Fault> {
        let path = self.word(&state.variables, path)?;
        let folder = format!("/{}", clamped(&state.stage.absolute(&path)));
        if folder.len() > PATH_BYTES_MAX {
            return Err(DiagnosticKind::PathTooLong(folder).into());
        }
        state.stage.config.working_dir = Some(folder.clone());
        let owner = match state.stage.config.user.as_deref() {
            None | Some("") => Owner::default(),
            Some(user) => Names::parse(user).owner(&state.stage, self.spool)?.0,
        };
        let mut layer = LayerBuilder::on(&state.stage);
        let path = layer.resolve(&folder)?;
        layer.make_folders(&path, Meta { mode: MODE_EXECUTABLE, owner })?;
        let items = layer.finish();
        if !items.is_empty() {
            let created_by = shortened(&format!("WORKDIR {folder}"), QUOTED_CHARS_MAX);
            self.add_layer(&mut state.stage, items, created_by)?;
        }
        Ok(())
    }
}
