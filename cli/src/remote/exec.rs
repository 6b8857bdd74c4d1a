use std::{io::Read as _, process::ExitCode, thread, time::Duration};

use anyhow::bail;
use net::FrameSender;
use orchestrator::Client;
use spec::{ContainerName, ExecProgram, Frame, LogSource, StreamEnd, TaskId, TerminalSize};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::no_word;
use crate::{
    output::{Paint, notice, printable},
    terminal::RawTerminal,
};

/// For a signal to get on its way: what a program does not read fills every buffer before it.
const SIGNAL_TIME_MAX: Duration = Duration::from_secs(2);
/// The last of so many ends this process, as Docker's client does.
const SIGNALS_MAX: u32 = 3;
/// Bytes of our input that travel together.
const CHUNK_BYTES: usize = 32 << 10;

/// Runs a program in a container of a task, with this process's streams, to its end.
///
/// # Errors
/// When it cannot be started, or its node or the control plane goes away.
pub async fn exec(
    client: &Client,
    task: &TaskId,
    container: Option<&ContainerName>,
    program: ExecProgram,
) -> anyhow::Result<ExitCode> {
    let (interactive, has_terminal) = (program.interactive, program.terminal.is_some());
    let (sender, mut stream) = client.exec(task, container, program).await?;
    let raw = (interactive && has_terminal).then(RawTerminal::new).flatten();
    if interactive {
        let to_program = sender.clone();
        // It ends with this process: a read of a terminal cannot be taken back.
        thread::spawn(move || send_input(&to_program));
    }
    let end = tokio::select! {
        end = print(&mut stream) => end,
        number = pass_signals(&sender) => {
            Ok(StreamEnd { exit_code: Some(128 + number), fault: None })
        }
    };
    drop(raw);
    let end = end?;
    if let Some(fault) = end.fault {
        if end.exit_code.is_none() {
            bail!(fault);
        }
        let paint = Paint::on_stderr();
        notice(format_args!("{} {}", paint.error("error:"), printable(&fault.message)));
        if let Some(hint) = fault.hint {
            notice(format_args!("{} {}", paint.hint("hint:"), printable(&hint)));
        }
    }
    Ok(ExitCode::from(end.exit_code.unwrap_or_default()))
}

/// What the program writes, until it has ended.
async fn print(stream: &mut net::FrameStream) -> anyhow::Result<StreamEnd> {
    loop {
        match stream.next().await {
            Ok(Some(Frame::Stdout(bytes))) => write(LogSource::Stdout, &bytes)?,
            Ok(Some(Frame::Stderr(bytes))) => write(LogSource::Stderr, &bytes)?,
            Ok(Some(Frame::End(end))) => return Ok(end),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => bail!(no_word()),
        }
    }
}

fn write(to: LogSource, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    match to {
        LogSource::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        LogSource::Stderr => std::io::stderr().lock().write_all(bytes),
    }
}

fn send_input(to: &FrameSender) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        // Nothing is the end of the input, for the program too.
        let read = std::io::stdin().lock().read(&mut buffer).unwrap_or_default();
        if to.send_blocking(&Frame::Stdin(buffer[..read].to_vec())).is_err() || read == 0 {
            return;
        }
    }
}

/// Signals to this process are for the program; and its terminal has the size of ours. The signal
/// that ends this process, because the program gets it no more: with its client it ends as well.
async fn pass_signals(to: &FrameSender) -> u8 {
    use SignalKind as K;
    let listen = || -> std::io::Result<_> {
        Ok((signal(K::interrupt())?, signal(K::terminate())?, signal(K::window_change())?))
    };
    let Ok((mut interrupt, mut terminate, mut resized)) = listen() else {
        return std::future::pending().await;
    };
    let mut passed = 0;
    loop {
        let frame = tokio::select! {
            _ = interrupt.recv() => Frame::Signal(K::interrupt().as_raw_value() as u8),
            _ = terminate.recv() => Frame::Signal(K::terminate().as_raw_value() as u8),
            _ = resized.recv() => match node::terminal_size() {
                Some((rows, columns)) => Frame::Resize(TerminalSize { rows, columns }),
                None => continue,
            },
        };
        let sent = timeout(SIGNAL_TIME_MAX, to.send(&frame)).await;
        if let Ok(Err(_)) = sent {
            return std::future::pending().await; // the other side says why
        }
        if let Frame::Signal(number) = frame {
            passed += 1;
            if sent.is_err() || passed == SIGNALS_MAX {
                return number;
            }
        }
    }
}
