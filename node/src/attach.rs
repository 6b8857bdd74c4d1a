//! A terminal, or a pipe, at a task that runs: `margay attach`, and `margay run -it`.

use std::{
    ops::ControlFlow,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::OwnedReadHalf,
    sync::mpsc,
};

use crate::{
    control::{
        self, Answer, DetachKeys, Ended, Frame, HEAD_BYTES, KeyFilter, Order, Request, VERSION,
        json,
    },
    error::{Error, Result},
    home::Home,
    keeper,
    request::{Note, RunRequest},
    signals::{TaskSignals, WINCH},
    tasks::{LogOptions, LogStream, State, TaskFolder, find, follow},
    verbs,
    window::terminal_size,
};

/// Frames between the reader of the socket and the loop.
const FRAMES_MAX: usize = 16;
/// A supervisor writes the end of its task at once, and removes it with `--rm`.
const RECORD_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of what is typed, or piped in, at once.
const INPUT_BYTES: usize = 16 << 10;

/// How to attach to a task.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Hand it our standard input, where it has one.
    pub input: bool,
    /// Its standard input ends with ours.
    pub input_ends: bool,
    /// Hand it our signals; otherwise they do here what they always do.
    pub signals: bool,
    pub keys: DetachKeys,
    /// Show what it has written before as well, where that is in its log alone.
    pub from_start: bool,
}

/// What happens while attached.
#[derive(Debug)]
pub enum Attachment<'a> {
    /// It is connected; whether a terminal is at the other end, and takes input.
    Connected {
        terminal: bool,
    },
    Output(LogStream, &'a [u8]),
}

/// How it came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEnd {
    /// The task has ended, with this code, and why, where there is something to say.
    Ended { exit_code: i32, reason: Option<String> },
    /// The keys were pressed; the task runs on.
    Detached,
}

