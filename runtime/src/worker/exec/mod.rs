//! Programs beside the container's own, and copies of files: in the same process, with the same
//! files, grants and limits. A client that may enter the container's folder asks for one; a guest
//! cannot.

mod area; // their machine code, as this process sees it
mod streams; // their stdin, stdout and stderr

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{
    Exit,
    exec::{Answer, Ask, CodeRange, Control, Program},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use wasmtime::component::{Component, Linker};
use wasmtime_wasi::{WasiCtx, p2::bindings::CommandPre};

use super::{
    command::run_to_end, container::Container, environment::Environment, files, guest::Guest,
};
use crate::{
    limits::{
        COPIES_MAX, EXEC_INSTANCES_MAX, EXEC_REQUEST_TIME_MAX, EXEC_WAIT_TIME_MAX, EXECS_MAX,
    },
    socket::Socket,
    source_lines::SourceLines,
};
pub(super) use area::{CodeArea, CodeMemory};
use streams::Streams;

/// The signal that ends a program at once.
const KILLED: u8 = 9;

/// What programs of `exec` need beside the container.
pub(super) struct Execs {
    container: Arc<Container>,
    linker: Linker<Guest>,
    area: CodeArea,
    loaded: Mutex<HashMap<CodeRange, CommandPre<Guest>>>,
    clients: Arc<Semaphore>,
    instances: Semaphore,
    copies: Semaphore,
}

impl Execs {
    pub fn new(container: Arc<Container>, linker: Linker<Guest>, area: CodeArea) -> Self {
        Self {
            container,
            linker,
            area,
            loaded: Mutex::default(),
            clients: Arc::new(Semaphore::new(EXECS_MAX)),
            instances: Semaphore::new(EXEC_INSTANCES_MAX as usize),
            copies: Semaphore::new(COPIES_MAX),
        }
    }

    /// Serves clients, each on its own. With `files_only` nothing runs here: the container has
    /// ended, and its files are looked at.
    pub async fn accept(self: Arc<Self>, listener: OwnedFd, files_only: bool) {
        let Ok(listener) = Socket::new(listener) else { return };
        while let Ok(client) = listener.accept().await {
            let Ok(client) = Socket::new(client) else { continue };
            match self.clients.clone().try_acquire_owned() {
                Ok(permit) => {
                    let execs = self.clone();
                    tokio::spawn(async move {
                        execs.serve(&client, files_only).await;
                        drop(permit);
                    });
                }
                // It may be gone already.
                Err(_) => drop(client.send_now(&Answer::busy(EXECS_MAX))),
            }
        }
    }

    async fn serve(&self, client: &Socket, files_only: bool) {
        let answer = match timeout(EXEC_REQUEST_TIME_MAX, client.request()).await {
            Ok(Ok(Some((Ask::Exec(_), _)))) if files_only => {
                Answer::refused("the task does not run")
            }
            Ok(Ok(Some((Ask::Exec(program), fds)))) => self.exec(client, *program, fds).await,
            Ok(Ok(Some((ask, fds)))) => self.copy(ask, fds).await,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => Answer::refused(error.to_string()),
        };
        // It may be gone by now.
        let _ = client.send(&answer, &[]).await;
    }

    /// Runs a program to its end. The last answer to its client.
    async fn exec(&self, client: &Socket, program: Program, fds: Vec<OwnedFd>) -> Answer {
        let loaded = program.code.ok_or("it comes without machine code".to_owned());
        let pre = match loaded.and_then(|range| self.load(range)) {
            Ok(pre) => pre,
            Err(why) => return Answer::refused(why),
        };
        let streams = match Streams::of(fds, program.terminal.is_some()) {
            Ok(streams) => streams,
            Err(why) => return Answer::refused(why),
        };
        let ends_with_client = program.ends_with_client;
        let environment = match self.environment(program) {
            Ok(environment) => environment,
            Err(why) => return Answer::refused(why),
        };
        let Ok(Ok(_instance)) = timeout(EXEC_WAIT_TIME_MAX, self.instances.acquire()).await else {
            return Answer::busy(EXEC_INSTANCES_MAX as usize);
        };
        if client.send(&Answer::Started, &[]).await.is_err() {
            return Answer::refused("its client is gone");
        }
        Answer::Exited(self.run(client, &pre, (environment, ends_with_client), streams).await)
    }

    /// Does what concerns files, on a thread that may wait for the client's pipe.
    async fn copy(&self, ask: Ask, fds: Vec<OwnedFd>) -> Answer {
        let Ok(Ok(_copying)) = timeout(EXEC_WAIT_TIME_MAX, self.copies.acquire()).await else {
            return Answer::busy(COPIES_MAX);
        };
        let files = self.container.files.clone();
        let copy = move || files::answer(&files, ask, fds.into_iter().next());
        let copied = tokio::task::spawn_blocking(copy).await;
        copied.unwrap_or_else(|error| Answer::refused(format!("the copy broke off: {error}")))
    }

    /// The program at `range`, made ready once.
    fn load(&self, range: CodeRange) -> Result<CommandPre<Guest>, String> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pre) = loaded.get(&range) {
            return Ok(pre.clone());
        }
        let component = self.area.load(range, |code| {
            // SAFETY: machine code that the node's preparer has made from Wasm and a client that
            // may enter the container's folder has found sealed. It stays where it is for as long
            // as this process lives.
            let component = unsafe { Component::deserialize_raw(&self.container.engine, code) };
            component.map_err(|e| format!("the machine code cannot be loaded: {e:#}"))
        })?;
        let pre = self
            .linker
            .instantiate_pre(&component)
            .and_then(CommandPre::new)
            .map_err(|e| format!("the program is not a command: {e:#}"))?;
        loaded.insert(range, pre.clone());
        Ok(pre)
    }

    /// The container's, with what the program has of its own.
    fn environment(&self, program: Program) -> Result<Environment, String> {
        let own = &self.container.environment;
        let mut env: HashMap<_, _> = own.variables().cloned().collect();
        let working_dir = program.working_dir.unwrap_or_else(|| own.working_dir().to_owned());
        // What C libraries of WASI 0.1 and 0.2 start from.
        env.insert("PWD".to_owned(), working_dir.clone());
        env.extend(program.env);
        Environment::of(program.args, env.into_iter().collect(), working_dir)
    }

    async fn run(
        &self,
        client: &Socket,
        pre: &CommandPre<Guest>,
        (environment, ends_with_client): (Environment, bool),
        streams: Streams,
    ) -> Exit {
        let container = &self.container;
        let mut builder = WasiCtx::builder();
        builder.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        let began = Instant::now();
        let store = container.store_of(began.into_std(), builder, Arc::new(environment));
        let stopped = async {
            let signal = obey(client, streams.unread, ends_with_client).await;
            (Duration::ZERO, Exit::Signal(signal))
        };
        let say = |lines: &[String]| container.log.say_all(lines);
        // Lines are known of the container's own program.
        let program = (pre, &SourceLines::default());
        run_to_end(container, program, (began, store), stopped, say).await
    }
}

/// What a client says, until it asks the program to end: a WASI program knows no signals. One that
/// is gone asks for nothing, and its program goes on unless it `ends` with its client.
async fn obey(client: &Socket, mut unread: Vec<(usize, OwnedFd)>, ends: bool) -> u8 {
    while let Ok(Some((said, _))) = client.receive::<Control>().await {
        match said {
            Control::Signal(number) => return u8::try_from(number).unwrap_or(0),
            Control::Unread(stream) => unread.retain(|(number, _)| *number != stream),
        }
    }
    if ends {
        return KILLED;
    }
    let reading = unread.into_iter().map(|(_, pipe)| tokio::spawn(streams::discard(pipe)));
    drop(reading.collect::<Vec<_>>());
    std::future::pending().await
}
