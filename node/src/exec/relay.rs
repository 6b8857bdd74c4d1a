//! Bytes between this process's streams and those of a program in a container, in one loop. What
//! the program does not read holds up its input and nothing else.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use engine::{
    Exit,
    exec::{Answer, Control},
    frame,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::PipeFlags,
    termios::{Winsize, tcsetwinsize},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::window::terminal_size;

/// The program's streams, as this side has them.
pub(super) enum Side {
    /// Stdin, stdout, stderr.
    Pipes([Option<OwnedFd>; 3]),
    /// The controlling side of its terminal.
    Terminal(OwnedFd),
}

/// The streams of the client, whichever process has them.
pub(crate) struct Client {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// The numbers of signals for the program, one byte each. It ends with the client.
    pub signals: OwnedFd,
    /// The size of its terminal.
    pub size: Box<dyn Fn() -> Option<Winsize> + Send>,
}

impl Client {
    /// Those of this process.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
            signals: listen_for_signals()?,
            size: Box::new(|| {
                let (ws_row, ws_col) = terminal_size()?;
                Some(Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 })
            }),
        })
    }
}

/// Bytes moved at once: a pipe holds as much.
const CHUNK_BYTES: usize = 64 << 10;

/// After the end: as much as a pipe can hold.
const DRAIN_ROUNDS_MAX: usize = (1 << 20) / CHUNK_BYTES;

pub(super) struct Relay<'a> {
    socket: &'a OwnedFd,
    input: Option<Input>,
    /// From the program, and the number of our own stream that it goes to.
    outputs: Vec<(OwnedFd, Own)>,
    terminal: Option<OwnedFd>,
    client: Client,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Stdout = 1,
    Stderr = 2,
}

/// Our stdin on its way to the program.
struct Input {
    to: OwnedFd,
    pending: Vec<u8>,
    /// Ours has ended.
    ended: bool,
    /// What the end of input is for a terminal.
    end_mark: bool,
}

impl<'a> Relay<'a> {
    pub fn new(
        socket: &'a OwnedFd,
        side: Side,
        interactive: bool,
        client: Client,
    ) -> io::Result<Self> {
        let mut relay = Self { socket, input: None, outputs: Vec::new(), terminal: None, client };
        match side {
            Side::Pipes([stdin, stdout, stderr]) => {
                relay.input = stdin.map(|to| Input::new(to, false)).transpose()?;
                relay.outputs.extend(stdout.map(|from| (from, Own::Stdout)));
                relay.outputs.extend(stderr.map(|from| (from, Own::Stderr)));
            }
            Side::Terminal(terminal) => {
                if interactive {
                    relay.input = Some(Input::new(terminal.try_clone()?, true)?);
                }
                relay.outputs.push((terminal.try_clone()?, Own::Stdout));
                relay.terminal = Some(terminal);
            }
        }
        Ok(relay)
    }

    /// Until the program has ended and all that it wrote is delivered. How it ended; `None` when
    /// its container went away without a word.
    pub fn run(mut self) -> io::Result<Option<Exit>> {
        loop {
            let [said, signalled, readable, writable] = self.wait()?;
            if signalled && !self.pass_signal() {
                return Ok(None); // the client is gone
            }
            self.move_input(readable, writable);
            self.move_output()?;
            if said {
                let exit = match frame::receive::<Answer>(self.socket) {
                    Ok(Some((Answer::Exited(exit), _))) => Some(exit),
                    Ok(Some(_)) => continue,
                    Ok(None) | Err(_) => None,
                };
                // What it wrote before lies in its pipes by now. Other processes of the container
                // may hold them as well, and write for ever.
                for _ in 0..DRAIN_ROUNDS_MAX {
                    if !self.move_output()? {
                        break;
                    }
                }
                return Ok(exit);
            }
        }
    }

