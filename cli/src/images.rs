//! From the argument of a verb to an image of this machine.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::ValueEnum;
use node::LocalImage;
use packager::Layout;
use spec::{Descriptor, Digest, Platform, Reference};

use crate::{
    failure::Advice,
    home::Home,
    image_events, nearest,
    output::{line, notice},
    progress::{LoadProgress, Progress},
    serve::block_on,
    transfer::{self, Remote},
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

pub fn layout(home: &Home) -> anyhow::Result<Layout> {
    Ok(Layout::open(home.images())?)
}

/// Images of files that were only run.
pub fn files(home: &Home) -> anyhow::Result<Layout> {
    Ok(Layout::open(home.files())?)
}

/// What `image` names among the local ones, and its name: what was given, unless that is the
/// beginning of a digest.
pub fn resolve(layout: &Layout, image: &Reference) -> anyhow::Result<(Reference, Descriptor)> {
    look_up(layout, image)?.ok_or_else(|| missing(image))
}

/// A name first, and then the digest of an image, whole or the beginning of one, as `margay images`
/// prints it.
pub fn look_up(
    layout: &Layout,
    image: &Reference,
) -> anyhow::Result<Option<(Reference, Descriptor)>> {
    if let Some(descriptor) = layout.resolve(image)? {
        return Ok(Some((image.clone(), descriptor)));
    }
    let mut matches = by_digest(layout, image)?;
    matches.dedup_by_key(|local| local.descriptor.digest);
    match matches.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((one.reference.clone(), one.descriptor.clone()))),
        several => {
            let names: Vec<_> = several.iter().map(|local| local.reference.to_string()).collect();
            let (start, names) = (image.repository(), names.join(", "));
            bail!(
                Advice::new(format!("`{start}` is the beginning of several digests: of {names}"))
                    .hint("give more of it, or a name")
            )
        }
    }
}

/// Every name of the images whose digest begins like `image`, those of one image side by side.
pub fn by_digest(layout: &Layout, image: &Reference) -> anyhow::Result<Vec<packager::LocalImage>> {
    let Some(start) = digest_start(image) else { return Ok(Vec::new()) };
    let mut images = layout.list()?;
    images.retain(|local| local.descriptor.digest.hex().starts_with(start));
    images.sort_by_key(|local| local.descriptor.digest);
    Ok(images)
}

/// The hex digits that `image` is, if it can be read so: `4b552f93a304`, or `sha256:` and more of
/// them.
fn digest_start(image: &Reference) -> Option<&str> {
    let digits = match (image.registry(), image.digest(), image.repository(), image.tag()) {
        (None, None, "sha256", Some(digits)) => digits,
        (None, None, digits, Some("latest") | None) => digits,
        _ => return None,
    };
    let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() >= DIGITS_MIN && is_hex).then_some(digits)
}

/// Fewer are more likely a word.
const DIGITS_MIN: usize = 4;

/// Gives `source` the name `target` as well.
pub fn tag(home: &Home, source: &Reference, target: &Reference) -> anyhow::Result<()> {
    let layout = layout(home)?;
    let (_, descriptor) = resolve(&layout, source)?;
    layout.tag(target, &descriptor)?;
    image_events::record(home, "tag", target, descriptor.digest);
    Ok(())
}

/// Prints `NAME:TAG@DIGEST` for each name of what a verb made. The tag is always there, also where
/// it is `latest`.
pub fn print_pinned<'a>(names: impl IntoIterator<Item = &'a Reference>, digest: Digest) {
    for name in names {
        match name.digest() {
            None => line(format_args!("{name}@{digest}")),
            Some(_) => line(format_args!("{}", name.pinned(digest))),
        }
    }
}

/// The image that `text` means: a file when it is written like one or there is one, else a name,
/// fetched if need be.
pub fn find(
    home: &Home,
    text: &str,
    fetch: Fetch,
    remote: &Remote,
) -> anyhow::Result<SelectedImage> {
    find_for(home, text, fetch, remote, Choice::default())
}

/// Which image to take where a name means several, and how much to say about fetching it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// The one that this machine runs best when left out.
    pub platform: Option<&'a Platform>,
    pub quiet: bool,
}

/// As [`find`], of the images that `choice` leaves.
pub fn find_for(
    home: &Home,
    text: &str,
    fetch: Fetch,
    remote: &Remote,
    choice: Choice<'_>,
) -> anyhow::Result<SelectedImage> {
    let found = match as_path(text) {
        Some(path) => from_file(home, text, &path)?,
        None => from_name(home, text, fetch, remote, choice)?,
    };
    match choice.platform {
        Some(platform) => found.narrowed(platform),
        None => Ok(found),
    }
}

