use std::{
    fs::File,
    io::{ErrorKind, IoSliceMut, Read, Seek, SeekFrom},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Gid, Uid},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    Assignment, Error, Runtime,
    bundle::config as bundle,
    bundle::stage::Stage,
    client::sweep::{Traces, state_folder},
    owner::log::Log,
    owner::streams::Streams,
};

/// More than any runtime says about its version, less than would hurt.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// What a command prints, when it succeeds in time. Says what went wrong, for behind the program's
/// name.
pub(crate) fn output(command: &mut Command, time_max: Duration) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let deadline = Instant::now() + time_max;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        read_until(stdout, &mut said, deadline);
    }
    let status = wait(&mut child, deadline)?;
    match status.success() || said.len() as u64 == OUTPUT_BYTES_MAX {
        true => Ok(String::from_utf8_lossy(&said).into_owned()),
        false => Err(format!("failed ({status})")),
    }
}

/// Waits for `child`, and kills it at the deadline.
pub(crate) fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus, String> {
    let pid = Pid::from_child(child);
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
        && !readable(pidfd.as_fd(), deadline)
    {
        // It is ours and not waited for, so the number still means it.
        let _ = child.kill();
        let _ = child.wait();
        return Err("did not answer in time and was killed".to_owned());
    }
    child.wait().map_err(|error| format!("cannot be waited for: {error}"))
}

