//! Signals that ask a process to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

pub(crate) async fn terminated() {
    let (term, int) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut term), Ok(mut int)) = (term, int) else {
        // Without handlers the signals do what they always do: end the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// The signals that are meant for a task.
pub(crate) struct TaskSignals {
    stops: [(Signal, i32); 4],
    passed: [(Signal, i32); 2],
    resized: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// To end, as this one does.
    Stop(i32),
    /// The program's own business.
    Pass(i32),
    /// The terminal has another size.
    Resize,
}

impl TaskSignals {
    pub fn listen() -> Result<Self> {
        let listen = |kind: SignalKind| {
            let signal = signal(kind)
                .map_err(|source| Error::System { verb: "listen for signals", source })?;
            Ok::<_, Error>((signal, kind.as_raw_value()))
        };
        use SignalKind as K;
        Ok(Self {
            stops: [
                listen(K::interrupt())?,
                listen(K::terminate())?,
                listen(K::hangup())?,
                listen(K::quit())?,
            ],
            passed: [listen(K::user_defined1())?, listen(K::user_defined2())?],
            resized: listen(K::window_change())?.0,
        })
    }

    pub async fn next(&mut self) -> Request {
        tokio::select! {
            number = any(&mut self.stops) => Request::Stop(number),
            number = any(&mut self.passed) => Request::Pass(number),
            _ = self.resized.recv() => Request::Resize,
        }
    }

    /// The next one that asks to end.
    pub async fn stop(&mut self) {
        any(&mut self.stops).await;
    }
}

/// The number of the first of these that comes.
async fn any(signals: &mut [(Signal, i32)]) -> i32 {
    let received = signals.iter_mut().map(|(signal, number)| {
        Box::pin(async {
            signal.recv().await;
            *number
        })
    });
    futures_util::future::select_all(received).await.0
}