fn from_name(
    home: &Home,
    text: &str,
    fetch: Fetch,
    remote: &Remote,
    choice: Choice<'_>,
) -> anyhow::Result<SelectedImage> {
    let reference: Reference = match text.parse() {
        Err(_) if Path::new(text).exists() => return Err(path_without_slash(text)),
        parsed => parsed?,
    };
    let layout = layout(home)?;
    let local = look_up(&layout, &reference)?;
    if local.is_none() && reference.registry().is_none() && means_a_file(text) {
        ensure!(Path::new(text).exists(), no_file(text));
    }
    let remote_wanted = match (fetch, &local) {
        // What is written like a file here is rather that file than an image of Docker Hub.
        (Fetch::Missing, None) => reference.registry().is_some() || !Path::new(text).exists(),
        (Fetch::Always, _) => true,
        // What was fetched for another platform lacks this one.
        (Fetch::Missing, Some((_, local))) => {
            reference.registry().is_some()
                && choice.platform.is_some_and(|platform| lacks(&layout, local, platform))
        }
        (Fetch::Never, _) => false,
    };
    let (name, descriptor) = match (remote_wanted, local) {
        (true, _) => (text.to_owned(), fetch_now(home, &reference, remote, choice)?),
        (false, Some((name, descriptor))) if name != reference => (name.to_string(), descriptor),
        (false, Some((_, descriptor))) => (text.to_owned(), descriptor),
        (false, None) => return Err(missing(&reference)),
    };
    let image = LocalImage { name, digest: descriptor.digest, layout: home.images() };
    Ok(SelectedImage { image, descriptor, layout })
}

/// Pulls an image, and says from where when its name does not.
fn fetch_now(
    home: &Home,
    reference: &Reference,
    remote: &Remote,
    choice: Choice<'_>,
) -> anyhow::Result<Descriptor> {
    let full = reference.full_name();
    if reference.registry().is_none() && !choice.quiet {
        notice(format_args!("`{reference}` names no registry: pulling `{full}`"));
    }
    let entries = match choice.platform {
        Some(platform) => transfer::entry_for(platform),
        None => transfer::entry_of_this_machine(),
    };
    let progress = Progress::new(choice.quiet);
    let pulled = block_on(transfer::pull(home, reference, remote, entries, progress));
    pulled.map_err(|error| match reference.registry() {
        Some(_) => error,
        None => Advice::new(format!("`{full}`, for `{reference}`, cannot be pulled: {error:#}"))
            .hint("see what is here: margay images; or build it: margay build -t NAME FOLDER")
            .into(),
    })
}

/// An image of this machine, selected by what stands after a verb.
pub struct SelectedImage {
    pub image: LocalImage,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    pub layout: Layout,
}

impl SelectedImage {
    /// The image for `platform` in it.
    fn narrowed(mut self, platform: &Platform) -> anyhow::Result<Self> {
        let name = &self.image.name;
        let bytes = self.layout.read_blob(&self.descriptor, blobs::DOCUMENT_BYTES_MAX)?;
        if let image::Document::Index(index) = image::parse_document(&bytes)? {
            self.descriptor = image::choose_platform(&index, platform)?.clone();
            self.image.digest = self.descriptor.digest;
            return Ok(self);
        }
        let plan = self.layout.plan(&self.descriptor)?;
        let built_for = match plan.kind_hint() {
            // A module alone says nothing of a platform.
            image::Kind::Wasm => "wasi/wasm".parse()?,
            image::Kind::Native => Platform {
                architecture: plan.config.architecture,
                os: plan.config.os,
                variant: None,
            },
        };
        ensure!(
            image::is_same(&built_for, platform),
            Advice::new(format!("`{name}` is an image for {built_for}, and not for {platform}"))
                .hint("leave --platform out")
        );
        Ok(self)
    }
}

/// Whether the local index `root` has an entry for `platform` whose manifest is not here.
fn lacks(layout: &Layout, root: &Descriptor, platform: &Platform) -> bool {
    let Ok(bytes) = layout.read_blob(root, blobs::DOCUMENT_BYTES_MAX) else { return true };
    let Ok(image::Document::Index(index)) = image::parse_document(&bytes) else { return false };
    image::choose_platform(&index, platform)
        .is_ok_and(|entry| !layout.has_blob(&entry.digest, entry.size))
}

/// The path that `text` is, if it is one: written with a slash at its beginning, or a file here
/// that looks like an image.
fn as_path(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let written = ["/", "./", "../"].iter().any(|start| text.starts_with(start))
        || matches!(text, "." | "..");
    let looks = is_written_as_file(text) && path.is_file();
    (written || looks || path.join("oci-layout").is_file()).then(|| path.to_owned())
}

