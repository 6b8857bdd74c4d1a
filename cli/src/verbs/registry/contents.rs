//! What the repositories of a registry have: listed and removed.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use anyhow::bail;
use clap::Subcommand;
use registry::{Admin, Repository};
use spec::{Digest, Reference, Timestamp};

use crate::{
    output::{Output, ago, now, size},
    serve::block_on,
    verbs::ask_for_each,
};

#[derive(Debug, Subcommand)]
pub enum Tag {
    /// List the tags of a repository
    #[command(visible_alias = "list")]
    Ls {
        /// Which one, as in me/cats
        repository: Repository,
        #[command(flatten)]
        output: Output,
    },
    /// Remove tags; their manifests stay
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names, as in me/cats:1
        #[arg(required = true, value_name = "REPOSITORY:TAG")]
        tags: Vec<TagName>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Manifest {
    /// List the manifests of a repository, tagged or not
    #[command(visible_alias = "list")]
    Ls {
        /// Which one, as in me/cats
        repository: Repository,
        #[command(flatten)]
        output: Output,
    },
    /// Remove manifests with every tag that points to them
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names, as in me/cats@sha256:…
        #[arg(required = true, value_name = "REPOSITORY@DIGEST")]
        manifests: Vec<ManifestName>,
    },
}

/// A tag with its repository.
#[derive(Debug, Clone)]
pub struct TagName {
    repository: Repository,
    tag: String,
}

/// A manifest with its repository.
#[derive(Debug, Clone)]
pub struct ManifestName {
    repository: Repository,
    digest: Digest,
}

impl FromStr for TagName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            Some((repository, tag)) if Reference::is_tag(tag) => {
                Ok(Self { repository: repository.parse()?, tag: tag.to_owned() })
            }
            _ => bail!("`{text}` is not REPOSITORY:TAG, as in me/cats:1"),
        }
    }
}

impl FromStr for ManifestName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((repository, digest)) = text.split_once('@') else {
            bail!("`{text}` is not REPOSITORY@DIGEST, as in me/cats@sha256:…");
        };
        Ok(Self { repository: repository.parse()?, digest: digest.parse()? })
    }
}

impl Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

impl Tag {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Ls { repository, output } => {
                let tags = block_on(admin.tags(&repository))?;
                output.records(&tags, &["TAG", "DIGEST", "SET"], |tag| {
                    [tag.tag.clone(), tag.digest.to_string(), since(tag.set)]
                })
            }
            Self::Rm { tags } => {
                ask_for_each(&tags, |name| admin.remove_tag(&name.repository, &name.tag))
            }
        }
    }
}

impl Manifest {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Ls { repository, output } => {
                let manifests = block_on(admin.manifests(&repository))?;
                let headings = ["DIGEST", "TAGS", "PUSHED", "PULLED", "SIZE", "MEDIA TYPE"];
                output.records(&manifests, &headings, |manifest| {
                    let tags = match manifest.tags.is_empty() {
                        true => "-".to_owned(),
                        false => manifest.tags.join(","),
                    };
                    [
                        manifest.digest.to_string(),
                        tags,
                        since(manifest.pushed),
                        since(manifest.pulled),
                        size(manifest.bytes),
                        manifest.media_type.clone(),
                    ]
                })
            }
            Self::Rm { manifests } => ask_for_each(&manifests, |name| {
                admin.remove_manifest(&name.repository, &name.digest)
            }),
        }
    }
}

fn since(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| ago(at, now()))
}
