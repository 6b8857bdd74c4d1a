use std::collections::BTreeMap;

use spec::Platform;

use super::{Executor, StageState};
use crate::{
    dockerfile::{instruction::Instruction, variables::Variables},
    error::Error,
    fault::Fault,
};

impl Executor<'_, '_> {
    /// `ARG NAME[=default] …`: the value of `--build-arg`, the default, or that of the global ARG.
    pub(super) fn arg(&mut self, state: &mut StageState, text: &str) -> Result<(), Fault> {
        let globals = self.globals.clone();
        self.declare(text, &mut state.variables, &globals)
    }

    /// The ARGs before the first FROM, and those that need no declaration there.
    pub(super) fn global_args(&mut self) -> Result<Variables, Error> {
        let mut globals = Variables::default();
        let given = self.input.args;
        for (name, value) in self.input.native.first().map(platform_args).unwrap_or_default() {
            if given.contains_key(&name) {
                self.used_args.insert(name.clone());
            }
            let value = given.get(&name).cloned().unwrap_or(value);
            globals.args.insert(name, value);
        }
        for step in &self.dockerfile.global_args {
            let Instruction::Arg(text) = &step.instruction else { continue };
            let declared = self.declare(text, &mut globals, &Variables::default());
            declared.map_err(|fault| self.in_file(fault, step.line))?;
        }
        Ok(globals)
    }

    fn declare(
        &mut self,
        text: &str,
        variables: &mut Variables,
        globals: &Variables,
    ) -> Result<(), Fault> {
        let words = self.expanding(variables, |expander| expander.words(text));
        for word in words {
            let (name, default) =
                word.split_once('=').map_or((word, None), |(name, default)| (name, Some(default)));
            let default = default
                .map(|text| self.expanding(variables, |expander| expander.expand(text)))
                .transpose()?;
            self.used_args.insert(name.to_owned());
            let given = self.input.args.get(name).cloned();
            if let Some(value) = given.or(default).or_else(|| globals.value(name)) {
                variables.args.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }
}

/// The ARGs that need no declaration before the first FROM. What is built is for `host`, as with
/// Docker without `--platform`.
///
/// # Spec
/// Dockerfile reference, "Automatic platform ARGs in the global scope".
fn platform_args(host: &Platform) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for side in ["BUILD", "TARGET"] {
        args.insert(format!("{side}PLATFORM"), host.to_string());
        args.insert(format!("{side}OS"), host.os.clone());
        args.insert(format!("{side}ARCH"), host.architecture.clone());
        args.insert(format!("{side}VARIANT"), host.variant.clone().unwrap_or_default());
    }
    args
}
