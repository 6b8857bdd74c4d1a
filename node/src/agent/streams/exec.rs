use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use engine::exec::Program;
use net::FrameStream;
use rustix::{pipe::PipeFlags, termios::Winsize};
use spec::{ExecProgram, Frame, StreamEnd, TerminalSize, wire::Fault};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::{Receiver, Sender},
    sync::oneshot,
};

use super::Output;
use crate::{
    agent::host::Host,
    error::{Error, Result},
    exec::{Client, ExecRequest, Heard, exec_for},
    tasks::TaskFolder,
};

/// Bytes of one frame: as much as a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;
/// The signal that says that a terminal has another size.
const WINDOW_CHANGE: i32 = 28;

/// This side's ends of the streams of a program.
struct Ends {
    stdin: Option<Sender>,
    stdout: Receiver,
    stderr: Receiver,
    signals: Sender,
    size: Arc<Mutex<TerminalSize>>,
}

/// Runs a program, to its end or that of its client: one that has a client ends with it.
pub(super) async fn run(
    host: &Arc<Host>,
    folder: TaskFolder,
    program: ExecProgram,
    output: &Output,
    from_client: &mut FrameStream,
) -> Result<StreamEnd> {
    let (interactive, detach) = (program.interactive, program.detach);
    let size = program.terminal.unwrap_or(TerminalSize { rows: 24, columns: 80 });
    let (client, ends) = streams(interactive, size)
        .map_err(|source| Error::System { verb: "make the streams of a program", source })?;
    let program = Program {
        args: program.args,
        env: program.env,
        working_dir: program.working_dir,
        user: program.user,
        terminal: program.terminal.map(|size| (size.rows, size.columns)),
        code: None,
        ends_with_client: !detach,
    };
    let request = ExecRequest { program, file: None, interactive, detach };
    let (host, (tell, started)) = (host.clone(), oneshot::channel());
    let running = tokio::task::spawn_blocking(move || {
        let mut tell = Some(tell);
        let hear = |heard| match heard {
            Heard::Preparing => {}
            Heard::Started => drop(tell.take().map(|tell| tell.send(()))),
        };
        exec_for(&host.home, &folder, request, || Ok(client), hear)
    });
    let exit = async {
        let lost = |error| Error::System { verb: "run a program", source: io::Error::other(error) };
        running.await.map_err(lost)?
    };
    let Ends { stdin, stdout, stderr, signals, size } = ends;
    let relayed = async {
        if started.await.is_ok() && output.send(&Frame::Started).await.is_err() {
            return;
        }
        let _ =
            tokio::join!(copy(stdout, output, Frame::Stdout), copy(stderr, output, Frame::Stderr),);
    };
    let both = async { tokio::join!(exit, relayed).0 };
    // When the client is gone the pipes close, and the program's relay ends with them.
    let exit = tokio::select! {
        exit = both => exit?,
        () = take_in(from_client, stdin, signals, &size) => return Ok(StreamEnd::default()),
    };
    Ok(match exit {
        None => {
            let _ = output.send(&Frame::Started).await; // detached
            StreamEnd { exit_code: Some(0), fault: None }
        }
        Some(exit) => StreamEnd { exit_code: Some(exit.code()), fault: told(&exit) },
    })
}

/// What is to be said of an end beside its code.
fn told(exit: &engine::Exit) -> Option<Fault> {
    let by_signal = matches!(exit, engine::Exit::Signal(_));
    let message = exit.message().filter(|_| !by_signal)?;
    Some(Fault { code: "ended".to_owned(), message, hint: None })
}

/// What the client sends, until it is gone.
async fn take_in(
    from_client: &mut FrameStream,
    mut stdin: Option<Sender>,
    mut signals: Sender,
    size: &Mutex<TerminalSize>,
) {
    while let Ok(Some(frame)) = from_client.next().await {
        match frame {
            Frame::Stdin(bytes) if bytes.is_empty() => stdin = None,
            Frame::Stdin(bytes) => {
                if let Some(to) = &mut stdin
                    && to.write_all(&bytes).await.is_err()
                {
                    stdin = None; // the program reads no more
                }
            }
            Frame::Resize(new) => {
                *size.lock().unwrap_or_else(PoisonError::into_inner) = new;
                let _ = signals.write_all(&[WINDOW_CHANGE as u8]).await;
            }
            Frame::Signal(number) => drop(signals.write_all(&[number]).await),
            _ => {}
        }
    }
}

async fn copy(mut from: Receiver, output: &Output, frame: impl Fn(Vec<u8>) -> Frame) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if output.send(&frame(buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

fn streams(interactive: bool, size: TerminalSize) -> io::Result<(Client, Ends)> {
    let pipe =
        || -> io::Result<(OwnedFd, OwnedFd)> { Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?) };
    let ((stdin, to_stdin), (signals, to_signals)) = (pipe()?, pipe()?);
    let ((from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?);
    let size = Arc::new(Mutex::new(size));
    let known = size.clone();
    let winsize = move || {
        let TerminalSize { rows, columns } = *known.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
    };
    let client = Client { stdin, stdout, stderr, signals, size: Box::new(winsize) };
    let ends = Ends {
        stdin: interactive.then(|| Sender::from_owned_fd(to_stdin)).transpose()?,
        stdout: Receiver::from_owned_fd(from_stdout)?,
        stderr: Receiver::from_owned_fd(from_stderr)?,
        signals: Sender::from_owned_fd(to_signals)?,
        size,
    };
    Ok((client, ends))
}
