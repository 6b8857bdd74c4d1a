//! The streams of a task that more than one terminal may come to and leave.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::Stdio;
use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{
    own_streams::OwnStreams,
    protocol::{Ended, FRAME_BYTES_MAX, Frame},
};
use crate::{signals::TaskSignals, tasks::Kind};

/// Frames on their way to one terminal. A full queue slows the program, as a slow terminal does.
const FRAMES_MAX: usize = 16;
/// What a terminal takes for the end of its input.
const END_OF_TRANSMISSION: u8 = 4;
/// After its program's end: for output that is still on its way.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// For the first terminal, which was started together with the task.
const FIRST_TIME_MAX: Duration = Duration::from_secs(10);

/// What a program reads and writes that a terminal may attach to: one of a task in the background,
/// and one in the foreground that takes input.
pub(crate) struct Hub {
    kind: Kind,
    pub input: bool,
    pub terminal: bool,
    /// Rows and columns of that.
    size: Mutex<(u16, u16)>,
    /// Our end of its standard input.
    to_program: tokio::sync::Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    /// The controlling side of a Wasm program's terminal.
    master: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    clients: Mutex<Vec<mpsc::Sender<Vec<u8>>>>,
    pumps: Mutex<Vec<JoinHandle<()>>>,
    first: Notify,
    /// In the foreground.
    own: Option<OwnStreams>,
    /// Hands our input to the program, from its start to its end.
    feeder: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    pub fn new(kind: Kind, input: bool, terminal: Option<(u16, u16)>) -> Arc<Self> {
        Arc::new(Self::of(kind, input, terminal, None))
    }

    /// Of a task in the foreground of this process, which takes input and has no terminal.
    pub fn shared(kind: Kind, own: OwnStreams) -> Arc<Self> {
        Arc::new(Self::of(kind, true, None, Some(own)))
    }

    fn of(kind: Kind, input: bool, terminal: Option<(u16, u16)>, own: Option<OwnStreams>) -> Self {
        Self {
            kind,
            input,
            terminal: terminal.is_some(),
            size: Mutex::new(terminal.unwrap_or_default()),
            to_program: tokio::sync::Mutex::new(None),
            master: Mutex::new(None),
            clients: Mutex::default(),
            pumps: Mutex::default(),
            first: Notify::new(),
            own,
            feeder: Mutex::default(),
        }
    }

    /// New streams for the next start of the program.
    pub async fn open(self: &Arc<Self>) -> io::Result<Stdio> {
        match (self.kind, self.terminal) {
            (Kind::Wasm, true) => self.open_terminal().await,
            (Kind::Native, _) | (Kind::Wasm, false) => self.open_pipes().await,
        }
    }

