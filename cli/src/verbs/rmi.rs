use spec::Reference;

use crate::{
    home::Home,
    images,
    output::{line, size, talk},
};

/// Take names away from images, and remove what no name holds any more
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

impl Args {
    /// Prints each name and each image that is gone.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let layout = images::layout(home)?;
        let result = super::each(&self.images, |image| {
            let removed = layout.untag(image)?;
            line(format_args!("Untagged: {image}"));
            if !layout.list()?.iter().any(|other| other.descriptor.digest == removed.digest) {
                line(format_args!("Deleted: {}", removed.digest));
            }
            Ok(())
        });
        let pruned = layout.prune()?;
        if pruned.blobs > 0 {
            talk(format_args!("Freed {}.", size(pruned.bytes)));
        }
        result
    }
}