/// Attaches to a task that runs.
///
/// # Errors
/// [`Error::NotRunning`]; when its supervisor cannot be reached.
pub fn attach(
    task: &TaskFolder,
    options: &AttachOptions,
    mut sink: impl FnMut(Attachment<'_>),
) -> Result<AttachEnd> {
    let name = || task.record().name.clone();
    if !task.state()?.is_alive() {
        return Err(Error::NotRunning(name()));
    }
    let refused = |why: String| Error::Native { why, hint: None };
    match control::attach(task) {
        Ok((Answer::Streams { terminal, input }, stream)) => {
            sink(Attachment::Connected { terminal: terminal && input && options.input });
            let options = AttachOptions { input: options.input && input, ..options.clone() };
            relay(task, stream, &options, terminal, sink)
        }
        Ok((Answer::Refused(why), _)) => Err(refused(why)),
        // Its output is in its log, and it has no input.
        Ok(_) | Err(_) => follow_log(task, options, sink),
    }
}

/// Runs a task in the background with this process attached to it.
///
/// # Errors
/// As [`detach`](crate::detach), and as [`attach`].
pub fn run_attached(
    home: &Home,
    request: &RunRequest,
    options: &AttachOptions,
    mut watch: impl FnMut(Note),
    sink: impl FnMut(Attachment<'_>),
) -> Result<AttachEnd> {
    attach_to(keeper::Keeper::run(home, request)?, home, options, &mut watch, sink)
}

/// Starts a task that was created, or has ended, with this process attached to it.
///
/// # Errors
/// As [`start_task`](crate::start_task), and as [`attach`].
pub fn start_attached(
    home: &Home,
    task: &TaskFolder,
    options: &AttachOptions,
    mut watch: impl FnMut(Note),
    sink: impl FnMut(Attachment<'_>),
) -> Result<AttachEnd> {
    verbs::make_startable(task)?;
    attach_to(keeper::Keeper::start(home, task)?, home, options, &mut watch, sink)
}

/// Attaches as soon as there is something to attach to, before the program starts.
fn attach_to(
    mut keeper: keeper::Keeper,
    home: &Home,
    options: &AttachOptions,
    watch: &mut impl FnMut(Note),
    mut sink: impl FnMut(Attachment<'_>),
) -> Result<AttachEnd> {
    let mut attached = None;
    loop {
        match keeper.next_note()? {
            Note::Listening { id } => {
                let task = find(home, &id)?;
                let lost = |source| Error::System { verb: "attach to the task", source };
                attached = Some((control::attach(&task).map_err(lost)?, task));
            }
            Note::Started(started) => {
                watch(Note::Started(started));
                break;
            }
            note => watch(note),
        }
    }
    match attached {
        Some(((Answer::Streams { terminal, input }, stream), task)) => {
            sink(Attachment::Connected { terminal: terminal && input && options.input });
            relay(&task, stream, options, terminal, sink)
        }
        _ => Ok(AttachEnd::Detached),
    }
}

/// Between this process's streams and those of the task.
fn relay(
    task: &TaskFolder,
    stream: UnixStream,
    options: &AttachOptions,
    terminal: bool,
    sink: impl FnMut(Attachment<'_>),
) -> Result<AttachEnd> {
    let system = |verb| move |source| Error::System { verb, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start a runtime"))?;
    let end = runtime.block_on(async {
        stream.set_nonblocking(true).map_err(system("attach to the task"))?;
        let stream =
            tokio::net::UnixStream::from_std(stream).map_err(system("attach to the task"))?;
        Relay::new(stream, options, terminal, sink)?.run().await
    });
    // Its thread may wait for input that never comes.
    runtime.shutdown_background();
    match end? {
        Some(end) => {
            if matches!(end, AttachEnd::Ended { .. }) {
                wait_for_record(task);
            }
            Ok(end)
        }
        None => Err(Error::NotRunning(task.record().name.clone())),
    }
}

/// Its supervisor has told how it ended, and is writing that down.
fn wait_for_record(task: &TaskFolder) {
    let deadline = Instant::now() + RECORD_TIME_MAX;
    while task.state().is_ok_and(State::is_alive) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Relay<F> {
    frames: mpsc::Receiver<(Frame, Vec<u8>)>,
    to: tokio::net::unix::OwnedWriteHalf,
    signals: Option<TaskSignals>,
    input: Option<tokio::io::Stdin>,
    input_ends: bool,
    keys: KeyFilter,
    terminal: bool,
    sink: F,
}

impl<F: FnMut(Attachment<'_>)> Relay<F> {
    fn new(
        stream: tokio::net::UnixStream,
        options: &AttachOptions,
        terminal: bool,
        sink: F,
    ) -> Result<Self> {
        let (from, to) = stream.into_split();
        Ok(Self {
            frames: frames_of(from),
            to,
            signals: (options.signals || terminal).then(TaskSignals::listen).transpose()?,
            input: options.input.then(tokio::io::stdin),
            input_ends: options.input_ends,
            keys: KeyFilter::new(options.keys.clone()),
            terminal,
            sink,
        })
    }

    /// `None` when the supervisor is gone.
    async fn run(mut self) -> Result<Option<AttachEnd>> {
        if self.terminal {
            self.resize().await;
        }
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            tokio::select! {
                frame = self.frames.recv() => match frame {
                    Some((Frame::Ended, payload)) => {
                        let ended = json::<Ended>(&payload).ok();
                        return Ok(ended.map(|Ended { exit_code, reason }| {
                            AttachEnd::Ended { exit_code, reason }
                        }));
                    }
                    Some((frame, payload)) => self.show(frame, &payload),
                    None => return Ok(None),
                },
                read = read_input(&mut self.input, &mut buffer) => match read {
                    0 => {
                        self.input = None;
                        if self.input_ends {
                            self.send(Frame::EndOfInput.with(&[])).await;
                        }
                    }
                    read => if self.type_in(&buffer[..read]).await {
                        return Ok(Some(AttachEnd::Detached));
                    },
                },
                signal = next_signal(&mut self.signals) => match signal {
                    WINCH => self.resize().await,
                    signal => self.order(Order::Signal(signal)).await,
                },
            }
        }
    }

    fn show(&mut self, frame: Frame, payload: &[u8]) {
        let stream = match frame {
            Frame::ErrorOutput => LogStream::Stderr,
            _ => LogStream::Stdout,
        };
        (self.sink)(Attachment::Output(stream, payload));
    }

    /// Whether the keys were complete.
    async fn type_in(&mut self, typed: &[u8]) -> bool {
        let (passed, detached) = match self.terminal {
            true => self.keys.pass(typed),
            false => (typed.to_vec(), false),
        };
        if !passed.is_empty() {
            self.send(Frame::Input.with(&passed)).await;
        }
        detached
    }

    async fn resize(&mut self) {
        if let Some((rows, columns)) = terminal_size() {
            self.order(Order::Resize(rows, columns)).await;
        }
    }

    async fn order(&mut self, order: Order) {
        if let Ok(frame) = Frame::Request.with_json(&Request { version: VERSION, order }) {
            self.send(frame).await;
        }
    }

    /// A supervisor that is gone is noticed by its frames.
    async fn send(&mut self, frame: Vec<u8>) {
        let _ = self.to.write_all(&frame).await;
    }
}

/// The frames of the supervisor, read in a task of their own: half a frame must not be lost.
fn frames_of(mut from: OwnedReadHalf) -> mpsc::Receiver<(Frame, Vec<u8>)> {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    tokio::spawn(async move {
        loop {
            let mut head = [0; HEAD_BYTES];
            if from.read_exact(&mut head).await.is_err() {
                return;
            }
            let Ok((frame, length)) = Frame::of_head(head) else { return };
            let mut payload = vec![0; length];
            let read = from.read_exact(&mut payload).await;
            if read.is_err() || sender.send((frame, payload)).await.is_err() {
                return;
            }
        }
    });
    frames
}

/// 0 at its end.
async fn read_input(input: &mut Option<tokio::io::Stdin>, buffer: &mut [u8]) -> usize {
    match input {
        Some(input) => input.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

async fn next_signal(signals: &mut Option<TaskSignals>) -> i32 {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// Of a task that was started without a standard input and a terminal.
fn follow_log(
    task: &TaskFolder,
    options: &AttachOptions,
    mut sink: impl FnMut(Attachment<'_>),
) -> Result<AttachEnd> {
    // Readable until its end was seen, also where its folder goes with it.
    let pinned = task.pin()?;
    if options.signals {
        hand_on_signals(task.clone())?;
    }
    let tail = if options.from_start { None } else { Some(0) };
    follow(&pinned, LogOptions { follow: true, tail }, |line| {
        sink(Attachment::Output(line.stream, line.text));
        if !line.partial {
            sink(Attachment::Output(line.stream, b"\n"));
        }
        ControlFlow::Continue(())
    })?;
    let reason = pinned.status()?.and_then(|status| status.reason);
    match pinned.state()? {
        State::Exited(exit_code) => Ok(AttachEnd::Ended { exit_code, reason }),
        _ => Err(Error::NotRunning(task.record().name.clone())),
    }
}

/// Hands the signals of this process to a task, until this process ends.
fn hand_on_signals(task: TaskFolder) -> Result<()> {
    let system = |verb| move |source| Error::System { verb, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start a runtime"))?;
    let mut signals = runtime.block_on(async { TaskSignals::listen() })?;
    let waiting = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                match signals.next().await {
                    WINCH => {}
                    // One that has ended meanwhile says so by its log.
                    signal => drop(verbs::signal_task(&task, signal)),
                }
            }
        });
    });
    waiting.map(drop).map_err(system("listen for signals"))
}
