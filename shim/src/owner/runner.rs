use std::{
    fs::File,
    io::{ErrorKind, IoSliceMut, Read, Seek, SeekFrom},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::Pid,
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    Assignment, Error, Runtime, RuntimeKind,
    bundle::stage::Stage,
    host::command::{wait, wait_readable},
    limits::{CONSOLE_TIME_MAX, RUNTIME_ERROR_CHARS_MAX, RUNTIME_LOG_BYTES_MAX, RUNTIME_TIME_MAX},
    owner::{log::Log, streams::Streams},
    record::{Traces, state_folder},
};

/// When a program begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With [`start`]: what it finds at its first step has to be made ready in between.
    Later,
    /// At once. Saves the start of a second process of the runtime, a fifth of the whole time.
    Now,
}

/// A container that exists. Its program waits, or runs, or has ended already.
pub(crate) struct Created {
    pub pid: Pid,
    pub streams: Streams,
    /// The controlling side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

impl Traces {
    /// The runtime's command line as far as it is the same for every operation on the container of
    /// `folder`.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.runtime.path);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--root")
            .arg(state_folder(folder))
            .arg("--log")
            .arg(log_file(folder))
            .args(["--log-format", "json"]);
        if self.ids.are_of_namespace() && self.runtime.kind == RuntimeKind::Crun {
            // Others see by themselves that they may make no cgroup.
            command.arg("--cgroup-manager=disabled");
        }
        command
    }
}

/// The runtime's `create` or `run`: namespaces, cgroup, mounts, and a process that waits to become
/// the program, or has become it.
pub(crate) fn create(
    assignment: &Assignment,
    traces: &Traces,
    stage: &Stage,
    begin: Begin,
    stdio: [Option<OwnedFd>; 3],
    log: Option<Log>,
) -> Result<Created, Error> {
    let folder = &assignment.folder;
    // Its errors about an earlier container explain nothing about this one.
    let _ = std::fs::remove_file(log_file(folder));
    let making = || "make a container's streams";
    let pid_file = stage.bundle.join("pid");
    let mut command = traces.command(folder);
    match begin {
        Begin::Later => command.arg("create"),
        Begin::Now => command.args(["run", "--detach"]),
    };
    command.arg("--bundle").arg(&stage.bundle).arg("--pid-file").arg(&pid_file);
    let (streams, terminal) = match assignment.stdio.terminal {
        None => {
            let user = traces.ids.user(stage.account.uid, stage.account.gid);
            let (streams, ends) = Streams::pipes(stdio, log, user).map_err(Error::io(making()))?;
            command
                .stdin(ends.stdin.map_or_else(Stdio::null, Stdio::from))
                .stdout(ends.stdout)
                .stderr(ends.stderr);
            run(assignment, command.arg(&traces.id))?;
            (streams, None)
        }
        Some((rows, columns)) => {
            // In the bundle, which only root may enter, and which ends with this process.
            let console = disk::bind(&stage.bundle.join("console")).map_err(Error::io(making()))?;
            command.arg("--console-socket").arg(stage.bundle.join("console"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            run(assignment, command.arg(&traces.id))?;
            let terminal = receive_terminal(&console)
                .map_err(Error::io("receive the container's terminal"))?;
            let _ = tcsetwinsize(&terminal, window_size(rows, columns));
            let copy = terminal.try_clone().map_err(Error::io(making()))?;
            (Streams::terminal(copy, stdio, log).map_err(Error::io(making()))?, Some(terminal))
        }
    };
    let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
    let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| Error::Runtime {
        runtime: described(&assignment.program.runtime),
        what: "created a container without writing its pid file".to_owned(),
    })?;
    Ok(Created { pid, streams, terminal })
}

/// The runtime's `start`: the program runs.
pub(crate) fn start(assignment: &Assignment, traces: &Traces) -> Result<(), Error> {
    let mut command = traces.command(&assignment.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(assignment, command.args(["start", &traces.id]))
}

fn run(assignment: &Assignment, command: &mut Command) -> Result<(), Error> {
    let runtime = &assignment.program.runtime;
    let wrong = |what: String| Error::Runtime { runtime: described(runtime), what };
    let mut child =
        command.spawn().map_err(|error| wrong(format!("cannot be started: {error}")))?;
    // The container's ends of its pipes must not stay open here, or they would never be at their
    // end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = wait(&mut child, Instant::now() + RUNTIME_TIME_MAX).map_err(wrong)?;
    if status.success() {
        return Ok(());
    }
    let program = assignment.args.first().cloned().unwrap_or_default();
    match last_error(&assignment.folder) {
        Some(why) => {
            let why = about_program(&why, &program).to_owned();
            Err(Error::Start { program, why, outdated: runtime.warning() })
        }
        None => Err(wrong(format!("failed without an error message ({status})"))),
    }
}

fn described(runtime: &Runtime) -> String {
    format!("{}, {runtime}", runtime.path.display())
}

/// The last error in the runtime's own log.
fn last_error(folder: &Path) -> Option<String> {
    let mut file = File::open(log_file(folder)).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(end.saturating_sub(RUNTIME_LOG_BYTES_MAX))).ok()?;
    let mut text = Vec::new();
    file.take(RUNTIME_LOG_BYTES_MAX).read_to_end(&mut text).ok()?;
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
        .map(|text| text.chars().take(RUNTIME_ERROR_CHARS_MAX).collect())
}

/// What a runtime says of the program, without the steps of its own that lead to it.
fn about_program<'a>(why: &'a str, program: &str) -> &'a str {
    let named = format!("exec: {program:?}: ");
    why.split_once(&named).map_or(why, |(_, about)| about)
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("oci.log")
}

fn receive_terminal(console: &UnixListener) -> std::io::Result<OwnedFd> {
    if !wait_readable(console.as_fd(), Instant::now() + CONSOLE_TIME_MAX) {
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

pub(crate) fn window_size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_runtime_is_found() {
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
            assert_eq!(last_error(folder.path()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_runtime_is_quoted_on_the_program_alone() {
        let runc =
            "runc run failed: unable to start container process: exec: \"a b\": permission denied";
        for (why, program, want) in [
            (runc, "a b", "permission denied"),
            (runc, "other", runc),
            ("no such cgroup", "a b", "no such cgroup"),
        ] {
            assert_eq!(about_program(why, program), want, "{program}: {why}");
        }
    }
}
