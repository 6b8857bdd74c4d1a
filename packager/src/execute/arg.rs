use std::collections::BTreeMap;

use spec::Platform;

use super::{Executor, StageState};
use crate::{
    dockerfile::{
        instruction::{Argument, Instruction},
        variables::Variables,
    },
    error::Error,
    fault::Fault,
};

impl Executor<'_, '_> {
    /// `ARG NAME[=default] …`: the value of `--build-arg`, the default, or that of the global ARG.
    pub(super) fn arg(
        &mut self,
        state: &mut StageState,
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        let globals = self.globals.clone();
        self.declare(arguments, &mut state.variables, &globals)
    }

    /// The ARGs before the first FROM, and those that need no declaration there.
    pub(super) fn global_args(&mut self) -> Result<Variables, Error> {
        let mut globals = Variables::default();
        let given = self.input.args;
        for (name, value) in self.platform_args() {
            if given.contains_key(&name) {
                self.used_args.insert(name.clone());
            }
            globals.set(&name, given.get(&name).unwrap_or(&value));
        }
        for step in &self.dockerfile.global_args {
            let Instruction::Arg(arguments) = &step.instruction else { continue };
            let declared = self.declare(arguments, &mut globals, &Variables::default());
            declared.map_err(|fault| self.in_file(fault, step.place))?;
        }
        Ok(globals)
    }

    fn declare(
        &mut self,
        arguments: &[Argument],
        variables: &mut Variables,
        globals: &Variables,
    ) -> Result<(), Fault> {
        for Argument { name, default } in arguments {
            self.used_args.insert(name.clone());
            let value = match (self.input.args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.word(variables, default)?),
                (None, None) => globals.value(name),
            };
            if let Some(value) = value {
                variables.set(name, &value);
            }
        }
        Ok(())
    }

    /// The ARGs that need no declaration before the first FROM.
    ///
    /// # Spec
    /// Dockerfile reference, "Automatic platform ARGs in the global scope".
    fn platform_args(&self) -> BTreeMap<String, String> {
        let mut args = BTreeMap::new();
        let host = self.input.native.first();
        let mut put = |side: &str, platform: &Platform| {
            args.insert(format!("{side}PLATFORM"), platform.to_string());
            args.insert(format!("{side}OS"), platform.os.clone());
            args.insert(format!("{side}OSVERSION"), String::new());
            args.insert(format!("{side}ARCH"), platform.architecture.clone());
            args.insert(format!("{side}VARIANT"), platform.variant.clone().unwrap_or_default());
        };
        if let Some(host) = host {
            put("BUILD", host);
        }
        if let Some(target) = self.input.platform.or(host) {
            put("TARGET", target);
        }
        let last = self.dockerfile.stages.last().and_then(|stage| stage.name.as_deref());
        let stage = self.input.target.or(last).unwrap_or("default");
        args.insert("TARGETSTAGE".to_owned(), stage.to_owned());
        args
    }
}