    /// What happens next: on the socket, a signal, our input, room for it.
    fn wait(&self) -> io::Result<[bool; 4]> {
        let (none, stdin) = (PollFlags::empty(), &self.client.stdin);
        let reads = self.input.as_ref().is_some_and(|i| i.pending.is_empty() && !i.ended);
        let writes = self.input.as_ref().is_some_and(|input| !input.pending.is_empty());
        let room = self.input.as_ref().map_or(self.socket.as_fd(), |input| input.to.as_fd());
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.client.signals.as_fd(), PollFlags::IN),
        ];
        if reads {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        } else if writes {
            fds.push(PollFd::from_borrowed_fd(room, PollFlags::OUT));
        }
        let inputs = fds.len();
        fds.extend(
            self.outputs
                .iter()
                .map(|(from, _)| PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)),
        );
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok([false; 4]),
            Err(error) => return Err(error.into()),
        }
        let ready = |index: usize| fds[index].revents() != none;
        let third = inputs > 2 && ready(2);
        Ok([ready(0), ready(1), reads && third, !reads && writes && third])
    }

    fn move_input(&mut self, readable: bool, writable: bool) {
        let Some(input) = &mut self.input else { return };
        if (readable || writable) && !input.pump(readable.then_some(&self.client.stdin)) {
            self.input = None;
        }
    }

    /// Delivers what the program has written. False when there was nothing.
    fn move_output(&mut self) -> io::Result<bool> {
        let mut buffer = [0; CHUNK_BYTES];
        let mut moved = false;
        let mut index = 0;
        while let Some((from, own)) = self.outputs.get(index).map(|(from, own)| (from, *own)) {
            if !is_readable(from.as_fd()) {
                index += 1;
                continue;
            }
            match rustix::io::read(from, &mut buffer) {
                Ok(read @ 1..) => {
                    moved = true;
                    let delivered = match own {
                        Own::Stdout => write_all(self.client.stdout.as_fd(), &buffer[..read]),
                        Own::Stderr => write_all(self.client.stderr.as_fd(), &buffer[..read]),
                    };
                    match delivered {
                        // Our reader is gone: the program hears of it at its next write.
                        Err(Errno::PIPE) => {
                            let unread = Control::Unread(own as usize);
                            drop(self.outputs.remove(index));
                            let _ = frame::send(self.socket, &unread, &[]);
                        }
                        other => {
                            other?;
                            index += 1;
                        }
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => index += 1,
                // A terminal ends with an error.
                Ok(0) | Err(_) => drop(self.outputs.remove(index)),
            }
        }
        Ok(moved)
    }

    /// Tells the program of a signal to the client, or its terminal of a new size. False when the
    /// client has no more to say.
    fn pass_signal(&self) -> bool {
        let mut number = [0];
        match rustix::io::read(&self.client.signals, &mut number) {
            Ok(1) => {}
            Err(Errno::INTR | Errno::AGAIN) => return true,
            Ok(_) | Err(_) => return false,
        }
        let number = i32::from(number[0]);
        match &self.terminal {
            Some(terminal) if number == SignalKind::window_change().as_raw_value() => {
                if let Some(size) = (self.client.size)() {
                    let _ = tcsetwinsize(terminal, size);
                }
            }
            _ if number == SignalKind::window_change().as_raw_value() => {}
            // One that has ended is about to say so.
            _ => drop(frame::send(self.socket, &Control::Signal(number), &[])),
        }
        true
    }
}

impl Input {
    fn new(to: OwnedFd, end_mark: bool) -> io::Result<Self> {
        if !end_mark {
            rustix::io::ioctl_fionbio(&to, true)?;
        }
        Ok(Self { to, pending: Vec::new(), ended: false, end_mark })
    }

    /// Moves what can be moved; false when nothing more will be.
    fn pump(&mut self, readable: Option<&OwnedFd>) -> bool {
        if let Some(stdin) = readable {
            let mut buffer = [0; CHUNK_BYTES];
            match rustix::io::read(stdin, &mut buffer) {
                Ok(read @ 1..) => self.pending.extend_from_slice(&buffer[..read]),
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Ok(0) | Err(_) => self.ended = true,
            }
        }
        const END_OF_TRANSMISSION: u8 = 4;
        if self.ended && self.end_mark && self.pending.is_empty() {
            self.pending.push(END_OF_TRANSMISSION);
            self.end_mark = false;
        }
        // A terminal takes less than a pipe, and must not block this loop.
        while !self.pending.is_empty() && is_writable(self.to.as_fd()) {
            let piece = &self.pending[..self.pending.len().min(512)];
            match rustix::io::write(&self.to, piece) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // The program reads no more.
                Err(_) => return false,
            }
        }
        !(self.ended && self.pending.is_empty())
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Another process has made our terminal non-blocking.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, PollFlags::IN)
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, PollFlags::OUT)
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The numbers of signals to this process that are meant for the program, one byte each.
pub(crate) fn listen_for_signals() -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (ready, listening) = std::sync::mpsc::channel();
    let listen = move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            use SignalKind as K;
            let kinds = [
                K::interrupt(),
                K::terminate(),
                K::hangup(),
                K::quit(),
                K::user_defined1(),
                K::user_defined2(),
                K::window_change(),
            ];
            let mut signals = Vec::new();
            for kind in kinds {
                signals.push((signal(kind)?, kind.as_raw_value() as u8));
            }
            let _ = ready.send(());
            loop {
                let received = signals.iter_mut().map(|(signal, number)| {
                    Box::pin(async {
                        signal.recv().await;
                        *number
                    })
                });
                let number = futures_util::future::select_all(received).await.0;
                rustix::io::write(&write, &[number])?;
            }
        })
    };
    // It ends with the process.
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    // From here on a signal ends this process no more.
    let _ = listening.recv();
    Ok(read)
}
