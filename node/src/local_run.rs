use std::{cell::RefCell, sync::Arc, time::Duration};

use disk::Lock;
use engine::{Container, Ended, Listeners, Stdio};
use spec::Usage;
use tokio::time::{Instant, sleep};

use crate::{
    control::Hub,
    drive::{End, Supervisor},
    error::{Error, Result, chain},
    health::Monitor,
    home::Home,
    launch::Launch,
    lifecycle::{Lifecycle, StartFailed, State},
    ports,
    request::{Note, Started},
    signals::TERM,
    tasks::{Health, Kind, Owned, Phase, ProcessId, Status, now, tell},
};

/// A start waits for a copy out of the container's files, or into them; one that takes longer fails
/// it, and a restart policy tries again.
const COPY_TIME_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether that is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What `margay run` and its keeper start a container for.
pub(crate) struct LocalRun<'a, W> {
    home: &'a Home,
    launch: &'a Launch,
    owned: &'a Owned,
    stdio: Stdio,
    /// Where its streams are those of a task in the background.
    pub hub: Option<Arc<Hub>>,
    spare: Option<runtime::SpareWorker>,
    pub broker: runtime::Broker,
    listeners: Listeners,
    pub status: Status,
    watch: &'a RefCell<W>,
    /// From before a start until the program runs.
    files: Option<Lock>,
    /// What its earlier starts have used, where counters begin at each.
    used: Usage,
    /// A `restart` has asked for the next start.
    restarting: bool,
    /// Whether its program ran.
    pub ran: bool,
    /// Why it never ran.
    pub failed: Option<Error>,
}

impl<'a, W: FnMut(Note)> LocalRun<'a, W> {
    pub fn new(
        home: &'a Home,
        launch: &'a Launch,
        owned: &'a Owned,
        (stdio, spare): (Stdio, Option<runtime::SpareWorker>),
        status: Status,
        watch: &'a RefCell<W>,
    ) -> Self {
        // The counters of a Wasm container go on in its folder.
        let used = match launch.kind {
            Kind::Native => status.usage.unwrap_or_default(),
            Kind::Wasm => Usage::default(),
        };
        Self {
            home,
            launch,
            owned,
            stdio,
            hub: None,
            spare,
            broker: runtime::Broker::default(),
            listeners: Listeners::default(),
            status,
            watch,
            files: None,
            used,
            restarting: false,
            ran: false,
            failed: None,
        }
    }

    fn tell(&self, note: Note) {
        (self.watch.borrow_mut())(note);
    }

    fn write_status(&self) {
        if let Err(error) = self.owned.write_status(&self.status) {
            tracing::warn!(error = chain(&error), "a status could not be written");
        }
    }

    /// The ports that were to be published and are not.
    fn unserved(&self) -> Vec<u16> {
        let open = self.launch.published_ports();
        let asked = self.launch.container.ports.iter().filter(|port| !open.contains(port));
        asked.map(|port| port.container_port).collect()
    }

    /// The ports on which it answers, when none is published.
    fn unpublished(&self) -> Vec<u16> {
        match self.launch.container.ports.is_empty() {
            true => self.launch.served_ports(),
            false => Vec::new(),
        }
    }
}

