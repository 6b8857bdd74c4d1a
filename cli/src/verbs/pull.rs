use std::sync::Arc;

use registry::{Entries, PullOptions};
use spec::{Descriptor, Index, Reference};

use crate::{
    failure::{Advice, fail},
    home::Home,
    images,
    output::line,
    progress::Progress,
    transfer::{self, Remote, Shelf},
    verbs::block_on,
};

/// Fetch an image from the registry that its name begins with
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say nothing but what the name means
    #[arg(short, long)]
    quiet: bool,
    /// Fetch the images for all platforms, and not only the one that this machine runs best
    #[arg(short, long)]
    all_platforms: bool,
    #[command(flatten)]
    remote: Remote,
    /// What to fetch
    #[arg(value_name = "REGISTRY/NAME[:TAG][@DIGEST]")]
    image: Reference,
}

impl Args {
    /// Prints what the name means.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let entries = if self.all_platforms { Entries::All } else { ours() };
        let pulled =
            block_on(pull(home, &self.image, &self.remote, entries, Progress::new(self.quiet)))?;
        line(format_args!("{}", images::pinned(&self.image, pulled.digest)));
        Ok(())
    }
}

/// Fetches `image` with the login of this home, and gives it its name here.
pub async fn pull(
    home: &Home,
    image: &Reference,
    remote: &Remote,
    entries: Entries,
    progress: Progress,
) -> anyhow::Result<Descriptor> {
    let Some(registry) = image.registry() else {
        let path = image.repository();
        let hub = if path.contains('/') { path.to_owned() } else { format!("library/{path}") };
        let tag = image.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        return fail(Advice::new(format!("`{image}` names no registry")).hint(format!(
            "say which one: margay pull HOST:PORT/USER/{path}{tag}, or for Docker Hub: margay pull docker.io/{hub}{tag}"
        )));
    };
    let client = transfer::client(home, remote, registry)?;
    let shelf = Shelf::of(images::layout(home)?)?;
    let options = PullOptions { entries, progress: transfer::watch(Arc::new(progress), "pulled") };
    let descriptor = client.pull(image, shelf.clone(), &options).await?;
    shelf.layout.tag(image, &descriptor)?;
    Ok(descriptor)
}

/// The one entry of an index that this machine runs best.
pub fn ours() -> Entries {
    Entries::Chosen(Arc::new(|index: &Index| {
        match image::choose(index, &packager::host_platforms()) {
            Ok(entry) => vec![entry.clone()],
            // Whoever runs it hears why; whoever only moves it may want what is there.
            Err(_) => index.manifests.clone(),
        }
    }))
}
