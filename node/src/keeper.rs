//! `margay run -d` and `margay start`: the same supervision in a process of its own, which stays when the caller has
//! gone.
//!
//! The caller starts its own binary as `margay keeper`, gives it the request through standard input
//! (values of variables never stand in a file or among arguments), and hears on its standard output
//! whether the task started.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, chain},
    home::Home,
    local::{run_with, start_with},
    request::{Note, RunRequest, Started},
    tasks::{self, TaskFolder},
};

/// What a keeper is to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Job {
    Run(Box<RunRequest>),
    /// The task of this id, which was created or has ended.
    Start(String),
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
    hand_over(home, &Job::Run(Box::new(request.clone())), watch)
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
    hand_over(home, &Job::Start(task.record().id.clone()), watch)
}

fn hand_over(home: &Home, job: &Job, mut watch: impl FnMut(Note)) -> Result<Started> {
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
    for line in BufReader::new(output).lines() {
        let line = line.map_err(system("hear the keeper"))?;
        match serde_json::from_str(&line) {
            Ok(Word::Note(Note::Started(started))) => return Ok(started),
            Ok(Word::Note(note)) => watch(note),
            Ok(Word::Failed { message, hint, exit_code }) => {
                let _ = child.wait();
                return Err(Error::Kept { message, hint, exit_code });
            }
            Err(error) => return Err(system("understand the keeper")(error.into())),
        }
    }
    let _ = child.wait();
    let message = "the task's keeper went away before the task ran".to_owned();
    Err(Error::Kept { message, hint: None, exit_code: Error::OURS })
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
    let stdio = engine::Stdio::default();
    let outcome = match job {
        Job::Run(request) => run_with(home, *request, stdio, tell),
        Job::Start(id) => {
            tasks::find(home, &id).and_then(|task| start_with(home, task, stdio, tell))
        }
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
