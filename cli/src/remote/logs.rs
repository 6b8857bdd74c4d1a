use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::bail;
use net::FrameStream;
use orchestrator::{Client, Error};
use spec::{
    ClusterName, ContainerName, Frame, LogQuery, LogSource, NodeId, ServiceName, StreamEnd, Task,
    TaskId, Timestamp, wire::Fault,
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{Found, broken, find::copies, no_word};
use crate::output::{notice, now, printable};

/// Lines that wait to be printed. A task that writes faster waits.
const LINES_MAX: usize = 100;
/// How often a followed service is asked for new copies.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Streams of one command: less than a tenant may have.
const STREAMS_MAX: usize = 48;

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    pub timestamps: bool,
    /// Whether each line has its task in front, also where there is one.
    pub labels: bool,
    pub format: Format,
}

/// What is printed of a line.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// The line.
    Lines,
    /// What this makes of a request; the line where that is nothing.
    Request(fn(&[u8]) -> Option<String>),
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The log of one container: nothing where the task has one that is not known yet.
    Container { task: TaskId, container: Option<ContainerName> },
    /// The requests for a service that the ingress of a node has taken.
    Ingress { cluster: ClusterName, service: ServiceName, node: NodeId },
}

impl Source {
    fn label(&self) -> String {
        match self {
            Self::Container { task, container: Some(container) } => format!("{task}.{container}"),
            Self::Container { task, container: None } => task.to_string(),
            Self::Ingress { node, .. } => format!("the ingress of node {node}"),
        }
    }

    async fn open(&self, client: &Client, query: &LogQuery) -> Result<FrameStream, Error> {
        match self {
            Self::Container { task, container } => {
                client.logs(task, container.as_ref(), query).await
            }
            Self::Ingress { cluster, service, node } => {
                client.access_log((cluster, service), node, query).await
            }
        }
    }
}

struct Line {
    time: Timestamp,
    source: LogSource,
    partial: bool,
    text: Vec<u8>,
}

/// What comes of one container.
enum News {
    Line(Line),
    /// It could not be read, or not to its end.
    Failed(anyhow::Error),
}

/// Prints what the containers of a task wrote, or those of all copies of a service.
///
/// # Errors
/// When none can be read.
pub async fn show(
    client: &Client,
    found: Found,
    query: &LogQuery,
    shown: Shown,
) -> anyhow::Result<()> {
    let (sources, service) = match found {
        Found::Task(task, None) => (sources(&task), None),
        Found::Task(task, container) => {
            (vec![Source::Container { task: task.id, container }], None)
        }
        Found::Service(service) => {
            let (cluster, name) = (service.cluster, service.name);
            let tasks = copies(client, &cluster, &name).await?;
            (tasks.iter().flat_map(sources).collect(), Some((cluster, name)))
        }
    };
    let shown = Shown { labels: shown.labels || service.is_some() || sources.len() > 1, ..shown };
    match query.follow {
        true => follow(client, sources, service, query, shown).await,
        false => merge(client, sources, query, shown).await,
    }
}

/// Prints what is to be read of `sources`.
///
/// # Errors
/// When none can be read.
pub(super) async fn show_all(
    client: &Client,
    sources: Vec<Source>,
    query: &LogQuery,
    shown: Shown,
) -> anyhow::Result<()> {
    match query.follow {
        true => follow(client, sources, None, query, shown).await,
        false => merge(client, sources, query, shown).await,
    }
}

fn sources(task: &Task) -> Vec<Source> {
    let of = |container| Source::Container { task: task.id.clone(), container };
    match task.status.containers.is_empty() {
        true => vec![of(None)],
        false => task.status.containers.iter().map(|one| of(Some(one.name.clone()))).collect(),
    }
}

/// Every log to its end, in the order of time.
async fn merge(
    client: &Client,
    sources: Vec<Source>,
    query: &LogQuery,
    shown: Shown,
) -> anyhow::Result<()> {
    let (mut failed, mut read) = (None, 0);
    for sources in sources.chunks(STREAMS_MAX) {
        let mut streams = JoinSet::new();
        let mut lines: Vec<(String, mpsc::Receiver<News>)> = Vec::new();
        for source in sources {
            let (sender, receiver) = mpsc::channel(LINES_MAX);
            lines.push((source.label(), receiver));
            streams.spawn(one(client.clone(), source.clone(), query.clone(), sender));
        }
        let mut heads: BTreeMap<usize, Line> = BTreeMap::new();
        let mut open: BTreeSet<usize> = (0..lines.len()).collect();
        loop {
            for at in open.clone() {
                if heads.contains_key(&at) {
                    continue;
                }
                match lines[at].1.recv().await {
                    Some(News::Line(line)) => drop(heads.insert(at, line)),
                    Some(News::Failed(error)) => fail(&mut failed, &lines[at].0, error),
                    None => {
                        read += usize::from(open.remove(&at));
                    }
                }
            }
            if heads.len() < open.len() {
                continue;
            }
            let Some(at) = heads.iter().min_by_key(|(_, line)| line.time).map(|(at, _)| *at) else {
                break;
            };
            let line = heads.remove(&at).expect("it was found there");
            if !print(&lines[at].0, &line, shown)? {
                return Ok(());
            }
        }
    }
    // One of several that could not be read was told; the only one is the verb's failure.
    match failed {
        Some(error) if read <= 1 => Err(error),
        _ => Ok(()),
    }
}

