use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use packager::{Built, Warning, WarningKind, Watched};
use rustix::process::{Pid, Signal, kill_process};
use spec::Digest;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::{
    failure,
    home::Home,
    images,
    output::{Paint, duration, notice, printable},
    serve::{ShutdownSignal, block_on},
    watch::Watch,
};

/// Build and run a folder, and again whenever one of its files changes
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "margay dev [OPTIONS] [DIR] [-- RUN-OPTIONS]",
    after_help = "Builds as `margay build` does, with the build command of margay.toml, and runs the image. A build that
fails is shown, and the version before keeps running. What the build command makes, hidden files, `target`,
`node_modules`, and without a build command what .dockerignore names, start no build. Ctrl-C ends it.

Examples:
  margay dev                                    serves this folder on http://localhost:8080
  margay dev hello -p 3000                      another folder, another port
  margay dev -- -e LOG=debug -v book:/data      what follows -- are options of `margay run`"
)]
pub struct Args {
    /// Where an app that answers HTTP is published
    #[arg(short, long, value_name = "[ADDRESS:]PORT[:PORT]", default_value = "8080")]
    publish: String,
    /// The build file [default: margay.toml, Dockerfile in the folder]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Options of `margay run`
    #[arg(last = true, value_name = "RUN-OPTIONS")]
    run: Vec<String>,
}

/// A task that gets longer to end is killed: the next version waits for its port.
const STOP_SECONDS: u32 = 3;
/// `margay run` ends after the task's own time to stop; beyond this it hangs.
const END_TIME_MAX: Duration = Duration::from_secs(10);

impl Args {
    /// Runs until Ctrl-C or SIGTERM.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        block_on(async {
            let mut shutdown = ShutdownSignal::listen()?;
            let mut hangup = signal(SignalKind::hangup())?;
            let mut running = Running { task: None, image: String::new(), args: &self, home };
            let done = tokio::select! {
                () = shutdown.recv() => Ok(()),
                _ = hangup.recv() => Ok(()),
                done = self.follow(&mut running) => done,
            };
            running.stop().await;
            done
        })
    }

    /// Builds and runs, for each change. Ends with an error only when the folder cannot be watched.
    async fn follow(&self, running: &mut Running<'_>) -> anyhow::Result<()> {
        let mut watch = Watch::start(&self.folder, self.ignored()?)?;
        let mut products = Products::default();
        let mut changes = vec![];
        loop {
            let built = self.build(running.home).await;
            // Before the new version runs: what changes from now on, no build changed.
            let mut during = watch.pending().await?;
            // A temporary file of a compiler has another name each time.
            during.retain(|path| self.folder.join(path).exists());
            let image = built.as_ref().ok().map(|built| built.descriptor.digest);
            let saved = products.built(&changes, during, image);
            match built {
                Ok(built) => running.replace(&built).await,
                Err(error) => {
                    failure::report(&error);
                    running.tell_kept();
                }
            }
            changes = match saved.is_empty() {
                false => saved,
                true => loop {
                    tokio::select! {
                        changes = watch.changes() => break changes?,
                        () = running.ended() => {}
                    }
                },
            };
            if changes.iter().any(|change| change.ends_with("margay.toml")) {
                watch.ignore(self.ignored()?)?;
            }
            let more = match changes.len() {
                1 => String::new(),
                more => format!(" and {} more", more - 1),
            };
            notice(format_args!("Changed: {}{more}", printable(&changes[0])));
        }
    }

    fn ignored(&self) -> anyhow::Result<impl Fn(&str) -> bool + use<>> {
        let watched = Watched::of(&self.folder, self.file.as_deref())?;
        Ok(move |path: &str| watched.ignores(path))
    }

    async fn build(&self, home: &Home) -> anyhow::Result<Built> {
        let layout = images::layout(home)?;
        let (folder, file) = (self.folder.clone(), self.file.clone());
        let source_date = super::build::source_date()?;
        let build = move || {
            packager::build(&packager::Build {
                file: file.as_deref(),
                source_date,
                ..packager::Build::of(&folder, &layout)
            })
        };
        let built = tokio::task::spawn_blocking(build).await.context("the build broke off")??;
        let is_news = |warning: &&Warning| !matches!(warning.kind, WarningKind::NameTaken { .. });
        for warning in built.warnings.iter().filter(is_news) {
            notice(format_args!(
                "{} {}",
                Paint::on_stderr().warn("note:"),
                printable(&warning.to_string())
            ));
        }
        notice(format_args!("Built in {}.", duration(built.took)));
        Ok(built)
    }
}

/// Files that a build command writes each time, though no key of margay.toml names them: they would
/// begin one build after the other.
#[derive(Debug, Default)]
struct Products {
    /// What changed while the last build ran, and the image that it made.
    last: (HashSet<String>, Option<Digest>),
    known: HashSet<String>,
}

