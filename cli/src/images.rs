//! From what a person wrote after a verb to an image on this machine.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use node::LocalImage;
use packager::{Hold, Layout};
use spec::{Descriptor, Platform, Reference};

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

/// What this machine runs without Wasm.
pub fn native_platforms() -> Vec<Platform> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    vec![Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }]
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
    Ok(Found { image, descriptor, layout, _hold: None })
}

/// An image on this machine.
pub struct Found {
    /// As the room that runs tasks takes it.
    pub image: LocalImage,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// Where its blobs are.
    pub layout: Layout,
    /// Nothing holds the blobs of a file that was only run, except this.
    _hold: Option<Hold>,
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
    let layout = layout(home)?;
    let hold = layout.hold()?;
    let imported = packager_temp::import(&layout, path)?;
    match imported.as_slice() {
        [one] => Ok(Found {
            image: LocalImage { name: text.to_owned(), digest: one.descriptor.digest, layout: home.images() },
            descriptor: one.descriptor.clone(),
            layout,
            _hold: Some(hold),
        }),
        several => {
            let names: Vec<_> = several.iter().filter_map(|image| Some(image.reference.as_ref()?.to_string())).collect();
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
mod packager_temp { pub struct I { pub reference: Option<spec::Reference>, pub descriptor: spec::Descriptor } pub fn import(_: &packager::Layout, _: &std::path::Path) -> anyhow::Result<Vec<I>> { anyhow::bail!("temp") } }
