//! `margay run -d` and `margay start`: the same supervision in a process of its own, which stays
//! when the caller has gone.
//!
//! The caller starts its own binary as `margay keeper`, gives it the request through standard input
//! (values of variables never stand in a file or among arguments), and hears on its standard output
//! whether the task started.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, chain},
    home::Home,
    local::{StreamsOf, run_with, start_with},
    request::{Note, RunRequest, Started},
    tasks::{self, TaskFolder},
};

/// What a keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Job {
    /// A new task. With `attach` its program starts when a terminal is there.
    Run { request: Box<RunRequest>, attach: bool },
    /// The task of this id, which was created or has ended.
    Start { id: String, attach: bool },
}

/// What a keeper reports to the process that started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Note(Note),
    Failed { message: String, hint: Option<String>, exit_code: u8 },
}

/// A request is some kilobytes, and its secrets a megabyte and a half at most.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// Starts a task that outlives this process. Returns when it runs. Our own binary's `keeper` verb
/// must call [`keep`].
///
/// # Errors
/// What the keeper says, when the task could not be started.
pub fn detach(home: &Home, request: &RunRequest, watch: impl FnMut(Note)) -> Result<Started> {
    let request = Box::new(request.clone());
    Keeper::spawn(home, &Job::Run { request, attach: false })?.started(watch)
}

/// Starts a task that was created, or has ended, and outlives this process. Returns when it runs.
///
/// # Errors
/// What the keeper says, when the task could not be started.
pub(crate) fn start_in_background(
    home: &Home,
    task: &TaskFolder,
    watch: impl FnMut(Note),
) -> Result<Started> {
    Keeper::spawn(home, &Job::Start { id: task.record().id.clone(), attach: false })?.started(watch)
}

/// The process of a keeper, until it has said that its task runs.
pub(crate) struct Keeper {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Keeper {
    /// For a new task whose program starts when a terminal is attached.
    pub fn run(home: &Home, request: &RunRequest) -> Result<Self> {
        Self::spawn(home, &Job::Run { request: Box::new(request.clone()), attach: true })
    }

    /// The same for a task that was created, or has ended.
    pub fn start(home: &Home, task: &TaskFolder) -> Result<Self> {
        Self::spawn(home, &Job::Start { id: task.record().id.clone(), attach: true })
    }

    fn spawn(home: &Home, job: &Job) -> Result<Self> {
        let system = |verb| move |source| Error::System { verb, source };
        let mut command = Command::new(crate::images::exe());
        command.arg("keeper").env("MARGAY_HOME", home.root()).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(system("start a keeper"))?;
        if let Some(mut input) = child.stdin.take() {
            let bytes = serde_json::to_vec(job).map_err(|e| system("write a request")(e.into()))?;
            input.write_all(&bytes).map_err(system("hand the keeper its job"))?;
        }
        let output = child
            .stdout
            .take()
            .ok_or_else(|| system("hear the keeper")(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// What it says next.
    pub fn next_note(&mut self) -> Result<Note> {
        let system = |verb| move |source| Error::System { verb, source };
        let mut line = String::new();
        let read = self.output.read_line(&mut line).map_err(system("hear the keeper"))?;
        if read == 0 {
            let _ = self.child.wait();
            let message = "the task's keeper went away before the task ran".to_owned();
            return Err(Error::Kept { message, hint: None, exit_code: Error::OURS });
        }
        match serde_json::from_str(&line) {
            Ok(Word::Note(note)) => Ok(note),
            Ok(Word::Failed { message, hint, exit_code }) => {
                let _ = self.child.wait();
                Err(Error::Kept { message, hint, exit_code })
            }
            Err(error) => Err(system("understand the keeper")(error.into())),
        }
    }

    fn started(mut self, mut watch: impl FnMut(Note)) -> Result<Started> {
        loop {
            match self.next_note()? {
                Note::Started(started) => return Ok(started),
                note => watch(note),
            }
        }
    }
}

/// The keeper: runs the task that standard input names to its end.
///
/// # Errors
/// When the request could not be read; what else goes wrong is told to the caller.
pub fn keep(home: &Home) -> Result<()> {
    let system = |verb| move |source: std::io::Error| Error::System { verb, source };
    // A session of its own: closing the caller's terminal is no reason to stop.
    let _ = rustix::process::setsid();
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(REQUEST_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(system("read the request"))?;
    let job: Job =
        serde_json::from_slice(&bytes).map_err(|e| system("read the request")(e.into()))?;
    let mut caller = Some(std::io::stdout());
    let mut say = |word: &Word| {
        let Some(stdout) = &mut caller else { return };
        let last = matches!(word, Word::Failed { .. } | Word::Note(Note::Started(_)));
        if let Ok(line) = serde_json::to_string(word) {
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
        if last {
            // The caller has heard what it waits for, and is about to close its end.
            caller = None;
        }
    };
    let tell = |note| say(&Word::Note(note));
    let outcome = match job {
        Job::Run { request, attach } => {
            run_with(home, *request, StreamsOf::Background { attach }, tell)
        }
        Job::Start { id, attach } => tasks::find(home, &id).and_then(|task| {
            start_with(home, task, |_| Ok(StreamsOf::Background { attach }), tell)
        }),
    };
    if let Err(error) = outcome {
        say(&Word::Failed {
            message: chain(&error),
            hint: error.hint(),
            exit_code: error.exit_code(),
        });
    }
    Ok(())
}
