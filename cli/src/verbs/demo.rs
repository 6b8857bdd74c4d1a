use std::{
    io::read_to_string,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use orchestrator::{Client, CreateService, UpdateService};
use spec::{ClusterName, LaunchType, Reference, Service, ServiceName, TaskDefinition};

use crate::{
    credentials::{Credentials, Login},
    failure::Advice,
    home::Home,
    images, machine,
    output::{duration, line, notice, size},
    platform::{self, Restarts, Settings},
    progress::Progress,
    serve::block_on,
    transfer::Remote,
    verbs::{build, push, service, task},
};

/// Build the cats, start a platform, push them, keep three of them running, and show the page
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Does what these verbs do, with their code: build, up, login, tag, push, cluster create,
task register, service create. Ports that are taken are replaced by free ones. Ctrl-C ends everything."
)]
pub struct Args {
    /// Where the samples are
    #[arg(long, value_name = "DIR")]
    samples: Option<PathBuf>,
    /// End after the page was served once
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    settings: Settings,
}

const CLUSTER: &str = "allthecats";
const SERVICE: &str = "cats";
const REPLICAS: u32 = 3;
/// Pulling, preparing and starting three replicas takes a second; a small machine that compiles
/// beside it takes longer.
const SERVE_TIME_MAX: Duration = Duration::from_secs(60);
/// A process that exits so often within a second or two will not stay: there is nothing to show.
const RESTARTS_MAX: usize = 3;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The page has some kilobytes.
const PAGE_BYTES_MAX: usize = 4 << 20;

impl Args {
    /// Goes from source to page, and stays there until Ctrl-C.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let samples = self.samples()?;
        // What is made here must be in nothing's way: a platform of one's own begins empty.
        let home = &Home::open(Some(home.folder("demo")?))?;
        require_namespaces(home)?;
        let began = Instant::now();
        for name in ["httpd", SERVICE] {
            let step = Step::new("build", name);
            let (context, layout) = (samples.join(name), images::layout(home)?);
            let built = packager::build(&packager::Build {
                tags: vec![name.parse()?],
                source_date: build::source_date()?,
                ..packager::Build::of(&context, &layout)
            })?;
            step.done(&built.descriptor.digest.short());
        }
        let step = Step::new("up", "registry, control plane, ingress, node");
        let settings = free_ports(self.settings.clone());
        block_on(platform::run(home, &settings, Restarts::AtMost(RESTARTS_MAX), async |record| {
            step.done("four processes");
            serve_and_stay(home, &record, &samples, began, self.once).await
        }))
    }

    fn samples(&self) -> anyhow::Result<PathBuf> {
        // In the working directory of a checkout, else where the binary was built.
        let usual =
            || vec!["samples".into(), Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")];
        let candidates = self.samples.as_ref().map_or_else(usual, |given| vec![given.clone()]);
        let there = candidates.iter().find(|path| path.join("cats/Dockerfile").is_file());
        Ok(there.cloned().ok_or_else(|| {
            Advice::new(format!("there are no samples in `{}`", candidates[0].display())).hint(
                "run it in a checkout of margay, or name the folder: margay demo --samples DIR",
            )
        })?)
    }
}

/// Where no guest can be started, there is nothing to wait for.
fn require_namespaces(home: &Home) -> anyhow::Result<()> {
    match machine::probe(home.path())?.namespaces {
        Some(error) => bail!(
            Advice::new(format!("cannot start a worker in namespaces of its own: {error}"))
                .hint("see what to change on this machine: margay doctor")
        ),
        None => Ok(()),
    }
}

struct Step {
    began: Instant,
    name: &'static str,
    what: String,
}

impl Step {
    fn new(name: &'static str, what: &str) -> Self {
        Self { began: Instant::now(), name, what: what.to_owned() }
    }

    fn done(self, result: &str) {
        let time = duration(self.began.elapsed());
        line(format_args!("{:<9} {:<44} {time:>9}   {result}", self.name, self.what));
    }
}

/// A demo should not fail because something else has the usual ports.
fn free_ports(mut settings: Settings) -> Settings {
    let address = settings.listen;
    let ports =
        [&mut settings.server_port, &mut settings.registry_port, &mut settings.ingress_port];
    for port in ports {
        if std::net::TcpListener::bind((address, *port)).is_err() {
            *port = 0;
        }
    }
    settings
}

