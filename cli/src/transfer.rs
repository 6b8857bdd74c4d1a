//! Between the local images and registries: credentials, progress, and the layout as source and
//! sink of blobs.

use std::{collections::HashSet, io, path::PathBuf, sync::Arc, time::Duration};

use blobs::BlobWriter;
use packager::{Hold, Layout};
use registry::{Auth, BlobSink, Client, ClientOptions, Entries, Event, Outcome, PullOptions};
use spec::{Descriptor, Digest, Index, Platform, Reference};

use crate::{
    authorities,
    credentials::{Credentials, Login},
    docker_logins,
    home::Home,
    image_events,
    output::{notice, printable, tell_notes},
    progress::Progress,
};

/// Options of every verb that talks to a registry.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Remote {
    /// Speak plain HTTP with a registry on another machine (on this one it is the default)
    #[arg(long)]
    pub plain_http: bool,
    /// Trust the certificate authority in this PEM file too; `login` keeps
    /// it for its registry
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Give a registry up when nothing moves for this long [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    pub registry_timeout: Option<Duration>,
}

/// Parses `HOST[:PORT]` as it stands before the first `/` of an image.
pub fn registry_name(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not the HOST:PORT of a registry, as in localhost:5000");
    let reference: Reference = format!("{text}/x").parse().map_err(|_| wrong())?;
    let is_whole = |name: &&str| *name == text || text == "index.docker.io";
    reference.registry().filter(is_whole).map(str::to_owned).ok_or_else(wrong)
}

/// The login for `registry`: of this home, or else one that docker or podman keeps for the user.
pub fn login(home: &Home, registry: &str) -> anyhow::Result<Option<Login>> {
    let own = Credentials::read(home)?.login(registry).cloned();
    Ok(own.or_else(|| docker_logins::of(registry)))
}

/// With the login for it, if there is one.
pub fn client(home: &Home, remote: &Remote, registry: &str) -> anyhow::Result<Client> {
    client_with(home, remote, registry, login(home, registry)?.as_ref())
}

pub fn client_with(
    home: &Home,
    remote: &Remote,
    registry: &str,
    login: Option<&Login>,
) -> anyhow::Result<Client> {
    Ok(Client::new(options(home, remote, registry, login)?))
}

/// How `registry` is called with a login.
pub fn options(
    home: &Home,
    remote: &Remote,
    registry: &str,
    login: Option<&Login>,
) -> anyhow::Result<ClientOptions> {
    let mut trusted = authorities::of(home, registry)?;
    if let Some(path) = &remote.ca {
        trusted.extend(authorities::read(path)?);
    }
    let auth = login.cloned().map(|Login { user, password }| Auth::Password { user, password });
    let plain_http = remote.plain_http.then(|| registry.to_owned());
    let usual = ClientOptions::default();
    Ok(ClientOptions {
        authorities: trusted,
        auth: auth.into_iter().map(|auth| (registry.to_owned(), auth)).collect(),
        plain_http: HashSet::from_iter(plain_http),
        idle_time_max: remote.registry_timeout.unwrap_or(usual.idle_time_max),
        ..usual
    })
}

/// Fetches `image` with the login of this home, from Docker Hub when it names no registry, and tags
/// it among the local images.
pub async fn pull(
    home: &Home,
    image: &Reference,
    remote: &Remote,
    entries: Entries,
    progress: Progress,
) -> anyhow::Result<Descriptor> {
    let remote_name = image.remote();
    let registry = remote_name.registry().expect("a remote name has a registry");
    let client = client(home, remote, registry)?;
    let local = LayoutTransfer::new(Layout::open(home.images())?)?;
    let options = PullOptions { entries, progress: watch(Arc::new(progress), "pulled") };
    let descriptor = client.pull(&remote_name, local.clone(), &options).await?;
    if local.layout.resolve(image)?.is_none_or(|before| before.digest != descriptor.digest) {
        let (layout, target) = (local.layout.clone(), descriptor.clone());
        let notes = tokio::task::spawn_blocking(move || layout.check_layers(&target, &|_| {}));
        tell_notes(&notes.await??);
    }
    local.layout.tag(image, &descriptor)?;
    image_events::record(home, "pull", image, descriptor.digest);
    Ok(descriptor)
}

/// The one entry of an index that this machine runs best.
pub fn entry_of_this_machine() -> Entries {
    Entries::Chosen(Arc::new(|index: &Index| {
        match image::choose(index, &packager::host_platforms()) {
            Ok(entry) => vec![entry.clone()],
            // `run` reports why no entry fits; a transfer to another machine takes them all.
            Err(_) => index.manifests.clone(),
        }
    }))
}

/// The one entry of an index for `platform`.
pub fn entry_for(platform: &Platform) -> Entries {
    let platform = platform.clone();
    Entries::Chosen(Arc::new(move |index: &Index| {
        // That there is none is said when it is to be run.
        image::choose_platform(index, &platform)
            .map(|entry| vec![entry.clone()])
            .unwrap_or_default()
    }))
}

pub fn watch(progress: Arc<Progress>, moved: &'static str) -> registry::Progress {
    Arc::new(move |event| match event {
        Event::Started { digest, size } => progress.start(digest, size),
        Event::Moved { digest, bytes } => progress.moved(digest, bytes),
        Event::Finished { digest, size, outcome } => {
            let outcome = match outcome {
                Outcome::Moved => moved,
                Outcome::Exists => "already there",
                Outcome::Mounted => "mounted from another repository",
            };
            progress.done(digest, size, outcome)
        }
        Event::Retrying { digest, reason } => {
            let reason = printable(&reason.to_string());
            notice(format_args!("{}  trying again: {reason}", digest.short()));
        }
        _ => {}
    })
}

/// The local images as the target of a transfer.
pub struct LayoutTransfer {
    pub layout: Layout,
    /// While blobs arrive that no name holds yet.
    _hold: Hold,
}

impl LayoutTransfer {
    /// Holds off pruning while blobs move.
    pub fn new(layout: Layout) -> anyhow::Result<Arc<Self>> {
        let _hold = layout.hold()?;
        Ok(Arc::new(Self { layout, _hold }))
    }
}

impl BlobSink for LayoutTransfer {
    fn has(&self, digest: &Digest) -> bool {
        // Read and compared: the hint for a blob that was damaged on disk is to pull it again.
        blobs::is_intact(self.layout.store(), digest)
    }

    fn create(&self, blob: &Descriptor) -> io::Result<BlobWriter> {
        self.layout.blob_writer(blob.digest.algorithm()).map_err(io::Error::other)
    }
}
