//! What the images of a registry are, and which of them have something.

use registry::{Admin, FoundImage, ImageContents, ImageInfo, ImageSearch};

use crate::{
    output::{Output, ago, notice, now, printable},
    serve::block_on,
    verbs::word,
};

/// Show what an image is, by its config and the bytes of its program: what it imports, exports
/// and wants
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Which one, as in me/cats:1 or me/cats@sha256:…
    #[arg(value_name = "REPOSITORY:TAG")]
    image: String,
    #[command(flatten)]
    output: Output,
}

/// Look for images by their names, labels, interfaces or digests
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is given has all to be true. Of a registry elsewhere, images are found that you may read.

Examples:
  margay registry search cats
  margay registry search --imports wasi:http/outgoing-handler
  margay registry search --label org.opencontainers.image.licenses=MIT"
)]
pub struct Search {
    /// In the name, a tag, a label, an import or an export
    text: Option<String>,
    /// The beginning of an interface that the program imports
    #[arg(long, value_name = "INTERFACE")]
    imports: Option<String>,
    /// The beginning of an interface that the program exports
    #[arg(long, value_name = "INTERFACE")]
    exports: Option<String>,
    /// A label, with its value or without
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Option<String>,
    /// The beginning of the digest of the manifest
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Inspect {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let info = block_on(admin.image(&self.image))?;
        self.output.record(&info, told)
    }
}

impl Search {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let Self { text, imports, exports, label, digest, output } = self;
        let search = ImageSearch { text, imports, exports, label, digest };
        let found = block_on(admin.search(&search))?;
        output.records(&found.images, &["REPOSITORY", "TAGS", "DIGEST", "IS"], |image| {
            let tags = match image.tags.is_empty() {
                true => "-".to_owned(),
                false => image.tags.join(","),
            };
            [image.repository.clone(), tags, image.digest.short(), what(image)]
        })?;
        if found.more {
            notice(format_args!("There may be more: look for less."));
        }
        Ok(())
    }
}

/// What an image is, in a few words.
fn what(image: &FoundImage) -> String {
    let contents = &image.contents;
    match (&contents.program, &contents.platform) {
        (Some(program), _) => {
            format!(
                "{} {}, WASI {}",
                word(&program.world),
                word(&program.kind),
                word(&program.wasi)
            )
        }
        (None, Some(platform)) => platform.clone(),
        (None, None) => "-".to_owned(),
    }
}

fn told(info: &ImageInfo) -> String {
    let mut lines = vec![format!("{}@{}", info.repository, info.digest)];
    let mut field = |name: &str, value: String| lines.push(format!("{name:<12}{value}"));
    if !info.tags.is_empty() {
        field("tags", info.tags.join(", "));
    }
    if let Some(pushed) = info.pushed {
        field("pushed", ago(pushed, now()));
    }
    field("media type", info.media_type.clone());
    let is_index = info.images.iter().any(|image| image.digest != info.digest);
    for image in &info.images {
        if is_index {
            lines.push(format!("image {}", image.digest));
        }
        lines.extend(contents(&image.contents));
    }
    lines.join("\n")
}

fn contents(contents: &ImageContents) -> Vec<String> {
    let ImageContents { platform, labels, wants, program, unread } = contents;
    let mut lines = Vec::new();
    let mut field = |name: &str, value: &str| lines.push(format!("{name:<12}{}", printable(value)));
    if let Some(platform) = platform {
        field("platform", platform);
    }
    if let Some(program) = program {
        field("program", program.path.as_deref().unwrap_or("the layer"));
        field("kind", &word(&program.kind));
        field("wasi", &word(&program.wasi));
        field("world", &word(&program.world));
        program.imports.iter().for_each(|name| field("imports", name));
        program.exports.iter().for_each(|name| field("exports", name));
    }
    wants.iter().for_each(|want| field("wants", &want.to_string()));
    labels.iter().for_each(|(key, value)| field("label", &format!("{key}={value}")));
    if let Some(why) = unread {
        field("unread", why);
    }
    lines
}
