use anyhow::Context as _;
use node::tasks::{self, State, TaskFolder};
use serde::Serialize;
use spec::{Capabilities, Digest, ImageConfig, PublishedPort, Timestamp, Usage, Want};

use crate::{
    home::Home,
    images::{self, Fetch, SelectedImage},
    output::{ago, duration, json, now},
    program::{self, Program},
    transfer::Remote,
};

/// Show everything about tasks or images, as JSON: what an image wants, what a task was granted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of tasks, or images as `margay run` takes them
    #[arg(required = true, value_name = "TASK|IMAGE")]
    things: Vec<String>,
}

/// What `ps` and `inspect` say about a task.
#[derive(Serialize)]
pub struct Summary {
    /// The name of its folder.
    pub id: String,
    pub name: String,
    pub image: String,
    pub digest: Digest,
    pub command: Vec<String>,
    pub created: Timestamp,
    /// In words, as Docker has them.
    pub status: String,
    /// The guest's code once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub ports: Vec<PublishedPort>,
}

#[derive(Serialize)]
struct TaskView {
    #[serde(flatten)]
    summary: Summary,
    state: &'static str,
    task: tasks::TaskRecord,
    seen: Option<tasks::Status>,
    grants: Capabilities,
    usage: Usage,
}

#[derive(Serialize)]
struct ImageView {
    reference: String,
    digest: Digest,
    /// Of the manifest that this machine would run.
    manifest: Digest,
    format: String,
    platform: String,
    /// What it asks for, one capability line each.
    wants: Vec<Want>,
    args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<Program>,
    layers: Vec<Layer>,
    size: u64,
    config: ImageConfig,
}

#[derive(Serialize)]
struct Layer {
    digest: Digest,
    size: u64,
    media_type: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum View {
    Task(Box<TaskView>),
    Image(Box<ImageView>),
}

impl Args {
    /// Prints a list with one entry for each thing.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let mut views = Vec::new();
        let result = super::each(&self.things, |thing| {
            views.push(view(home, thing)?);
            Ok(())
        });
        if !views.is_empty() {
            json(&views)?;
        }
        result
    }
}

/// A task if there is one of that name, else an image.
fn view(home: &Home, thing: &str) -> anyhow::Result<View> {
    match tasks::find(home.node(), thing) {
        Ok(folder) => Ok(View::Task(Box::new(task_view(&folder)?))),
        Err(node::Error::NoSuchTask(_)) => {
            let found = images::find(home, thing, Fetch::Never, &Remote::default());
            let found = found.with_context(|| format!("no task is called `{thing}`"))?;
            Ok(View::Image(Box::new(image_view(&found)?)))
        }
        Err(error) => Err(error.into()),
    }
}

fn task_view(folder: &TaskFolder) -> anyhow::Result<TaskView> {
    let state = folder.state()?;
    Ok(TaskView {
        summary: Summary::of(folder, state)?,
        state: state.word(),
        task: folder.record().clone(),
        seen: folder.status()?,
        grants: folder.record().grants.clone(),
        usage: node::task_usage(folder)?,
    })
}

fn image_view(found: &SelectedImage) -> anyhow::Result<ImageView> {
    let manifest = found.layout.choose(&found.descriptor, &packager::host_platforms())?;
    let plan = found.layout.plan(&manifest)?;
    let layers = plan.layers.iter().map(|layer| Layer {
        digest: layer.descriptor.digest,
        size: layer.descriptor.size,
        media_type: layer.descriptor.media_type.to_string(),
    });
    Ok(ImageView {
        reference: found.image.name.clone(),
        digest: found.descriptor.digest,
        manifest: manifest.digest,
        format: format!("{:?}", plan.format),
        platform: format!("{}/{}", plan.platform.os, plan.platform.architecture),
        layers: layers.collect(),
        size: plan.layers.iter().map(|layer| layer.descriptor.size).sum(),
        program: program::of(&found.layout, &plan)?,
        wants: plan.wants,
        args: plan.args,
        config: plan.config,
    })
}

impl Summary {
    pub fn of(folder: &TaskFolder, state: State) -> anyhow::Result<Self> {
        let (record, seen) = (folder.record(), folder.status()?);
        let seen = seen.as_ref();
        Ok(Self {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.image.clone(),
            digest: record.digest,
            command: record.command.clone(),
            created: record.created,
            status: in_words(state, seen),
            exit_code: seen.and_then(|seen| seen.exit_code),
            reason: seen.and_then(|seen| seen.reason.clone()),
            ports: match seen {
                Some(seen) if state.is_alive() => seen.ports.clone(),
                _ => Vec::new(),
            },
        })
    }
}

fn in_words(state: State, seen: Option<&tasks::Status>) -> String {
    let (started, ended, restarts) =
        seen.map_or((None, None, 0), |seen| (seen.started, seen.ended, seen.restarts));
    let words = match state {
        State::Running | State::Unsupervised => {
            let time = started.map(|started| duration(now().since(started)));
            format!("Up {}", time.as_deref().unwrap_or("0 s"))
        }
        State::Exited(code) => {
            let time = ended.map(|ended| ago(ended, now()));
            format!("Exited ({code}) {}", time.as_deref().unwrap_or("just now"))
        }
        State::Created => "Created".to_owned(),
        State::Starting => "Starting".to_owned(),
        State::Idle => "Idle".to_owned(),
        State::BackOff => "Restarting".to_owned(),
        State::Lost => "Lost".to_owned(),
    };
    match restarts {
        0 => words,
        _ => format!("{words}, {restarts} restarts"),
    }
}
