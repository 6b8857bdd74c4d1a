use anyhow::bail;
use node::tasks;
use packager::Layout;
use spec::{Descriptor, Digest, Reference};

use crate::{
    failure::{self, Advice},
    home::Home,
    image_events, images,
    output::{line, notice, size},
    verbs::prune,
};

/// Take names away from images, and remove what no name holds any more
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove images that tasks run from, and images by their digest whatever number of names they
    /// have
    #[arg(short, long)]
    force: bool,
    /// Names of images, or their digests
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

impl Args {
    /// Prints each name and each image that is gone.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let layout = images::layout(home)?;
        let mut removed = false;
        let result = super::each(&self.images, |image| {
            match found(&layout, image) {
                // As with Docker: what is not there is said, and is no failure where it is forced.
                Err(error) if self.force => failure::report(&error),
                _ => {
                    self.remove(home, &layout, image)?;
                    removed = true;
                }
            }
            Ok(())
        });
        if removed {
            let layouts = [&layout, &images::files(home)?];
            let freed = layout.prune()?.bytes + prune::prepared(home, &layouts)?;
            if freed > 0 {
                notice(format_args!("Freed {}.", size(freed)));
            }
        }
        result
    }

    fn remove(&self, home: &Home, layout: &Layout, image: &Reference) -> anyhow::Result<()> {
        let (name, descriptor) = found(layout, image)?;
        let digest = descriptor.digest;
        let names = match layout.resolve(image)? {
            Some(_) => vec![name],
            None => {
                images::by_digest(layout, image)?.into_iter().map(|local| local.reference).collect()
            }
        };
        if names.len() > 1 && !self.force {
            let all: Vec<_> = names.iter().map(ToString::to_string).collect();
            let message =
                format!("`{}` has {} names: {}", digest.short(), all.len(), all.join(", "));
            bail!(Advice::new(message).hint("take one of them away, or all of them with --force"));
        }
        let others =
            layout.list()?.iter().filter(|other| other.descriptor.digest == digest).count()
                - names.len();
        if others == 0 && !self.force {
            unused(home, image, digest)?;
        }
        for name in &names {
            layout.untag(name)?;
            line(format_args!("Untagged: {}", name.local()));
            image_events::record(home, "untag", name, digest);
        }
        if others == 0 {
            line(format_args!("Deleted: {digest}"));
            image_events::record(home, "delete", image, digest);
        }
        Ok(())
    }
}

/// Nothing is fetched to be removed, so no hint says so.
fn found(layout: &Layout, image: &Reference) -> anyhow::Result<(Reference, Descriptor)> {
    images::look_up(layout, image)?.ok_or_else(|| {
        let advice = Advice::new(format!("there is no local image `{image}`"));
        advice.hint("see what there is: margay images").into()
    })
}

/// A task would not start again from an image that is gone, and one that runs has its files open.
fn unused(home: &Home, image: &Reference, digest: Digest) -> anyhow::Result<()> {
    let users = tasks::list(home.node())?.into_iter().filter(|task| task.record().digest == digest);
    let is_alive = |task: &tasks::TaskFolder| task.state().is_ok_and(tasks::State::is_alive);
    // One that runs says most.
    let Some(task) = users.max_by_key(is_alive) else { return Ok(()) };
    let name = &task.record().name;
    let (how, remedy) = match is_alive(&task) {
        true => ("runs from", format!("stop and remove it first: margay rm -f {name}")),
        false => ("was made from", format!("remove it first: margay rm {name}")),
    };
    let hint = format!("{remedy}, or remove the image all the same with --force");
    bail!(Advice::new(format!("task `{name}` {how} image `{image}`")).hint(hint))
}
