use std::sync::Arc;

use wasmtime::{
    Engine,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    capability::outbound::Hooks,
    environment::{self, Environment},
    files::{self, Files},
    meter::Held,
    output::Output,
    services,
};
use crate::engine::{EXIT_FUNCTION, EXIT_INTERFACE, SOCKET_FUNCTIONS, SOCKETS_INTERFACE};

/// `ENOTSUP` of WASI 0.1.
const NOT_SUPPORTED: u32 = 58;
/// `ENOTSOCK`.
const NOT_A_SOCKET: u32 = 57;
/// `EBADF`.
const BAD_DESCRIPTOR: u32 = 8;

/// What one instance has on the host's side.
pub(crate) struct Guest {
    pub table: ResourceTable,
    pub wasi: WasiCtx,
    pub http: WasiHttpCtx,
    pub hooks: Hooks,
    pub environment: Arc<Environment>,
    pub files: Arc<Files>,
    /// The container's, whatever streams the instance has of its own.
    pub stderr: Output,
    pub held: Held,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Every import that exists, the same for every guest: what is not granted is refused when it is
/// called, so that the refusal can name the line that would grant it.
///
/// `wasi:sockets` is wasmtime's own, which denies before it makes a socket: no address is allowed.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    environment::add_to_linker(&mut linker, |guest: &mut Guest| {
        environment::View(&guest.environment)
    })?;
    files::add_to_linker(&mut linker, |guest: &mut Guest| files::View {
        table: &mut guest.table,
        files: &guest.files,
    })?;
    services::add_to_linker(&mut linker, |guest: &mut Guest| services::View {
        environment: &guest.environment,
        stderr: &guest.stderr,
    })?;
    // The exit code of a WASI 0.1 module; see the preparer's adapter.
    linker.instance(EXIT_INTERFACE)?.func_wrap(EXIT_FUNCTION, |_, (code,): (u32,)| {
        Err::<(), _>(I32Exit(code.cast_signed()).into())
    })?;
    add_sockets(&mut linker)?;
    Ok(linker)
}

/// The socket calls of a WASI 0.1 module: each fails, and the first says why. Of what is closed,
/// the standard streams are open descriptors and no sockets; no other one is a socket either.
fn add_sockets(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type Caller<'a> = wasmtime::StoreContextMut<'a, Guest>;
    let [(accept, _), (receive, _), (send, _), (shutdown, _)] = SOCKET_FUNCTIONS;
    let refused_with = |caller: Caller<'_>, call: &str, code: u32| {
        let import = format!("wasi_snapshot_preview1.{call}");
        caller.data().hooks.outbound.socket_refused(&import);
        Ok((code,))
    };
    let refused = move |caller: Caller<'_>, call| refused_with(caller, call, NOT_SUPPORTED);
    let mut sockets = linker.instance(SOCKETS_INTERFACE)?;
    sockets.func_wrap("accept", move |caller: Caller<'_>, _: (u32, u32, u32)| {
        refused(caller, accept)
    })?;
    sockets
        .func_wrap("receive", move |caller: Caller<'_>, _: (u32, u32, u32, u32, u32, u32)| {
            refused(caller, receive)
        })?;
    sockets.func_wrap("send", move |caller: Caller<'_>, _: (u32, u32, u32, u32, u32)| {
        refused(caller, send)
    })?;
    sockets.func_wrap("shutdown", move |caller: Caller<'_>, (descriptor, _): (u32, u32)| {
        let is_stream = descriptor <= 2;
        let code = if is_stream { NOT_A_SOCKET } else { BAD_DESCRIPTOR };
        refused_with(caller, shutdown, code)
    })
}
