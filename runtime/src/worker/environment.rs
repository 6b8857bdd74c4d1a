use std::sync::Arc;

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::p2::bindings::cli::environment;

use crate::limits::{ENVIRONMENT_BYTES_MAX, VARIABLE_BYTES, VARIABLES_BYTES_MAX};

/// What a program is started with, in the form in which it asks: shared by all instances, and
/// copied only for one that does ask.
#[derive(Debug)]
pub(crate) struct Environment {
    args: Vec<String>,
    env: Vec<(String, String)>,
    working_dir: String,
}

impl Environment {
    /// # Errors
    /// A sentence on variables that no program could take: it would trap when it reads them.
    pub fn of(
        args: Vec<String>,
        env: Vec<(String, String)>,
        working_dir: String,
    ) -> Result<Self, String> {
        let room = VARIABLES_BYTES_MAX.saturating_sub(VARIABLE_BYTES * env.len());
        if room == 0 {
            return Err(format!(
                "it has {} variables, and a WebAssembly program takes at most {}: use fewer, or a \
                 file in a volume",
                env.len(),
                VARIABLES_BYTES_MAX / VARIABLE_BYTES - 1
            ));
        }
        let all: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if all > ENVIRONMENT_BYTES_MAX {
            return Err(format!(
                "its variables have {all} bytes together, and a WebAssembly program takes at most \
                 {ENVIRONMENT_BYTES_MAX}: use fewer, or a file in a volume"
            ));
        }
        let sizes = env.iter().map(|(name, value)| (name.len().max(value.len()), name));
        match sizes.max() {
            Some((bytes, name)) if bytes > room => {
                let name: String = name.chars().take(NAME_CHARS_SHOWN).collect();
                Err(format!(
                    "variable `{name}` has {bytes} bytes, and a WebAssembly program takes at most \
                     {room} in one: hand it over as a file, with `--secret NAME=FILE` or `-v`"
                ))
            }
            _ => Ok(Self { args, env, working_dir }),
        }
    }

    pub fn variables(&self) -> impl Iterator<Item = &(String, String)> {
        self.env.iter()
    }

    pub fn working_dir(&self) -> &str {
        &self.working_dir
    }
}

/// Of a name that may itself be what is too long.
const NAME_CHARS_SHOWN: usize = 64;

/// What an instance sees of it, as `wasi:cli/environment`.
pub(crate) struct View<'a>(pub &'a Arc<Environment>);

impl environment::Host for View<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.0.env.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.0.args.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.0.working_dir.clone()))
    }
}

struct HasEnvironment;

impl HasData for HasEnvironment {
    type Data<'a> = View<'a>;
}

/// Adds the interface; it shadows that of wasmtime.
pub(crate) fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> View<'_>,
) -> wasmtime::Result<()> {
    environment::add_to_linker::<T, HasEnvironment>(linker, view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_no_program_could_take_are_refused_by_name() {
        let room = VARIABLES_BYTES_MAX - VARIABLE_BYTES;
        let many = VARIABLES_BYTES_MAX / VARIABLE_BYTES;
        for (count, name, bytes, want) in [
            (1, "A", 0, None),
            (1, "A", room, None),
            (1, "A", room + 1, Some("variable `A0` has 57329 bytes")),
            (15, "A", 32 << 10, None),
            (17, "A", 32 << 10, Some("bytes together")),
            (1000, "A", 500, None),
            (3000, "A", 100, None),
            (3000, "A", 180, Some("bytes together")),
            (3500, "A", 141, None),
            (many - 1, "A", 1, None),
            (many, "A", 1, Some("it has 3584 variables")),
            (1, &"N".repeat(60_000), 1, Some("has 60001 bytes")),
        ] {
            let variable = |i: usize| (format!("{name}{i}"), "x".repeat(bytes));
            let env: Vec<_> = (0..count).map(variable).collect();
            let environment = Environment::of(Vec::new(), env, "/".to_owned());
            let said = environment.err();
            let name = &name[..1];
            match want {
                None => assert_eq!(said, None, "{count} of {bytes} bytes, {name}"),
                Some(want) => {
                    let said = said.expect("refused");
                    assert!(said.contains(want) && said.len() < 300, "{count}, {bytes}: {said}");
                }
            }
        }
    }
}
