use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use disk::Lock;
use rustix::process::{Pid, Signal, kill_process};

use crate::{failure::Advice, home::Home, output::notice, platform::record::Record};

/// Between two looks at whether it has ended.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// End the platform that `margay up` runs in this home, as Ctrl-C does
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Its tasks end with it, unless it was started with --leave. What it keeps stays
in MARGAY_HOME."
)]
pub struct Args {
    /// Wait no longer than this for its end
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = spec::parse_duration)]
    timeout: Duration,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let (path, name) = (home.folder("run")?.join("up.lock"), home.path().display());
        let is_free = || {
            let lock = Lock::try_exclusive(&path);
            lock.map(|lock| lock.is_some())
                .with_context(|| format!("cannot lock `{}`", path.display()))
        };
        if is_free()? {
            notice(format_args!("Nothing runs in `{name}`"));
            return Ok(());
        }
        let Some(record) = Record::read(home)? else {
            bail!(Advice::new(format!("margay is starting in `{name}`")).hint("try again"));
        };
        let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("`{}` is no process", record.pid))?;
        kill_process(pid, Signal::INT)
            .with_context(|| format!("cannot signal process {} of `{name}`", record.pid))?;
        let began = Instant::now();
        while !is_free()? {
            if began.elapsed() >= self.timeout {
                bail!(
                    Advice::new(format!("process {} of `{name}` has not ended yet", record.pid))
                        .hint("its tasks may take long to end: try again, and it is told to hurry")
                );
            }
            std::thread::sleep(POLL_EVERY);
        }
        Ok(())
    }
}
