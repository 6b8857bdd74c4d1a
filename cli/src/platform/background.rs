//! `margay up -d`: the same process without a terminal. The one that was called waits until it
//! serves, shows what it had to say, and ends.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};

use super::{log_file::LogFile, record::Record};
use crate::{home::Home, output::line};

/// Of one that a signal has ended.
const FAILED: u8 = 1;

/// Starts this command line once more, and waits until it serves or has failed. Each of its waits
/// has a limit, and with the end of this process before that it ends too.
pub fn start(home: &Home) -> anyhow::Result<ExitCode> {
    super::refuse_a_second(home)?;
    let log = LogFile::open(home)?;
    let (start, errors) = (log.bytes()?, log.writer()?);
    let mut child = Command::new("/proc/self/exe")
        .arg0("margay")
        .args(std::env::args_os().skip(1))
        .arg(format!("--caller={}", std::process::id()))
        .env("MARGAY_HOME", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("cannot start the platform")?;
    let output = child.stdout.take().context("its output is a pipe")?;
    for text in BufReader::new(output).lines() {
        line(format_args!("{}", text.context("cannot read what the platform says")?));
    }
    let shown = log.show_from(start);
    shown.with_context(|| format!("cannot read `{}`", LogFile::path(home).display()))?;
    // It has let go of its output, after it had written this or because it has ended.
    if Record::read(home)?.is_some_and(|record| record.pid == child.id()) {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("cannot wait for the platform")?;
    // It has said why.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED);
    Ok(ExitCode::from(if code == 0 { FAILED } else { code }))
}

/// Leaves the terminal of the caller, and ends with the caller until [`let_go`]. To be called
/// before this process has a second thread.
pub fn settle(caller: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the caller")?;
    // It may have ended before the line above.
    ensure!(getppid() == Pid::from_raw(caller), "the caller has ended");
    setsid().context("cannot leave the terminal")?;
    Ok(())
}

/// Lets the caller end: from now on this serves.
pub fn let_go() -> anyhow::Result<()> {
    set_parent_process_death_signal(None).context("cannot leave the caller")?;
    // A folder that a shell stood in can be unmounted.
    std::env::set_current_dir("/").context("cannot leave the folder of the caller")?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.context("cannot open `/dev/null`")?;
    // SAFETY: both numbers are open, and the second is the one of standard output, of which this
    // process takes no ownership anywhere.
    let done = unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) };
    ensure!(done >= 0, "cannot let go of the caller's output: {}", std::io::Error::last_os_error());
    Ok(())
}