    /// The shim of a Linux program puts a terminal between where there is to be one.
    async fn open_pipes(self: &Arc<Self>) -> io::Result<Stdio> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let (stdin, ours) = match self.input {
            true => pipe().map(|(read, write)| (Some(read), Some(write)))?,
            false => (None, None),
        };
        *self.to_program.lock().await = ours.map(watched).transpose()?;
        self.feed();
        let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
        self.pump(watched(out)?, Frame::Output);
        self.pump(watched(err)?, Frame::ErrorOutput);
        Ok(Stdio {
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            terminal: self.terminal.then(|| self.size()),
        })
    }

    /// A Wasm program has the terminal that it is handed.
    async fn open_terminal(self: &Arc<Self>) -> io::Result<Stdio> {
        let size = self.size();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty())?;
        let _ = tcsetwinsize(&master, window(size));
        let master = watched(master)?;
        *self.to_program.lock().await = self.input.then(|| master.clone());
        *self.master.lock().unwrap_or_else(PoisonError::into_inner) = Some(master.clone());
        self.pump(master, Frame::Output);
        Ok(Stdio {
            stdin: if self.input { Some(slave.try_clone()?) } else { None },
            stdout: Some(slave.try_clone()?),
            stderr: Some(slave),
            terminal: Some(size),
        })
    }

    /// Sends what comes from the program to each terminal.
    fn pump(self: &Arc<Self>, from: Arc<AsyncFd<OwnedFd>>, frame: Frame) {
        let hub = self.clone();
        let pump = tokio::spawn(async move {
            let mut buffer = vec![0; FRAME_BYTES_MAX];
            while let Ok(read @ 1..) = read(&from, &mut buffer).await {
                let bytes = &buffer[..read];
                // Our reader has left, which the program is to hear.
                if let Some(own) = &hub.own
                    && own.write(frame, bytes).await.is_err()
                {
                    return;
                }
                hub.send(frame, bytes).await;
            }
        });
        self.pumps.lock().unwrap_or_else(PoisonError::into_inner).push(pump);
    }

    /// Hands the program what comes from our standard input, and its end.
    fn feed(self: &Arc<Self>) {
        if self.own.is_none() {
            return;
        }
        let hub = self.clone();
        let feeder = tokio::spawn(async move {
            let Some(own) = &hub.own else { return };
            while let Some(bytes) = own.next_input().await {
                hub.write(&bytes).await;
            }
            hub.close_input().await;
        });
        *self.feeder.lock().unwrap_or_else(PoisonError::into_inner) = Some(feeder);
    }

    async fn send(&self, kind: Frame, payload: &[u8]) {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for client in &clients {
            // One that has left is forgotten below.
            let _ = client.send(kind.with(payload)).await;
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| !client.is_closed());
    }

    /// What is for one more terminal from now on.
    pub fn join(&self) -> mpsc::Receiver<Vec<u8>> {
        let (sender, frames) = mpsc::channel(FRAMES_MAX);
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.first.notify_one();
        frames
    }

    /// Waits for the first terminal: nothing that the program writes is to be missed.
    pub async fn joined(&self) {
        let _ = timeout(FIRST_TIME_MAX, self.first.notified()).await;
    }

    /// Hands the program what was typed.
    pub async fn write(&self, mut bytes: &[u8]) {
        let to = self.to_program.lock().await;
        let Some(to) = to.as_ref() else { return };
        while !bytes.is_empty() {
            match write(to, bytes).await {
                Ok(written) => bytes = &bytes[written..],
                // It has closed its standard input.
                Err(_) => return,
            }
        }
    }

    /// The program's standard input is at its end.
    pub async fn close_input(&self) {
        match (self.kind, self.terminal) {
            (Kind::Wasm, true) => self.write(&[END_OF_TRANSMISSION]).await,
            (Kind::Native, _) | (Kind::Wasm, false) => drop(self.to_program.lock().await.take()),
        }
    }

    fn size(&self) -> (u16, u16) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The terminal has another size. That of a Linux program is told so by its shim.
    pub fn resize(&self, size: (u16, u16)) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
        if let Some(master) = &*self.master.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = tcsetwinsize(master.get_ref(), window(size));
        }
    }

    /// The signals for which a Wasm program's terminal stands: it has no program that it could
    /// send them to.
    pub fn signals_in(&self, typed: &[u8]) -> Option<i32> {
        let is_wasm_terminal = self.kind == Kind::Wasm && self.terminal;
        let signal = |byte: &u8| match byte {
            0x03 => Some(crate::signals::INT),
            0x1c => Some(crate::signals::QUIT),
            _ => None,
        };
        typed.iter().find_map(signal).filter(|_| is_wasm_terminal)
    }

    /// Waits until what the program wrote has been sent. Our own reader has all the time that it
    /// takes, until a signal says that it is not waited for.
    pub async fn drained(&self) {
        if let Some(feeder) = self.feeder.lock().unwrap_or_else(PoisonError::into_inner).take() {
            feeder.abort();
        }
        let pumps = std::mem::take(&mut *self.pumps.lock().unwrap_or_else(PoisonError::into_inner));
        self.master.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.to_program.lock().await.take();
        let all = futures_util::future::join_all(pumps);
        match (&self.own, TaskSignals::listen()) {
            (Some(_), Ok(mut signals)) => tokio::select! {
                _ = all => {}
                () = signals.stop() => {}
            },
            _ => drop(timeout(DRAIN_TIME_MAX, all).await),
        }
    }

    /// Whether what the program wrote could not be kept in the foreground.
    pub fn lost_output(&self) -> bool {
        self.own.as_ref().is_some_and(OwnStreams::lost_output)
    }

    /// Tells each terminal how the task ended.
    pub async fn end(&self, ended: &Ended) {
        if let Ok(payload) = serde_json::to_vec(ended) {
            let _ = timeout(DRAIN_TIME_MAX, self.send(Frame::Ended, &payload)).await;
        }
        let clients =
            std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        let left = clients.iter().map(mpsc::Sender::closed);
        let left = futures_util::future::join_all(left);
        let _ = timeout(DRAIN_TIME_MAX, left).await;
    }
}

fn window((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[expect(deprecated, reason = "sound for a descriptor that it owns; its successor is unsafe")]
fn watched(fd: OwnedFd) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Arc::new(AsyncFd::new(fd)?))
}

async fn read(from: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = from.readable().await?;
        let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref().as_fd(), &mut *buffer)?));
        if let Ok(read) = read {
            return read;
        }
    }
}

async fn write(to: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let mut ready = to.writable().await?;
        if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref().as_fd(), bytes)?))
        {
            return written;
        }
    }
}