impl Products {
    /// Which of the files that changed `during` a build, which `causes` began, ask for another one.
    /// Those do not that changed during two builds in a row, when the first alone was the cause of
    /// the second, and both made the same `image`.
    fn built(
        &mut self,
        causes: &[String],
        during: Vec<String>,
        image: Option<Digest>,
    ) -> Vec<String> {
        let (before, image_before) = &self.last;
        if image == *image_before && causes.iter().all(|cause| before.contains(cause)) {
            self.known.extend(during.iter().filter(|path| before.contains(*path)).cloned());
        }
        self.last = (during.iter().cloned().collect(), image);
        during.into_iter().filter(|path| !self.known.contains(path)).collect()
    }
}

/// The version that runs, as a process of `margay run`.
struct Running<'a> {
    task: Option<Child>,
    /// The digest of the last version that was started.
    image: String,
    args: &'a Args,
    home: &'a Home,
}

impl Running<'_> {
    /// Puts another version in the place of the one that runs, once it is known to start.
    async fn replace(&mut self, built: &Built) {
        let image = built.descriptor.digest.to_string();
        let is_http = self.is_http(built);
        if self.task.is_some() && self.image == image {
            return notice(format_args!("The image is the same; waiting for a change."));
        }
        // A name can be given once.
        let is_named = self.args.run.iter().any(|option| option.starts_with("--name"));
        if self.task.is_some()
            && is_http
            && !is_named
            && let Err(error) = self.try_start(&image).await
        {
            failure::report(&error);
            return self.tell_kept();
        }
        self.stop().await;
        let mut run = self.margay();
        run.args(["run", "--rm", "--stop-timeout", &STOP_SECONDS.to_string()]);
        if is_http {
            run.args(["--publish", &published(&self.args.publish)]);
        }
        match run.args(&self.args.run).arg(&image).spawn() {
            Ok(task) => (self.task, self.image) = (Some(task), image),
            Err(error) => failure::report(&anyhow::Error::new(error).context("cannot run margay")),
        }
    }

    /// A program that a base image brings has no facts: it is published, as a server is.
    fn is_http(&self, built: &Built) -> bool {
        built.facts.as_ref().is_none_or(|facts| facts.world == image::World::Http)
    }

    /// Starts a version on a port of its own and removes it: machine code is made while the version
    /// before still serves, and one that cannot start never replaces it.
    async fn try_start(&self, image: &str) -> anyhow::Result<()> {
        let mut run = self.margay();
        run.args(["run", "--detach", "--publish", "127.0.0.1:0:80"]);
        run.args(&self.args.run).arg(image).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = run.output().await.context("cannot run margay")?;
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !id.is_empty() {
            let mut remove = self.margay();
            remove.args(["rm", "--force", &id]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = remove.status().await;
        }
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            anyhow::bail!("{}", text.strip_prefix("error: ").unwrap_or(&text));
        }
        Ok(())
    }

    fn tell_kept(&self) {
        let next = match self.task {
            Some(_) => "The version before keeps running; waiting for a change.",
            None => "Waiting for a change.",
        };
        notice(format_args!("{next}"));
    }

    /// Waits until the version that runs ends by itself, for ever when there is none.
    async fn ended(&mut self) {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let status = task.wait().await;
        self.task = None;
        let code = status.ok().and_then(|status| status.code()).unwrap_or_default();
        notice(format_args!("Ended with code {code}; waiting for a change."));
    }

    async fn stop(&mut self) {
        let Some(mut task) = self.task.take() else { return };
        let pid = task.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        if tokio::time::timeout(END_TIME_MAX, task.wait()).await.is_err() {
            let _ = task.kill().await;
        }
    }

    fn margay(&self) -> Command {
        let own = std::env::current_exe().unwrap_or_else(|_| Path::new("margay").to_owned());
        let mut command = Command::new(own);
        command.arg("--home").arg(self.home.path()).stdin(Stdio::null());
        // Ctrl-C of a terminal is for this process, which ends the task.
        command.process_group(0);
        command
    }
}

/// `8080` as `margay run -p` takes it: port 80 of the task is the usual one.
fn published(text: &str) -> String {
    match text.parse::<u16>() {
        Ok(port) => format!("{port}:80"),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_every_build_writes_begins_none() {
        let (one, two) = (Some(Digest::of(b"1")), Some(Digest::of(b"2")));
        let mut products = Products::default();
        // The first build writes a lock file and an object, which begin a second one.
        let saved = products.built(&[], names("Cargo.lock app.o"), one);
        assert_eq!(saved, names("Cargo.lock app.o"));
        // It writes the object again: that is a product.
        assert_eq!(products.built(&saved, names("app.o"), one), names(""));
        // Files that are saved while builds run are none.
        assert_eq!(products.built(&names("main.c"), names("app.o main.c"), two), names("main.c"));
        assert_eq!(products.built(&names("main.c"), names("app.o main.c"), one), names("main.c"));
    }

    #[test]
    fn a_bare_port_leads_to_port_80() {
        for (text, want) in [("3000", "3000:80"), ("127.0.0.1:0", "127.0.0.1:0"), ("1:2", "1:2")] {
            assert_eq!(published(text), want);
        }
    }
}
