use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat, open},
    pipe::{PipeFlags, pipe_with},
    pty::ptsname,
    termios::isatty,
};
use spec::LogSource;

use crate::{
    limits::{STREAM_CHUNK_BYTES, STREAM_ROUNDS_MAX, STREAM_WRITE_BYTES},
    owner::log::Log,
    owner::poller::{EventFlags, Poller, Token},
};

/// The container's ends of its pipes.
pub(crate) struct ChildEnds {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A container's streams on their way through the shim: input from the supervisor's descriptor,
/// output to the log and to the supervisor's descriptors. A slow reader slows the container and
/// nothing else. When nothing more can be written, the container's pipe ends as well, as in a
/// pipeline of programs: `margay run IMAGE yes | head -1` ends, and a full disk is no success.
pub(crate) struct Streams {
    outputs: [Option<Output>; 2],
    input: Option<Input>,
    log: Option<Log>,
    /// The supervisor's error stream once more: it outlives the container's.
    errors: Option<File>,
    /// Something that the container wrote could not be delivered, and not because its reader left.
    lost: bool,
}

struct Output {
    from: File,
    source: LogSource,
    /// The supervisor's: see [`reopened`].
    to: Option<File>,
    /// Why nothing more is read from the container.
    broken: Option<ErrorKind>,
    pending: Vec<u8>,
    watched: Watched,
}

struct Input {
    from: File,
    to: File,
    pending: Vec<u8>,
    watched: Watched,
    /// Set for a terminal, where the end of input is a character.
    end_mark: Option<u8>,
}

/// Which side of a stream the poller watches at the moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    Nothing,
    From,
    To,
}

/// Number of the input among the streams; outputs are 0 and 1.
const STDIN: u32 = 4;

impl Streams {
    /// Pipes for a container whose user is `uid` and `gid` on the host: it may reopen
    /// `/dev/stdout`.
    pub(crate) fn pipes(
        handed: [Option<OwnedFd>; 3],
        log: Option<Log>,
        (uid, gid): (Uid, Gid),
    ) -> io::Result<(Self, ChildEnds)> {
        let [stdin, stdout, stderr] = handed;
        let make = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            fchown(&read, Some(uid), Some(gid))?;
            Ok((read, write))
        };
        let (out, child_out) = make()?;
        let (err, child_err) = make()?;
        let (input, child_in) = match stdin {
            Some(from) => {
                let (child_in, to) = make()?;
                (Some(Input::new(from, to, None)?), Some(child_in))
            }
            None => (None, None),
        };
        let errors = stderr.as_ref().map(OwnedFd::try_clone).transpose()?;
        let errors = errors.map(|to| reopened(to, OFlags::WRONLY).into());
        let outputs = [
            Some(Output::new(out, LogSource::Stdout, stdout)?),
            Some(Output::new(err, LogSource::Stderr, stderr)?),
        ];
        Ok((
            Self { outputs, input, log, errors, lost: false },
            ChildEnds { stdin: child_in, stdout: child_out, stderr: child_err },
        ))
    }

    /// One terminal for everything.
    pub(crate) fn terminal(
        master: OwnedFd,
        handed: [Option<OwnedFd>; 3],
        log: Option<Log>,
    ) -> io::Result<Self> {
        const END_OF_TRANSMISSION: u8 = 4;
        let [stdin, stdout, stderr] = handed;
        let input = match stdin {
            Some(from) => Some(Input::new(from, master.try_clone()?, Some(END_OF_TRANSMISSION))?),
            None => None,
        };
        Ok(Self {
            outputs: [Some(Output::new(master, LogSource::Stdout, stdout)?), None],
            input,
            log,
            errors: stderr.map(|to| reopened(to, OFlags::WRONLY).into()),
            lost: false,
        })
    }

    /// Whether everything that the container wrote was delivered.
    pub(crate) fn finished(&self) -> bool {
        self.outputs.iter().flatten().next().is_none()
    }

    pub(crate) fn lost_output(&self) -> bool {
        self.lost
    }

    /// Tells the reader of the error stream something, and the log.
    pub(crate) fn say(&mut self, text: &str) {
        if let Some(log) = &mut self.log {
            // A full disk must not stop the program.
            let _ = log.say(text);
        }
        // Not in the middle of a terminal.
        if let Some(Output { source: LogSource::Stderr, to: Some(_), pending, .. }) =
            &mut self.outputs[1]
        {
            pending.extend_from_slice(format!("{text}\n").as_bytes());
        }
    }

    /// Says that output was lost, where the container's own error stream may have ended.
    fn lose(&mut self, why: ErrorKind) {
        self.lost = true;
        let text = format!("margay: output was lost: {why}");
        if let Some(log) = &mut self.log {
            let _ = log.say(&text);
        }
        if let Some(errors) = &mut self.errors {
            let _ = errors.write_all(format!("{text}\n").as_bytes());
        }
    }

    /// Moves what can be moved. True when more can be moved at once.
    pub(crate) fn pump(&mut self, poller: &Poller) -> bool {
        let mut more = false;
        for index in 0..self.outputs.len() {
            let Some(output) = &mut self.outputs[index] else { continue };
            match output.pump(self.log.as_mut()) {
                Progress::Blocked(watched) => output.watch(poller, index as u32, watched),
                Progress::More => more = true,
                Progress::Finished => {
                    output.watch(poller, index as u32, Watched::Nothing);
                    let broken = output.broken;
                    self.outputs[index] = None;
                    if let Some(why) = broken.filter(|why| *why != ErrorKind::BrokenPipe) {
                        self.lose(why);
                    }
                }
            }
        }
        if let Some(input) = &mut self.input {
            match input.pump() {
                Progress::Blocked(watched) => input.watch(poller, watched),
                Progress::More => more = true,
                Progress::Finished => {
                    input.watch(poller, Watched::Nothing);
                    self.input = None;
                }
            }
        }
        more
    }
}