fn fail(failed: &mut Option<anyhow::Error>, label: &str, error: anyhow::Error) {
    if let Some(earlier) = failed.replace(error.context(label.to_owned())) {
        crate::failure::report(&earlier);
    }
}

/// Every log as it is written, also of copies that are made meanwhile.
async fn follow(
    client: &Client,
    first: Vec<Source>,
    service: Option<(ClusterName, ServiceName)>,
    query: &LogQuery,
    shown: Shown,
) -> anyhow::Result<()> {
    let (sender, mut news) = mpsc::channel::<(String, News)>(LINES_MAX);
    let mut known: BTreeSet<Source> = BTreeSet::new();
    let mut streams = JoinSet::new();
    let mut fresh = first;
    let mut failed = None;
    loop {
        for source in std::mem::take(&mut fresh) {
            if known.contains(&source) || streams.len() >= STREAMS_MAX {
                continue;
            }
            known.insert(source.clone());
            let (client, query, sender) = (client.clone(), query.clone(), sender.clone());
            streams.spawn(labelled(client, source, query, sender));
        }
        tokio::select! {
            biased;
            Some((label, news)) = news.recv() => match news {
                News::Line(line) => if !print(&label, &line, shown)? { return Ok(()) },
                News::Failed(error) if service.is_some() => {
                    crate::failure::report(&error.context(label));
                }
                News::Failed(error) => fail(&mut failed, &label, error),
            },
            Some(_) = streams.join_next() => {
                if streams.is_empty() && service.is_none() {
                    while let Ok((label, News::Line(line))) = news.try_recv() {
                        print(&label, &line, shown)?;
                    }
                    return failed.map_or(Ok(()), Err);
                }
            }
            () = sleep(LOOK_EVERY), if service.is_some() => {
                if query.until.is_some_and(|until| now() > until) {
                    return Ok(());
                }
                let (cluster, name) = service.as_ref().expect("it is one");
                client.service(cluster, name).await?;
                let tasks = copies(client, cluster, name).await?;
                let begun = tasks.iter().filter(|task| !task.status.containers.is_empty());
                fresh = begun.flat_map(sources).collect();
            }
        }
    }
}

async fn labelled(
    client: Client,
    source: Source,
    query: LogQuery,
    sender: mpsc::Sender<(String, News)>,
) {
    let label = source.label();
    let (own, mut lines) = mpsc::channel(1);
    let pass = async {
        while let Some(news) = lines.recv().await {
            if sender.send((label.clone(), news)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(one(client, source, query, own), pass);
}

/// Reads one log to its end.
async fn one(client: Client, source: Source, query: LogQuery, sender: mpsc::Sender<News>) {
    let read = async {
        let mut stream = source.open(&client, &query).await?;
        loop {
            match stream.next().await {
                Ok(Some(Frame::Log { time, source, partial, text })) => {
                    let line = Line { time, source, partial, text };
                    if sender.send(News::Line(line)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(Some(Frame::End(end))) => return ended(&end),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => bail!(no_word()),
            }
        }
    };
    if let Err(error) = read.await {
        let _ = sender.send(News::Failed(error)).await;
    }
}

fn ended(end: &StreamEnd) -> anyhow::Result<()> {
    match broken(end) {
        Some(fault) => bail!(Fault::clone(fault)),
        None => Ok(()),
    }
}

/// False when our reader is gone.
fn print(label: &str, line: &Line, shown: Shown) -> anyhow::Result<bool> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let (mut out, terminal): (Box<dyn io::Write>, bool) = match line.source {
        LogSource::Stdout => (Box::new(stdout.lock()), stdout.is_terminal()),
        LogSource::Stderr => (Box::new(stderr.lock()), stderr.is_terminal()),
    };
    let mut bytes = Vec::new();
    if shown.labels {
        write!(bytes, "{label} | ")?;
    }
    if shown.timestamps {
        write!(bytes, "{} ", line.time)?;
    }
    let words = match shown.format {
        Format::Lines => None,
        Format::Request(words) => words(&line.text),
    };
    let text = words.as_ref().map_or(&line.text[..], |words| words.as_bytes());
    match terminal {
        // A guest's bytes must not move our cursor.
        true => bytes.extend_from_slice(printable(&String::from_utf8_lossy(text)).as_bytes()),
        false => bytes.extend_from_slice(text),
    }
    if shown.labels || !line.partial {
        bytes.push(b'\n');
    }
    match out.write_all(&bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            notice(format_args!("cannot write the log"));
            Err(error.into())
        }
        Ok(()) => Ok(true),
    }
}
