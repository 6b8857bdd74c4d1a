use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;
use registry::{Event, Outcome, PushOptions};
use spec::{Digest, Reference};

use crate::{
    failure::Advice,
    home::Home,
    images,
    output::{notice, size},
    progress::Progress,
    serve::block_on,
    transfer::{self, Remote},
};

/// Send an image to the registry that its name begins with
#[derive(Debug, clap::Args)]
#[command(after_help = "Only what the registry lacks travels.

Example:
  margay tag cats localhost:5000/me/cats:v1 && margay push localhost:5000/me/cats:v1")]
pub struct Args {
    /// Say nothing but what the name means there now
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    remote: Remote,
    /// What to send
    #[arg(value_name = "REGISTRY/NAME[:TAG]")]
    image: Reference,
}

#[derive(Debug, Clone, Copy)]
pub struct Pushed {
    /// What the name means there now.
    pub digest: Digest,
    /// Layers that travelled.
    pub layers: usize,
    pub bytes: u64,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let pushed = block_on(push(home, &self.image, &self.remote, Progress::new(self.quiet)))?;
        if !self.quiet {
            let s = if pushed.layers == 1 { "" } else { "s" };
            notice(format_args!("Pushed {} blob{s} ({}).", pushed.layers, size(pushed.bytes)));
        }
        images::print_pinned([&self.image], pushed.digest);
        Ok(())
    }
}

/// Sends `image` with the login of this home.
pub async fn push(
    home: &Home,
    image: &Reference,
    remote: &Remote,
    progress: Progress,
) -> anyhow::Result<Pushed> {
    let remote_name = image.remote();
    let registry = remote_name.registry().expect("a remote name has a registry");
    // Docker Hub is public: what names no registry goes there only with a login.
    if image.registry().is_none() && transfer::login(home, registry)?.is_none() {
        let full = image.full_name();
        bail!(
            Advice::new(format!(
                "`{image}` names no registry and would go to `{full}`, for which there is no login"
            ))
            .hint(format!(
                "name a registry: margay tag {image} HOST:PORT/{image}; or log in: margay login \
                 {registry}"
            ))
        );
    }
    let layout = images::layout(home)?;
    let Some(root) = layout.resolve(image)? else {
        bail!(
            Advice::new(format!("there is no local image `{image}`"))
                .hint(format!("give a local image that name first: margay tag IMAGE {image}"))
        );
    };
    let client = transfer::client(home, remote, registry)?;
    let moved = Arc::new(Mutex::new((0usize, 0u64)));
    let (counted, show) = (moved.clone(), transfer::watch(Arc::new(progress), "pushed"));
    let watch: registry::Progress = Arc::new(move |event: Event| {
        if let Event::Finished { size, outcome: Outcome::Moved, .. } = &event {
            let mut moved = counted.lock().unwrap_or_else(PoisonError::into_inner);
            *moved = (moved.0 + 1, moved.1 + size);
        }
        show(event);
    });
    // Holds off pruning while blobs move.
    let _hold = layout.hold()?;
    let source = Arc::new(layout.store().clone());
    client.push(&remote_name, &root, source, &PushOptions { progress: watch }).await?;
    let (layers, bytes) = *moved.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Pushed { digest: root.digest, layers, bytes })
}
