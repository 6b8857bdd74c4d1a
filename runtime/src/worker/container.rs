use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use engine::LimitCode;
use spec::{ClockLevel, Limits, RandomLevel};
use wasmtime::{
    Engine, PoolConcurrencyLimitError, Store,
    component::{ResourceTable, ResourceTableError},
};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

use super::{
    capability::{
        clock,
        outbound::{Hooks, Outbound},
        random,
    },
    control::Control,
    environment::Environment,
    files::Files,
    guest::Guest,
    meter::{self, Cut, Held, Meter, RunClock},
    output::{Log, Output},
    stdin::Input,
    ticker::Ticker,
};
use crate::limits::{HEADER_FIELDS_BYTES_MAX, HOSTCALL_BYTES_MAX};
use crate::{source_lines::SourceLines, usage::add};

/// What all instances of one container share, prepared so that an instance costs little more than
/// its memory.
pub(crate) struct Container {
    pub engine: Engine,
    /// Of the source of its own program.
    pub lines: SourceLines,
    pub environment: Arc<Environment>,
    pub limits: Limits,
    pub clock: ClockLevel,
    pub random: RandomLevel,
    pub files: Arc<Files>,
    pub meter: Arc<Meter>,
    pub outbound: Arc<Outbound>,
    pub control: Arc<Control>,
    pub log: Arc<Log>,
    pub stdin: Input,
    pub stdout: Output,
    pub stderr: Output,
    pub ticker: Ticker,
}

/// Why a run did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Cpu(Duration),
    Memory(u64),
    Wall(Duration),
    /// Its response paused for longer than that.
    Idle(Duration),
    Handles(u32),
    Trap(String),
    /// No slot of the pool, or of the container's concurrency, was free.
    Busy,
    /// It ended without an answer.
    NoAnswer,
    /// Its answer has a status that no answer has.
    Status(u16),
}

/// What the engine says of a component that holds too many handles. It has no type for it.
const HANDLES_WORDS: &str = "store handle limit exceeded";

fn is_out_of_handles(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(ResourceTableError::Full))
        || error.root_cause().to_string().ends_with(HANDLES_WORDS)
}

impl Fault {
    /// How an operator raises the limit that was met, as the end of a sentence.
    fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Cpu(_) => LimitCode::Cpu.remedy(),
            Self::Memory(_) => LimitCode::Memory.remedy(),
            Self::Wall(_) => LimitCode::Wall.remedy(),
            Self::Idle(_) => {
                "raise it with `--limit idle-seconds=NUMBER`, or `limits.idle_seconds_max` in the \
                 task definition, or let the app write something more often"
            }
            Self::Handles(_) => LimitCode::Handles.remedy(),
            Self::Busy => {
                "raise it with `--limit concurrency=NUMBER`, or `limits.concurrency_max` in the \
                 task definition"
            }
            Self::Trap(_) | Self::NoAnswer | Self::Status(_) => return None,
        })
    }

    /// What the log says of it.
    pub fn line(&self) -> String {
        let remedy = self.remedy().map(|words| format!("; {words}")).unwrap_or_default();
        format!("margay: {}: {self}{remedy}", self.code())
    }

    pub fn code(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "E_CPU",
            Self::Memory(_) => "E_MEMORY",
            Self::Wall(_) => "E_WALL",
            Self::Idle(_) => "E_IDLE",
            Self::Handles(_) => "E_HANDLES",
            Self::Trap(_) => "E_TRAP",
            Self::Busy => "E_BUSY",
            Self::NoAnswer => "E_NO_ANSWER",
            Self::Status(_) => "E_STATUS",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu(max) => write!(f, "it used more than its {} ms of CPU time", max.as_millis()),
            Self::Memory(max) => {
                write!(f, "it needed more than its {} of memory", spec::print_bytes(*max))
            }
            Self::Wall(max) => write!(f, "it took longer than its {} ms", max.as_millis()),
            Self::Idle(max) => {
                write!(f, "its response paused for longer than {} ms", max.as_millis())
            }
            Self::Handles(max) => {
                write!(f, "it held more than its {max} handles (files, streams, requests, …)")
            }
            Self::Trap(why) => write!(f, "{why}"),
            Self::Busy => write!(f, "as many requests as it may have at once are running"),
            Self::NoAnswer => write!(f, "it ended without an answer"),
            Self::Status(status) => {
                write!(f, "its answer has status {status}, and answers have 200 to 599")
            }
        }
    }
}

impl Container {
    /// A store for one instance, with its limits set, and the clock that measures it from `began`
    /// on.
    pub fn store(&self, began: Instant) -> (Store<Guest>, Arc<RunClock>) {
        let mut builder = WasiCtx::builder();
        builder.stdin(self.stdin).stdout(self.stdout.clone()).stderr(self.stderr.clone());
        self.store_of(began, builder, self.environment.clone())
    }

    /// The same for a program with an environment and streams of its own.
    pub fn store_of(
        &self,
        began: Instant,
        mut builder: WasiCtxBuilder,
        environment: Arc<Environment>,
    ) -> (Store<Guest>, Arc<RunClock>) {
        let run = Arc::new(RunClock::new(self.meter.clone(), began));
        let outbound = self.outbound.clone();
        builder.socket_addr_check(move |_, _| {
            outbound.socket_refused("wasi:sockets");
            Box::pin(std::future::ready(false))
        });
        clock::set(&mut builder, self.clock, &run);
        random::set(&mut builder, self.random);
        let mut table = ResourceTable::new();
        table.set_max_capacity(self.limits.handles_max as usize);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_FIELDS_BYTES_MAX);
        let guest = Guest {
            table,
            wasi: builder.build(),
            http,
            hooks: Hooks::new(self.outbound.clone()),
            environment,
            files: self.files.clone(),
            stderr: self.stderr.clone(),
            held: Held::new(run.clone()),
        };
        let mut store = Store::new(&self.engine, guest);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(self.limits.handles_max as usize);
        meter::limit(&mut store, |guest| &mut guest.held, run.clone(), self.limits.cpu_time_max);
        (store, run)
    }

    /// What an error of the engine means for this container. `refused` says that more memory was
    /// refused before.
    pub fn fault(&self, error: &wasmtime::Error, refused: bool) -> Fault {
        if error.downcast_ref::<Cut>() == Some(&Cut::Cpu) {
            return Fault::Cpu(self.limits.cpu_time_max.unwrap_or_default());
        }
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            return Fault::Busy;
        }
        if is_out_of_handles(error) {
            return Fault::Handles(self.limits.handles_max);
        }
        if refused {
            return Fault::Memory(self.limits.memory_bytes_max);
        }
        Fault::Trap(error.root_cause().to_string())
    }

    /// Counts one run. Its time and memory were counted while it ran.
    pub fn ran(&self, failed: bool) {
        let page = &self.meter.page;
        add(&page.runs, 1);
        if failed {
            add(&page.failed_runs, 1);
        }
    }
}
