use std::sync::Arc;

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::p2::bindings::cli::environment;

/// What a program is started with, in the form in which it asks: shared by all instances, and
/// copied only for one that does ask.
#[derive(Debug)]
pub(crate) struct Environment {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
}

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