fn read_until(mut from: impl Read + AsFd, said: &mut Vec<u8>, deadline: Instant) {
    let mut buffer = [0; 4096];
    while (said.len() as u64) < OUTPUT_BYTES_MAX && readable(from.as_fd(), deadline) {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                said.extend_from_slice(&buffer[..n.min(OUTPUT_BYTES_MAX as usize - said.len())])
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Whether `fd` has something (or its end) before the deadline.
pub(crate) fn readable(fd: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// A container that exists and whose program has not run yet.
pub(crate) struct Created {
    pub pid: Pid,
    pub streams: Streams,
    /// Its terminal, if it has one.
    pub master: Option<OwnedFd>,
}

/// A runtime that takes longer hangs: 50 ms are usual, seconds happen on a machine that swaps.
/// Twice this (it creates and it starts) is less than a supervisor waits.
const CREATE_TIME_MAX: Duration = Duration::from_secs(25);
/// As long as any honest message.
const LOG_BYTES_MAX: u64 = 64 << 10;

impl Runtime {
    /// Its command line as far as it is the same for everything that is done to the container of
    /// `folder`.
    pub(crate) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--root")
            .arg(state_folder(folder))
            .arg("--log")
            .arg(log_file(folder))
            .args(["--log-format", "json"]);
        command
    }
}

/// Has the runtime make the container: namespaces, cgroup, mounts, and a process that waits to
/// become the program.
pub(crate) fn create(
    order: &Assignment,
    traces: &Traces,
    stage: &Stage,
    stdio: [Option<OwnedFd>; 3],
    log: Option<Log>,
) -> Result<Created, Error> {
    let folder = &order.folder;
    // What it said about an earlier container explains nothing about this one.
    let _ = std::fs::remove_file(log_file(folder));
    let making = || "make a container's streams";
    let pid_file = stage.bundle.join("pid");
    let mut command = traces.runtime.command(folder);
    command.arg("create").arg("--bundle").arg(&stage.bundle).arg("--pid-file").arg(&pid_file);
    let (streams, master) = match order.stdio.terminal {
        None => {
            let account = (host_uid(stage.account.uid), host_gid(stage.account.gid));
            let (streams, ends) =
                Streams::pipes(stdio, log, account).map_err(Error::io(making()))?;
            command
                .stdin(ends.stdin.map_or_else(Stdio::null, Stdio::from))
                .stdout(ends.stdout)
                .stderr(ends.stderr);
            run(order, command.arg(&traces.id))?;
            (streams, None)
        }
        Some((rows, columns)) => {
            // Below the bundle, which only root may enter, and which ends with us.
            let console = disk::bind(&stage.bundle.join("console")).map_err(Error::io(making()))?;
            command.arg("--console-socket").arg(stage.bundle.join("console"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            run(order, command.arg(&traces.id))?;
            let master = receive_terminal(&console)
                .map_err(Error::io("receive the container's terminal"))?;
            let _ = rustix::termios::tcsetwinsize(
                &master,
                crate::owner::event_loop::winsize(rows, columns),
            );
            let own = master.try_clone().map_err(Error::io(making()))?;
            (Streams::terminal(master, stdio, log).map_err(Error::io(making()))?, Some(own))
        }
    };
    let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
    let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| Error::Runtime {
        runtime: named(&order.program.runtime),
        what: "made a container and did not say its process".to_owned(),
    })?;
    Ok(Created { pid, streams, master })
}

/// Lets the program run.
pub(crate) fn start(order: &Assignment, traces: &Traces) -> Result<(), Error> {
    let mut command = traces.runtime.command(&order.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(order, command.args(["start", &traces.id]))
}

fn run(order: &Assignment, command: &mut Command) -> Result<(), Error> {
    let wrong = |what: String| Error::Runtime { runtime: named(&order.program.runtime), what };
    let mut child =
        command.spawn().map_err(|error| wrong(format!("cannot be started: {error}")))?;
    // The container's ends of its pipes must not stay open with us, or their end would never come.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = wait(&mut child, Instant::now() + CREATE_TIME_MAX).map_err(wrong)?;
    if status.success() {
        return Ok(());
    }
    let program = order.args.first().cloned().unwrap_or_default();
    match complaint(&order.folder) {
        Some(why) => Err(Error::Start { program, why, old: order.program.runtime.warning() }),
        None => Err(wrong(format!("failed without a word ({status})"))),
    }
}

fn named(runtime: &Runtime) -> String {
    format!("{}, {runtime}", runtime.path.display())
}

/// The last error in the runtime's own log.
fn complaint(folder: &Path) -> Option<String> {
    let mut file = File::open(log_file(folder)).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(end.saturating_sub(LOG_BYTES_MAX))).ok()?;
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let message = |line: &str| -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_error = value
            .get("level")
            .and_then(|level| level.as_str())
            .is_none_or(|level| level == "error");
        value.get("msg").and_then(|msg| msg.as_str()).filter(|_| is_error).map(str::to_owned)
    };
    let last = text.lines().filter_map(message).next_back();
    last.or_else(|| text.lines().next_back().map(str::to_owned))
        .map(|text| text.chars().take(500).collect())
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("oci.log")
}

fn receive_terminal(console: &UnixListener) -> std::io::Result<OwnedFd> {
    if !readable(console.as_fd(), Instant::now() + Duration::from_secs(5)) {
        return Err(ErrorKind::TimedOut.into());
    }
    let (stream, _) = console.accept()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn host_uid(uid: u32) -> Uid {
    Uid::from_raw(bundle::FIRST_ID + uid)
}

fn host_gid(gid: u32) -> Gid {
    Gid::from_raw(bundle::FIRST_ID + gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_hangs_is_killed_at_its_deadline() {
        let began = Instant::now();
        let error = output(
            Command::new("/bin/sh").args(["-c", "exec sleep 100"]),
            Duration::from_millis(50),
        )
        .unwrap_err();
        assert!(error.contains("did not answer in time"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn the_last_complaint_of_a_runtime_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for (text, want) in [
            ("", None),
            (
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"last\"}\n",
                Some("last"),
            ),
            (
                "{\"level\":\"error\",\"msg\":\"bad\"}\n{\"level\":\"warning\",\"msg\":\"old\"}\n",
                Some("bad"),
            ),
            ("{\"msg\":\"crun says no level\"}\n", Some("crun says no level")),
            ("plain words\n", Some("plain words")),
            (
                &format!(
                    "{}{{\"level\":\"error\",\"msg\":\"late\"}}\n",
                    "{\"msg\":\"old\"}\n".repeat(9000)
                ),
                Some("late"),
            ),
        ] {
            std::fs::write(log_file(folder.path()), text).unwrap();
            assert_eq!(complaint(folder.path()).as_deref(), want, "{text}");
        }
    }
}
