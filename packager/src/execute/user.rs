use super::{Executor, StageState};
use crate::{diagnostic::DiagnosticKind, dockerfile::instruction::Word, fault::Fault};

impl Executor<'_, '_> {
    /// `USER name[:group]`
    pub(super) fn user(&self, state: &mut StageState, user: &Word) -> Result<(), Fault> {
        let text = self.word(&state.variables, user)?;
        let (user, group) = text.split_once(':').map_or((&*text, None), |(u, g)| (u, Some(g)));
        if !text.is_empty() && !is_name_or_id(user) || !group.is_none_or(is_name_or_id) {
            return Err(DiagnosticKind::User(text).into());
        }
        state.stage.config.user = Some(text);
        Ok(())
    }
}

/// 2³² - 1 is no id: system calls take it as "unchanged".
fn is_name_or_id(text: &str) -> bool {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().is_ok_and(|id| id != u32::MAX),
        false => {
            let allowed =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$');
            text.len() <= 64 && text.bytes().all(allowed) && !text.starts_with('-')
        }
    }
}
