use std::{future::pending, sync::Arc, time::Duration};

use engine::{Event, Exit};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use wasmtime::{Store, component::InstancePre};
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use super::{
    backtrace::backtrace,
    container::{Container, Fault},
    guest::Guest,
    meter::{RunClock, Timed},
};
use crate::source_lines::SourceLines;

/// Runs a program once, to its end.
pub(super) async fn run(container: Arc<Container>, pre: InstancePre<Guest>) -> Exit {
    let pre = match CommandPre::new(pre) {
        Ok(pre) => pre,
        Err(error) => return Exit::NotStarted(format!("the program is not a command: {error:#}")),
    };
    let mut stopping = container.control.stopping();
    container.control.report(Event::Started);
    // A WASI program has no signals: there is nothing to wait for but its own end.
    let stopped = async {
        let grace = grace(&mut stopping).await;
        (grace.unwrap_or_default(), Exit::TERMINATED)
    };
    let began = Instant::now();
    let store = container.store(began.into_std());
    let say = |lines: &[String]| container.stderr.say_all(lines);
    run_to_end(&container, (&pre, &container.lines), (began, store), stopped, say).await
}

/// Runs a program, with the lines of its source, in a store of its own, made when it began, until
/// it ends, its time is over, or it has not ended within the grace that `stopped` gives it, as
/// which exit. Where it broke is told to `say`; what broke it is in the exit, and in the log.
pub(super) async fn run_to_end(
    container: &Container,
    (pre, lines): (&CommandPre<Guest>, &SourceLines),
    (began, (mut store, clock)): (Instant, (Store<Guest>, Arc<RunClock>)),
    stopped: impl Future<Output = (Duration, Exit)>,
    say: impl FnOnce(&[String]),
) -> Exit {
    let _ticking = container.ticker.run();
    let call = async move {
        let result = async {
            let command = pre.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        }
        .await;
        let refused = store.data().held.was_refused();
        (result, refused)
    };
    let wall = container.limits.wall_time_max;
    let deadline = wall.map(|wall| began + wall);
    let mut call = Timed::new(call, clock);
    let ended = tokio::select! {
        ended = &mut call => Ok(ended),
        () = until(deadline) => {
            let fault = Fault::Wall(wall.unwrap_or_default());
            Err((Exit::from(&fault), Some((fault, Vec::new()))))
        }
        (grace, exit) = stopped => stop(&mut call, grace).await.ok_or((exit, None)),
    };
    drop(call);
    let (exit, fault) = ended.map_or_else(|exit| exit, |ended| exit_of(container, lines, ended));
    container.ran(fault.is_some());
    if let Some((fault, backtrace)) = fault {
        container.log.say(&fault.line());
        say(&backtrace);
    }
    exit
}

/// What broke a program, and where in it.
type Broken = (Fault, Vec<String>);

/// What a call's result, and whether memory was refused meanwhile, mean for its program.
fn exit_of(
    container: &Container,
    lines: &SourceLines,
    (result, refused): (wasmtime::Result<Result<(), ()>>, bool),
) -> (Exit, Option<Broken>) {
    match result {
        Ok(Ok(())) => (Exit::Code(0), None),
        Ok(Err(())) => (Exit::Code(1), None),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            // As a shell sees it: the lower eight bits.
            Some(I32Exit(code)) => (Exit::Code(*code as u8), None),
            None => {
                let fault = container.fault(&error, refused);
                (Exit::from(&fault), Some((fault, backtrace(&error, lines))))
            }
        },
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn grace(stopping: &mut watch::Receiver<Option<Duration>>) -> Option<Duration> {
    stopping.wait_for(Option::is_some).await.ok().and_then(|grace| *grace)
}

/// Gives a program the time that it was promised to end by itself.
async fn stop<F: Future + Unpin>(call: &mut F, grace: Duration) -> Option<F::Output> {
    tokio::select! {
        ended = call => Some(ended),
        () = sleep(grace) => None,
    }
}

impl From<&Fault> for Exit {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Trap(why) => Self::Trap(why.clone()),
            Fault::Cpu(max) => Self::out_of_cpu(*max),
            Fault::Memory(max) => Self::out_of_memory(*max),
            Fault::Wall(max) | Fault::Idle(max) => Self::out_of_time(*max),
            Fault::Handles(max) => Self::out_of_handles(*max),
            Fault::Busy | Fault::NoAnswer | Fault::Status(_) => Self::Trap(fault.to_string()),
        }
    }
}
