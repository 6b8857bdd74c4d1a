//! From what a person wrote after a verb to an image on this machine.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use node::LocalImage;
use packager::Layout;
use spec::{Descriptor, Digest, Reference};

use crate::{
    failure::{Advice, fail},
    home::Home,
    progress::Progress,
    transfer::Remote,
    verbs::{block_on, pull},
};

/// When to ask a registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fetch {
    /// When it is not here.
    Missing,
    /// Each time.
    Always,
    /// Never.
    Never,
}

/// The local images of this home.
pub fn layout(home: &Home) -> anyhow::Result<Layout> {
    Ok(Layout::open(home.images())?)
}

/// What `image` names among the local ones.
pub fn known(layout: &Layout, image: &Reference) -> anyhow::Result<Descriptor> {
    layout.resolve(image)?.ok_or_else(|| packager::Error::NoImage(image.clone()).into())
}

/// Gives `source` the name `target` as well.
pub fn tag(home: &Home, source: &Reference, target: &Reference) -> anyhow::Result<()> {
    let layout = layout(home)?;
    let descriptor = known(&layout, source)?;
    Ok(layout.tag(target, &descriptor)?)
}

/// `NAME:TAG@DIGEST`, as verbs print what they made. The tag is always there, also where it is `latest`.
pub fn pinned(image: &Reference, digest: Digest) -> String {
    match image.digest() {
        None => format!("{image}@{digest}"),
        Some(_) => image.pinned(digest).to_string(),
    }
}

/// The image that `text` means: a file when it is written like one or there is one, else a name, fetched if need be.
pub fn find(home: &Home, text: &str, fetch: Fetch, remote: &Remote) -> anyhow::Result<Found> {
    if let Some(path) = as_path(text) {
        return from_file(home, text, &path);
    }
    let reference: Reference = text.parse()?;
    let layout = layout(home)?;
    let local = layout.resolve(&reference)?;
    let remote_wanted = match (fetch, &local) {
        (Fetch::Always, _) | (Fetch::Missing, None) => reference.registry().is_some(),
        (Fetch::Never, _) | (Fetch::Missing, Some(_)) => false,
    };
    let descriptor = match (remote_wanted, local) {
        (true, _) => block_on(pull::pull(home, &reference, remote, pull::ours(), Progress::new(false)))?,
        (false, Some(descriptor)) => descriptor,
        (false, None) => return Err(missing(text, &reference)),
    };
    let image = LocalImage { name: text.to_owned(), digest: descriptor.digest, layout: home.images() };
    Ok(Found { image, descriptor, layout })
}

/// An image on this machine.
pub struct Found {
    /// As the room that runs tasks takes it.
    pub image: LocalImage,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// Where its blobs are.
    pub layout: Layout,
}

/// The path that `text` is, if it is one: written with a slash at its beginning, or a file here that looks like an image.
fn as_path(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let written = ["/", "./", "../"].iter().any(|start| text.starts_with(start)) || matches!(text, "." | "..");
    let looks = path.extension().is_some_and(|extension| extension == "wasm" || extension == "tar") && path.is_file();
    (written || looks || path.join("oci-layout").is_file()).then(|| path.to_owned())
}

fn from_file(home: &Home, text: &str, path: &Path) -> anyhow::Result<Found> {
    if !path.exists() {
        return fail(Advice::new(format!("there is no file `{text}`")));
    }
    // A layout of its own: what is only run must not take a name away from what was built.
    let layout = Layout::open(home.files())?;
    let imported = packager::import(&layout, path)?;
    match imported.as_slice() {
        [one] => Ok(Found {
            image: LocalImage { name: text.to_owned(), digest: one.descriptor.digest, layout: home.files() },
            descriptor: one.descriptor.clone(),
            layout,
        }),
        several => {
            let names: Vec<_> = several.iter().flat_map(|image| &image.references).map(ToString::to_string).collect();
            fail(
                Advice::new(format!("`{text}` holds {} images: {}", several.len(), names.join(", ")))
                    .hint(format!("take them in, then run one by its name: margay load -i {text}")),
            )
        }
    }
}

fn missing(text: &str, reference: &Reference) -> anyhow::Error {
    let advice = Advice::new(format!("there is no local image `{reference}`"));
    let hint = match reference.registry() {
        Some(_) => format!("fetch it: margay pull {reference}"),
        None if Path::new(text).exists() => format!("to run the file, write ./{text}"),
        None => "see what there is: margay images; an image of a registry begins with its HOST:PORT/".to_owned(),
    };
    advice.hint(hint).into()
}