async fn serve_and_stay(
    home: &Home,
    facts: &platform::record::Record,
    samples: &Path,
    began: Instant,
    once: bool,
) -> anyhow::Result<()> {
    let registry = facts.registry_name();
    let image: Reference = format!("{registry}/{}/cats:v1", facts.user).parse()?;

    let step = Step::new("push", &image.to_string());
    let password = disk::open_plain(&platform::password_file(home)).and_then(read_to_string);
    let password = password.context("cannot read the password")?;
    let login = Login { user: facts.user.clone(), password: password.trim().to_owned() };
    Credentials::read(home)?.keep(&registry, login)?;
    images::tag(home, &SERVICE.parse()?, &image)?;
    let pushed = push::push(home, &image, &Remote::default(), Progress::new(true)).await?;
    step.done(&format!("{} layers, {}", pushed.layers, size(pushed.bytes)));

    let client = Client::unix(home.server_socket());
    let step = Step::new("service", &format!("{REPLICAS} replicas of cats"));
    let definition = definition(samples, &image)?;
    let service = keep_running(&client, &definition).await?;
    step.done(&service.spec.task_definition.to_string());

    let host = service::host(&service);
    let step = Step::new("running", "pulled, prepared and started");
    until_running(&client, &service).await?;
    step.done(&format!("{REPLICAS} workers"));

    let step = Step::new("page", &facts.url(&host));
    let bytes = until_served(facts.ingress, &host).await?;
    step.done(&size(bytes as u64));

    line(format_args!(
        "\nSource to page in {}. Open it:\n\n    {}\n",
        duration(began.elapsed()),
        facts.url(&host)
    ));
    if !once {
        notice(format_args!(
            "Ctrl-C ends it. Meanwhile, in another terminal: export MARGAY_HOME={}; margay task ls; \
             margay usage",
            home.path().display()
        ));
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// The sample's definition, for the image that was just pushed.
fn definition(samples: &Path, image: &Reference) -> anyhow::Result<TaskDefinition> {
    let mut definition = task::read_definition(&samples.join("cats/task.toml"))?;
    for container in &mut definition.containers {
        container.image = image.to_string();
    }
    Ok(definition)
}

/// Makes cluster and service, or brings those of an earlier demo up to date.
async fn keep_running(client: &Client, definition: &TaskDefinition) -> anyhow::Result<Service> {
    let (cluster, name): (ClusterName, ServiceName) = (CLUSTER.parse()?, SERVICE.parse()?);
    if !client.clusters().await?.iter().any(|known| known.name == cluster) {
        client.create_cluster(&cluster).await?;
    }
    let task_definition = client.register(definition).await?.id;
    let known = client.services().await?;
    if known.iter().any(|service| service.cluster == cluster && service.name == name) {
        let update = UpdateService {
            count: Some(REPLICAS),
            task_definition: Some(task_definition),
            ..UpdateService::default()
        };
        return Ok(client.update_service(&cluster, &name, &update).await?);
    }
    let wanted = CreateService::new(name, task_definition, LaunchType::Node, REPLICAS);
    Ok(client.create_service(&cluster, &wanted).await?)
}

async fn until_running(client: &Client, service: &Service) -> anyhow::Result<()> {
    let deadline = Instant::now() + SERVE_TIME_MAX;
    loop {
        let now = client.service(&service.cluster, &service.name).await?;
        if now.status.ready >= REPLICAS && now.status.observed_generation >= service.generation {
            return Ok(());
        }
        if Instant::now() > deadline {
            let reason = now.status.reason.unwrap_or_else(|| "no reason is known".to_owned());
            bail!(
                Advice::new(format!(
                    "{} of {REPLICAS} replicas are ready: {reason}",
                    now.status.ready
                ))
                .hint("margay task ls --all says more")
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn until_served(ingress: SocketAddr, host: &str) -> anyhow::Result<usize> {
    let deadline = Instant::now() + SERVE_TIME_MAX;
    loop {
        match get(ingress, host).await {
            Ok((StatusCode::OK, bytes)) => return Ok(bytes),
            answer if Instant::now() > deadline => {
                let (status, _) = answer.context("the ingress does not answer")?;
                bail!("the ingress answers {status} for `{host}`");
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// The status of the page `/`, and how many bytes it has.
async fn get(ingress: SocketAddr, host: &str) -> anyhow::Result<(StatusCode, usize)> {
    let stream = tokio::net::TcpStream::connect(ingress).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/").header(header::HOST, host).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the page broke off: {error}"))?;
        anyhow::Ok((status, body.to_bytes().len()))
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        end = connection => {
            end?;
            bail!("the connection ended")
        }
    }
}