/// How far a stream is after moving what could be moved.
enum Progress {
    Blocked(Watched),
    More,
    Finished,
}

impl Output {
    fn new(from: OwnedFd, source: LogSource, to: Option<OwnedFd>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&from, true)?;
        let to = to.map(|to| reopened(to, OFlags::WRONLY).into());
        let (pending, watched) = (Vec::new(), Watched::Nothing);
        Ok(Self { from: from.into(), source, to, broken: None, pending, watched })
    }

    fn pump(&mut self, mut log: Option<&mut Log>) -> Progress {
        let mut buffer = [0; STREAM_CHUNK_BYTES];
        for _ in 0..STREAM_ROUNDS_MAX {
            if !self.deliver() {
                return Progress::Blocked(Watched::To);
            }
            if self.broken.is_some() {
                if let Some(log) = log {
                    let _ = log.close(self.source);
                }
                return Progress::Finished;
            }
            match self.from.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    if let Some(log) = log.as_deref_mut() {
                        // A full disk must not stop the program.
                        let _ = log.write(self.source, &buffer[..n]);
                    }
                    if self.to.is_some() {
                        self.pending.extend_from_slice(&buffer[..n]);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Progress::Blocked(Watched::From);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A terminal ends with an error.
                Ok(_) | Err(_) => {
                    if let Some(log) = log {
                        let _ = log.close(self.source);
                    }
                    return Progress::Finished;
                }
            }
        }
        Progress::More
    }

    /// Delivers what is pending, as far as its reader takes it. True when nothing is left.
    fn deliver(&mut self) -> bool {
        let Some(to) = &mut self.to else { return true };
        let mut done = 0;
        while done < self.pending.len() && ready(to.as_fd(), PollFlags::OUT) {
            let piece = &self.pending[done..self.pending.len().min(done + STREAM_WRITE_BYTES)];
            match to.write(piece) {
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // A terminal that hung up takes nothing from a program with a terminal of
                    // its own: another may be attached.
                    let hung_up = isatty(&self.from) && isatty(&*to);
                    self.broken = (!hung_up).then(|| error.kind());
                    self.to = None;
                    self.pending = Vec::new();
                    return true;
                }
            }
        }
        self.pending.drain(..done);
        self.pending.is_empty()
    }

    fn watch(&mut self, poller: &Poller, index: u32, watched: Watched) {
        change_watched(
            poller,
            &mut self.watched,
            watched,
            self.from.as_fd(),
            self.to.as_ref().map(AsFd::as_fd),
            index,
        );
    }
}

impl Input {
    fn new(from: OwnedFd, to: OwnedFd, end_mark: Option<u8>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&to, true)?;
        let from = reopened(from, OFlags::RDONLY).into();
        Ok(Self { from, to: to.into(), pending: Vec::new(), watched: Watched::Nothing, end_mark })
    }

    fn pump(&mut self) -> Progress {
        let mut buffer = [0; STREAM_WRITE_BYTES];
        for _ in 0..STREAM_ROUNDS_MAX {
            while !self.pending.is_empty() {
                match self.to.write(&self.pending) {
                    Ok(n) => drop(self.pending.drain(..n)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Progress::Blocked(Watched::To);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return Progress::Finished,
                }
            }
            if !ready(self.from.as_fd(), PollFlags::IN) {
                return Progress::Blocked(Watched::From);
            }
            match self.from.read(&mut buffer) {
                Ok(n) if n > 0 => self.pending.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Progress::Blocked(Watched::From);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    if let Some(mark) = self.end_mark {
                        // A program whose terminal's input is full is not waiting for its end.
                        let _ = self.to.write(&[mark]);
                    }
                    return Progress::Finished;
                }
            }
        }
        Progress::More
    }

    fn watch(&mut self, poller: &Poller, watched: Watched) {
        change_watched(
            poller,
            &mut self.watched,
            watched,
            self.from.as_fd(),
            Some(self.to.as_fd()),
            STDIN,
        );
    }
}

/// Watches one side at a time: a side that nothing is expected of would wake the loop again and
/// again when it hangs up.
fn change_watched(
    poller: &Poller,
    now: &mut Watched,
    want: Watched,
    from: BorrowedFd<'_>,
    to: Option<BorrowedFd<'_>>,
    token: u32,
) {
    if *now == want {
        return;
    }
    poller.remove(from);
    if let Some(to) = to {
        poller.remove(to);
    }
    *now = want;
    let added = match (want, to) {
        (Watched::From, _) => poller.add(from, Token::Stream(token), EventFlags::IN),
        (Watched::To, Some(to)) => poller.add(to, Token::Stream(token), EventFlags::OUT),
        (Watched::Nothing, _) | (Watched::To, None) => Ok(()),
    };
    if added.is_err() {
        *now = Watched::Nothing;
    }
}

/// The supervisor's end of a stream in a form that never blocks. Other processes share it (a
/// terminal with the user's shell) and must not find it non-blocking, so it is opened anew: a
/// terminal that polls as writable may take one byte, and what polls as readable may be read by
/// another process first. What cannot be opened anew stays as it is: files, which do not block,
/// and sockets, which no other process shares.
fn reopened(fd: OwnedFd, access: OFlags) -> OwnedFd {
    let Ok(stat) = fstat(&fd) else { return fd };
    let opens_the_same = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => true,
        // The controlling side of a terminal would become that of a new terminal.
        FileType::CharacterDevice => isatty(&fd) && ptsname(&fd, Vec::new()).is_err(),
        _ => false,
    };
    if !opens_the_same {
        return fd;
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path, access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or(fd)
}

fn ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