/// No image has such a name.
fn is_written_as_file(text: &str) -> bool {
    const ENDINGS: [&str; 8] =
        [".wasm", ".wasm.gz", ".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2"];
    let name = text.rsplit('/').next().unwrap_or(text);
    ENDINGS.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

/// Whether a name that no image here has is meant as a file: it is written as one, or it is a slip
/// away from a file that is.
fn means_a_file(text: &str) -> bool {
    is_written_as_file(text)
        || nearest::entry_for_path(Path::new(text))
            .is_some_and(|entry| entry.is_file() && entry.to_str().is_some_and(is_written_as_file))
}

fn no_file(text: &str) -> Advice {
    let advice = Advice::new(format!("there is no file `{text}`"));
    match nearest::hint_for_path(Path::new(text)) {
        Some(hint) => advice.hint(hint),
        None => advice,
    }
}

/// What is written like the name of an image, is none, and is the path of a file or a folder.
fn path_without_slash(text: &str) -> anyhow::Error {
    match no_image(text, Path::new(text)) {
        Some(advice) => advice.into(),
        None => Advice::new(format!("`{text}` is a file, and is not the name of an image"))
            .hint(format!("to run the file, write ./{text}"))
            .into(),
    }
}

/// Why a path is no image where it is what images are built from.
fn no_image(text: &str, path: &Path) -> Option<Advice> {
    let is_image = ["index.json", "oci-layout"].iter().any(|name| path.join(name).exists());
    if path.is_dir() && !is_image {
        return Some(Advice::new(format!("`{text}` is a folder, and is not an image")).hint(
            format!("build it, and run what it is called then: margay build -t NAME {text}"),
        ));
    }
    let file = path.file_name()?.to_str()?;
    is_build_file(file).then(|| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).display();
        Advice::new(format!("`{text}` is a build file, and is not an image"))
            .hint(format!("build it: margay build -t NAME -f {text} {folder}"))
    })
}

/// Whether a file of this name says how an image is built.
pub fn is_build_file(name: &str) -> bool {
    const NAMES: [&str; 2] = ["dockerfile", "containerfile"];
    let name = name.to_ascii_lowercase();
    let is_of = |known: &&str| {
        name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            || name.strip_suffix(known).is_some_and(|rest| rest.ends_with('.'))
    };
    name == "margay.toml" || NAMES.iter().any(is_of)
}

fn from_file(home: &Home, text: &str, path: &Path) -> anyhow::Result<SelectedImage> {
    ensure!(path.exists(), no_file(text));
    if let Some(advice) = no_image(text, path) {
        bail!(advice);
    }
    // A layout of its own: what is only run must not take a name away from what was built.
    let layout = files(home)?;
    let progress = LoadProgress::new();
    let imported = packager::import(&layout, path, &|step| progress.step(step))?;
    drop(progress);
    let [one] = imported.as_slice() else {
        let names = imported.iter().flat_map(|image| &image.references).map(ToString::to_string);
        let (count, names) = (imported.len(), names.collect::<Vec<_>>().join(", "));
        bail!(
            Advice::new(format!("`{text}` holds {count} images: {names}"))
                .hint(format!("take them in, then run one by its name: margay load -i {text}"))
        )
    };
    let descriptor = one.descriptor.clone();
    let image =
        LocalImage { name: text.to_owned(), digest: descriptor.digest, layout: home.files() };
    Ok(SelectedImage { image, descriptor, layout })
}

fn missing(reference: &Reference) -> anyhow::Error {
    let advice = Advice::new(format!("there is no local image `{reference}`"));
    let text = reference.repository();
    let hint = match reference.registry() {
        Some(_) => format!("fetch it: margay pull {reference}"),
        None if Path::new(text).exists() => return path_without_slash(text),
        None => {
            let full = reference.full_name();
            format!(
                "see what there is: margay images; or fetch it from Docker Hub: margay pull {full}"
            )
        }
    };
    advice.hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_beginning_of_a_digest() {
        for (text, want) in [
            ("4b552f93a304", Some("4b552f93a304")),
            ("cafe", Some("cafe")),
            ("bad", None),
            ("cats", None),
            ("4b552f93a304:v1", None),
            ("sha256:4b552f93a304", Some("4b552f93a304")),
            ("localhost:5000/4b552f93a304", None),
            ("me/4b552f93a304", None),
        ] {
            assert_eq!(digest_start(&text.parse().unwrap()), want, "{text}");
        }
    }
}
