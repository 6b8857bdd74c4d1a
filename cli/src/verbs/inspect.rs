use clap::ValueEnum;
use image::ProgramFacts;
use node::tasks::{self, TaskFolder};
use serde::Serialize;
use serde_json::{Map, Value};
use spec::{Capabilities, Digest, ImageConfig, Usage, VolumeName, Want};

use crate::{
    control::Control,
    failure::Advice,
    home::Home,
    images::{self, Fetch, SelectedImage},
    listing::{Lines, Single},
    output::json,
    program, remote,
    serve::block_on,
    transfer::Remote,
    views::{self, summary::Summary},
};

/// Show everything about tasks, images, volumes or services, as JSON: what an image wants, what a
/// task was granted
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A template sees the fields of the JSON, and Docker's beside them: .Id .Name
.Created .State.Status .State.Running .State.ExitCode .State.Pid .Image .Config.Env .Config.Image
.HostConfig.Memory .Mounts .NetworkSettings.Ports, and of images .Id .RepoTags .Size .Config.Cmd

Examples:
  margay inspect -f '{{.State.Status}}' web
  margay inspect -f '{{json .NetworkSettings.Ports}}' web"
)]
pub struct Args {
    /// Names or ids of tasks, images as `margay run` takes them, names of volumes, or names of
    /// services; what is not of this machine is looked for on its platform
    #[arg(required = true, value_name = "TASK|IMAGE|VOLUME|SERVICE")]
    pub things: Vec<String>,
    #[command(flatten)]
    pub form: Single,
    /// Say what the names mean
    #[arg(long = "type", value_enum, value_name = "KIND")]
    pub kind: Option<Kind>,
    /// Show the size of a task's files as well
    #[arg(short, long)]
    pub size: bool,
    #[command(flatten)]
    pub control: Control,
}

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A task.
    #[value(alias = "container")]
    Task,
    /// An image of this machine.
    Image,
    /// A named volume.
    Volume,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    writable_bytes: Option<u64>,
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
    /// How many requests one instance may answer, one after another.
    #[serde(skip_serializing_if = "Option::is_none")]
    reuse: Option<u32>,
    args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<ProgramFacts>,
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

/// Something with a name, in our words and in Docker's.
struct View {
    ours: Value,
    docker: Map<String, Value>,
}

impl View {
    fn of(ours: &impl Serialize, docker: Map<String, Value>) -> anyhow::Result<Self> {
        Ok(Self { ours: serde_json::to_value(ours)?, docker })
    }

    /// What a template sees: no name is the same in both, since ours are in lower case.
    fn both(self) -> Value {
        let ours = match self.ours {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        Value::Object(ours.into_iter().chain(self.docker).collect())
    }
}

impl Args {
    /// The same for one kind of thing alone.
    pub fn of(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// Prints a list with one entry for each thing, or each through the template.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let template = self.form.template()?;
        let mut found = Vec::new();
        let result = super::each(&self.things, |thing| {
            found.push(self.view(home, thing)?);
            Ok(())
        });
        match template {
            // Docker prints one list here, too.
            Some(lines) if lines.is_json() => {
                let all: Vec<Value> = found.into_iter().map(View::both).collect();
                Lines::print(&lines, &Value::Array(all))?;
            }
            Some(lines) => {
                for view in found {
                    lines.print(&view.both())?;
                }
            }
            None if found.is_empty() => {}
            None => json(&found.iter().map(|view| &view.ours).collect::<Vec<_>>())?,
        }
        result
    }

    /// A task if there is one of that name, else an image, else a volume.
    fn view(&self, home: &Home, thing: &str) -> anyhow::Result<View> {
        match self.kind {
            Some(Kind::Task) => self.task_view(home, &tasks::find(home.node(), thing)?),
            Some(Kind::Image) => image_of(home, thing),
            Some(Kind::Volume) => volume_view(home, thing),
            None => match tasks::find(home.node(), thing) {
                Ok(folder) => self.task_view(home, &folder),
                Err(node::Error::NoSuchTask(_)) => match image_of(home, thing) {
                    Err(_) if node::volumes::find(home.node(), thing).is_ok() => {
                        volume_view(home, thing)
                    }
                    Err(error) => match self.elsewhere(home, thing)? {
                        Some(view) => Ok(view),
                        None => Err(nothing_called(thing, error)),
                    },
                    found => found,
                },
                Err(error) => Err(error.into()),
            },
        }
    }

    /// A task or a service of the platform, if there is one.
    fn elsewhere(&self, home: &Home, thing: &str) -> anyhow::Result<Option<View>> {
        let Ok(Some(client)) = self.control.reachable(home) else { return Ok(None) };
        let found = block_on(remote::found(&client, thing, None));
        let ours = match found {
            Ok(remote::Found::Task(task, _)) => serde_json::to_value(task)?,
            Ok(remote::Found::Service(service)) => serde_json::to_value(service)?,
            Err(_) => return Ok(None),
        };
        View::of(&ours, Map::new()).map(Some)
    }

    fn task_view(&self, home: &Home, folder: &TaskFolder) -> anyhow::Result<View> {
        let (state, seen) = (folder.state()?, folder.status()?);
        let digest = folder.record().digest;
        let layout = images::layout(home)?;
        let image = layout.list()?.into_iter().find(|local| local.descriptor.digest == digest);
        let config = image.as_ref().and_then(|i| views::image::config(&layout, &i.descriptor));
        let sizes = self.size.then(|| {
            let writable = node::writable_bytes(folder);
            (writable, writable + image.as_ref().map_or(0, |image| image.size))
        });
        let docker = views::task::TaskView {
            folder,
            state,
            seen: seen.as_ref(),
            config: config.as_ref(),
            sizes,
        }
        .inspect();
        let ours = TaskView {
            summary: Summary::of(folder, state, seen.as_ref()),
            state: state.word(),
            task: folder.record().clone(),
            grants: folder.record().grants.clone(),
            usage: node::task_usage(folder)?,
            writable_bytes: sizes.map(|(writable, _)| writable),
            seen,
        };
        View::of(&ours, docker)
    }
}

/// Why there is nothing to show, where `error` is why there is no image.
fn nothing_called(thing: &str, error: anyhow::Error) -> anyhow::Error {
    // What could name a task, an image and a volume.
    if thing.parse::<VolumeName>().is_ok() {
        return Advice::new(format!("no task, image or volume is called `{thing}`"))
            .hint("see what there is: margay ps -a, margay images, margay volume ls")
            .into();
    }
    error.context(format!("no task is called `{thing}`"))
}

fn image_of(home: &Home, thing: &str) -> anyhow::Result<View> {
    let found = images::find(home, thing, Fetch::Never, &Remote::default())?;
    let view = image_view(&found)?;
    let docker = views::image::inspect(&found.layout, &found.descriptor, &view.config, view.size);
    View::of(&view, docker)
}

fn volume_view(home: &Home, thing: &str) -> anyhow::Result<View> {
    let volume = node::volumes::find(home.node(), thing)?;
    let view = views::volume::VolumeView::of(&volume);
    View::of(&view, view.docker())
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
        reuse: plan.reuse,
        args: plan.args,
        config: plan.config,
    })
}
