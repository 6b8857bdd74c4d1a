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
    fs::{Gid, Uid},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    process::Pid,
};

use crate::host::command::{wait, wait_readable};
use crate::limits::{
    CONSOLE_TIME_MAX, FIRST_ID, RUNTIME_ERROR_CHARS_MAX, RUNTIME_LOG_BYTES_MAX, RUNTIME_TIME_MAX,
};
use crate::{
    Assignment, Error, Runtime,
    bundle::config as bundle,
    bundle::stage::Stage,
    client::sweep::{Traces, state_folder},
    owner::log::Log,
    owner::streams::Streams,
};

/// A container that exists and whose program has not run yet.
pub(crate) struct Created {
    pub pid: Pid,
    pub streams: Streams,
    /// Its terminal, if it has one.
    pub master: Option<OwnedFd>,
}

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
    let status = wait(&mut child, Instant::now() + RUNTIME_TIME_MAX).map_err(wrong)?;
    if status.success() {
        return Ok(());
    }
    let program = order.args.first().cloned().unwrap_or_default();
    match complaint(&order.folder) {
        Some(why) => Err(Error::Start { program, why, outdated: order.program.runtime.warning() }),
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

fn host_uid(uid: u32) -> Uid {
    Uid::from_raw(FIRST_ID + uid)
}

fn host_gid(gid: u32) -> Gid {
    Gid::from_raw(FIRST_ID + gid)
}

#[cfg(test)]
mod tests {
    use super::*;

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