impl<W: FnMut(Note)> Supervisor for LocalRun<'_, W> {
    /// A copy may be at its files.
    async fn prepare(&mut self) -> Result<()> {
        let deadline = Instant::now() + COPY_TIME_MAX;
        while self.files.is_none() {
            self.files = self.owned.folder().try_hold_files()?;
            if self.files.is_none() {
                if Instant::now() >= deadline {
                    return Err(Error::Copied(self.owned.record().name.clone()));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn spawn(&mut self) -> Result<Box<dyn Container>> {
        // They stay open from one start to the next, and clients wait in them.
        if self.listeners.is_empty() {
            self.listeners = ports::open(&self.launch.published_ports())
                .map_err(|error| ports::name_owner(self.home, error))?;
        }
        let copy = |source| Error::System { verb: "copy a stream", source };
        let stdio = match &self.hub {
            Some(hub) => hub.open().await.map_err(copy)?,
            None => self.stdio.try_clone().map_err(copy)?,
        };
        let (folder, spare) = (self.owned.folder(), self.spare.take());
        self.launch.start(self.home, folder, &self.listeners, stdio, &self.broker, spare).await
    }

    fn spawned(&mut self, container: &dyn Container) -> Result<()> {
        self.status.process = ProcessId::of(i32::try_from(container.pid()).unwrap_or(0));
        self.status.ports = ports::published(&self.listeners);
        self.status.usage = Some(self.used);
        self.owned.write_status(&self.status)
    }

    fn started(&mut self) {
        self.status.phase = Phase::Running;
        self.status.started = Some(now());
        (self.status.ended, self.status.exit_code, self.status.reason) = (None, None, None);
        let before = self.status.health.take();
        let check = self.owned.record().health_check.as_ref();
        self.status.health = check.map(|_| Health::at_start(before));
        self.write_status();
        // After the start, which is told with the status.
        if std::mem::take(&mut self.restarting) {
            tell(self.owned.folder().path(), self.owned.record(), "restart", |event| event);
        }
        self.files = None;
        if std::mem::replace(&mut self.ran, true) {
            return;
        }
        self.tell(Note::Started(Started {
            id: self.owned.record().id.clone(),
            name: self.owned.record().name.clone(),
            ports: self.status.ports.clone(),
            granted: self.launch.resolved.capabilities.lines(),
            cut: self.launch.resolved.cut.clone(),
            denied: self.launch.resolved.denied.clone(),
            unpublished: self.unpublished(),
            unserved: self.unserved(),
        }));
    }

    fn signalling(&mut self, signal: Option<i32>) {
        let signal = signal.or(self.launch.stop_signal()).unwrap_or(TERM);
        let record = self.owned.record();
        tell(self.owned.folder().path(), record, "kill", |event| event.with("signal", signal));
    }

    fn restarting(&mut self) {
        self.restarting = true;
    }

    fn monitor(&self) -> Option<Monitor> {
        Monitor::of(self.home, self.owned.folder(), &self.status)
    }

    fn probed(&mut self, health: Health) {
        if let Err(error) = self.owned.write_health(&mut self.status, health) {
            tracing::warn!(error = chain(&error), "a status could not be written");
        }
    }

    fn denied(&mut self, line: String, count: u64) {
        self.tell(Note::Denied { line, count });
    }

    fn start_failed(&mut self, error: Error) -> (StartFailed, End) {
        self.files = None;
        let (exit_code, reason) = (Some(error.exit_code().into()), Some(chain(&error)));
        if !self.ran {
            self.failed = Some(error);
        }
        (StartFailed::Here, End { exit_code, reason, ..End::default() })
    }

    async fn ended(&mut self, ended: &Ended) {
        self.files = None;
        self.status.health = self.status.health.take().map(Health::at_end);
        if let Some(usage) = ended.usage {
            self.used = self.used.plus(usage);
        }
        if let Some(hub) = &self.hub {
            hub.drained().await;
        }
    }

    fn entered(&mut self, lifecycle: &Lifecycle, end: &End) {
        match lifecycle.state {
            State::Stopping { .. } => self.tell(Note::Stopping),
            State::BackOff { .. } => {
                self.status.phase = Phase::BackOff;
                self.status.process = None;
                self.status.restarts = lifecycle.restarts;
                self.status.ended = Some(now());
                self.status.exit_code = end.exit_code;
                self.status.reason.clone_from(&end.reason);
                self.status.usage = Some(self.used);
                self.write_status();
            }
            State::Exited => self.status.usage = Some(self.used),
            // Of a restart, not of a pause that is over.
            State::Starting if self.status.phase == Phase::Running => {
                self.status.phase = Phase::Starting;
                self.status.process = None;
                self.status.ended = Some(now());
                self.status.exit_code = end.exit_code;
                self.status.reason.clone_from(&end.reason);
                self.status.usage = Some(self.used);
                self.write_status();
                let (folder, record) = (self.owned.folder(), self.owned.record());
                tell(folder.path(), record, "stop", |event| event);
            }
            State::Starting | State::Running { .. } | State::Killed { .. } | State::Idle => {}
        }
    }

    fn grace(&self, grace: Duration) -> Duration {
        self.launch.grace(grace)
    }
}
