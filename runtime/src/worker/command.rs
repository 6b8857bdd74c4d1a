use std::{future::pending, sync::Arc, time::Duration};

use engine::{Event, Exit};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use wasmtime::component::InstancePre;
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use super::{
    container::{Container, Fault},
    guest::Guest,
    meter::Timed,
};

/// Runs a program once, to its end.
pub(super) async fn run(container: Arc<Container>, pre: InstancePre<Guest>) -> Exit {
    let pre = match CommandPre::new(pre) {
        Ok(pre) => pre,
        Err(error) => return Exit::NotStarted(format!("the program is not a command: {error:#}")),
    };
    let mut stopping = container.control.stopping();
    container.control.report(Event::Started);
    let _ticking = container.ticker.run();
    let began = Instant::now();
    let (mut store, clock) = container.store(began.into_std());
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
        () = until(deadline) => Err(Some(Fault::Wall(wall.unwrap_or_default()))),
        // A WASI program has no signals: there is nothing to wait for but its own end.
        grace = grace(&mut stopping) => match grace {
            Some(grace) => stop(&mut call, grace).await.ok_or(None),
            None => Err(None),
        },
    };
    drop(call);
    let (exit, fault) = match ended {
        Ok(ended) => exit_of(&container, ended),
        Err(Some(fault)) => (Exit::from(&fault), Some(fault)),
        Err(None) => (Exit::TERMINATED, None),
    };
    container.ran(fault.as_ref());
    exit
}

/// What a call's result, and whether memory was refused meanwhile, mean for its program.
pub(super) fn exit_of(
    container: &Container,
    (result, refused): (wasmtime::Result<Result<(), ()>>, bool),
) -> (Exit, Option<Fault>) {
    match result {
        Ok(Ok(())) => (Exit::Code(0), None),
        Ok(Err(())) => (Exit::Code(1), None),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            // As a shell sees it: the lower eight bits.
            Some(I32Exit(code)) => (Exit::Code(*code as u8), None),
            None => {
                let fault = container.fault(&error, refused);
                (Exit::from(&fault), Some(fault))
            }
        },
    }
}

pub(super) async fn until(deadline: Option<Instant>) {
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
            Fault::Wall(max) => Self::out_of_time(*max),
            Fault::Handles(max) => Self::out_of_handles(*max),
            Fault::Busy | Fault::NoAnswer | Fault::Status(_) => Self::Trap(fault.to_string()),
        }
    }
}
