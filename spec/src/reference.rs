use std::{fmt, str::FromStr};

use crate::{
    digest::Digest,
    text::{ParseError, written_as_text},
};

/// The name of an image: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.
///
/// Without a tag and a digest it means `latest`. Without a registry it means the local images;
/// where one is to be fetched or sent, Docker Hub ([`Reference::remote`]). Docker Hub's names are
/// read in all their spellings: `index.docker.io/library/x` is `docker.io/x`.
///
/// # Spec
/// OCI distribution-spec 1.1, "Pulling manifests", for the grammar of repository and tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Option<String>,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The registry of names without one, as in Docker.
const HUB: &str = "docker.io";
/// The name under which old clients know it.
const HUB_INDEX: &str = "index.docker.io";
/// Where Docker Hub has names of one word.
const HUB_LIBRARY: &str = "library/";

/// The distribution-spec leaves the length open; this is what Docker's registry accepts.
const REPOSITORY_CHARS_MAX: usize = 255;
/// distribution-spec: a tag has at most 128 characters.
const TAG_CHARS_MAX: usize = 128;

impl Reference {
    /// The host, and port if any, of the registry; `None` for local images.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// The repository: path components joined by `/`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: what was written, else `latest`, else nothing when a digest pins the image.
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// The digest that pins the image, when one was written. It wins over the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry resolves: the digest if pinned, else the tag.
    pub fn target(&self) -> String {
        match self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag().unwrap_or("latest").to_owned(),
        }
    }

    /// The same image, pinned to `digest` (the tag stays, for readers).
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository and tag in another registry, or in the local images.
    pub fn at(&self, registry: Option<String>) -> Self {
        Self { registry, ..self.clone() }
    }

    /// The name among local images, where Docker Hub's need no registry: `docker.io/me/x` is
    /// `me/x`.
    pub fn local(&self) -> Self {
        match self.registry() {
            Some(HUB) => self.at(None),
            Some(_) => self.clone(),
            None => Self { repository: hub_name(&self.repository).to_owned(), ..self.clone() },
        }
    }

    /// The name where it is fetched from and sent to: at Docker Hub, when it names no registry.
    pub fn remote(&self) -> Self {
        match self.registry() {
            Some(_) => self.clone(),
            None => self.local().at(Some(HUB.to_owned())),
        }
    }

    /// The whole name, with what is usually left out of Docker Hub's: `docker.io/library/x:latest`.
    pub fn full_name(&self) -> String {
        let remote = self.remote();
        match remote.repository.contains('/') || remote.registry() != Some(HUB) {
            true => remote.to_string(),
            false => {
                let repository = format!("{HUB_LIBRARY}{}", remote.repository);
                Self { repository, ..remote }.to_string()
            }
        }
    }

    /// Whether `text` is a repository name by the grammar of the distribution-spec.
    pub fn is_repository(text: &str) -> bool {
        !text.is_empty() && text.len() <= REPOSITORY_CHARS_MAX && text.split('/').all(is_component)
    }

    /// Whether `text` is a tag by the grammar of the distribution-spec.
    pub fn is_tag(text: &str) -> bool {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        first
            && text.len() <= TAG_CHARS_MAX
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    }
}

/// A repository of Docker Hub without the `library/` that is left out.
fn hub_name(repository: &str) -> &str {
    repository.strip_prefix(HUB_LIBRARY).filter(|name| !name.contains('/')).unwrap_or(repository)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let mut separator = String::new();
    let mut seen = false;
    for c in text.chars() {
        match c {
            'a'..='z' | '0'..='9' => {
                let joined = match separator.as_str() {
                    "" => true,
                    "." | "_" | "__" => seen,
                    dashes => seen && dashes.chars().all(|c| c == '-'),
                };
                if !joined {
                    return false;
                }
                separator.clear();
                seen = true;
            }
            '.' | '_' | '-' => separator.push(c),
            _ => return false,
        }
    }
    seen && separator.is_empty()
}

/// By Docker's rule: a first component with a dot or a port, or `localhost`, is a host.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            let port = rest.strip_prefix(':');
            return v6.parse::<std::net::Ipv6Addr>().is_ok()
                && (rest.is_empty() || port.is_some_and(is_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let named = host == "localhost" || host.contains('.') || port.is_some();
    let spelled = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    named && spelled && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |why: &str| Err(ParseError::about(text, why));
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first.to_owned()), rest),
            _ => (None, name),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((_, "")) => return wrong("has an empty tag"),
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if repository.is_empty() {
            return wrong("has no repository name");
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return wrong("has upper-case letters in its repository name: use lower case");
        }
        if !Self::is_repository(repository) {
            return wrong(
                "is not an image name: use [REGISTRY/]NAME[:TAG][@DIGEST] with lower-case letters, digits and . _ - /",
            );
        }
        if tag.is_some_and(|tag| !Self::is_tag(tag)) {
            return wrong(
                "has a tag with other characters than letters, digits, `_`, `.` and `-`, or more than 128",
            );
        }
        let registry = registry.map(|name| if name == HUB_INDEX { HUB.to_owned() } else { name });
        let repository = match registry.as_deref() {
            Some(HUB) => hub_name(repository),
            _ => repository,
        };
        Ok(Self {
            registry,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

written_as_text!(
    Reference,
    "The name of an image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST].",
    "localhost:5000/me/cats:v1"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_parse_in_every_documented_form() {
        let digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        for (text, want) in [
            ("box.local/hello:1", "box.local/hello:1".to_owned()),
            ("hello", "hello:latest".to_owned()),
            ("docker.io/x:3", "docker.io/x:3".to_owned()),
            ("docker.io/library/x:3", "docker.io/x:3".to_owned()),
            ("index.docker.io/library/x", "docker.io/x:latest".to_owned()),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest".to_owned()),
            ("quay.io/library/x", "quay.io/library/x:latest".to_owned()),
            ("me/cats", "me/cats:latest".to_owned()),
            ("localhost/cats:v1", "localhost/cats:v1".to_owned()),
            ("localhost:5000/me/cats:v1", "localhost:5000/me/cats:v1".to_owned()),
            ("[::1]:5000/cats:v1", "[::1]:5000/cats:v1".to_owned()),
            ("busybox-cats:native", "busybox-cats:native".to_owned()),
            (&format!("cats@{digest}"), format!("cats@{digest}")),
            (&format!("cats:v1@{digest}"), format!("cats:v1@{digest}")),
            ("a__b/c-d--e.f:X_1.2-3", "a__b/c-d--e.f:X_1.2-3".to_owned()),
            ("box.local/hello:", "`box.local/hello:` has an empty tag".to_owned()),
            ("", "`` has no repository name".to_owned()),
            (
                "Cats",
                "`Cats` has upper-case letters in its repository name: use lower case".to_owned(),
            ),
        ] {
            let got = text.parse::<Reference>().map_or_else(|e| e.to_string(), |r| r.to_string());
            assert_eq!(got, want, "parsing {text}");
        }
        for text in [
            "a//b",
            "a/../b",
            "a%2f..",
            "-a",
            "a-",
            "a.",
            "a..b",
            "a___b",
            "/a",
            "a/",
            "a:b c",
            "a@b",
            "a@sha256:00",
            "x.y:99999/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "parsing {text}");
        }
        assert!("a".repeat(256).parse::<Reference>().is_err());
        assert!(format!("a:{}", "t".repeat(129)).parse::<Reference>().is_err());
    }

    #[test]
    fn names_of_docker_hub_are_one_however_they_are_spelled() {
        for text in ["x:3", "library/x:3", "docker.io/x:3", "docker.io/library/x:3"] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.local().to_string(), "x:3", "{text}");
            assert_eq!(reference.remote().to_string(), "docker.io/x:3", "{text}");
            assert_eq!(reference.full_name(), "docker.io/library/x:3", "{text}");
        }
        for (text, local, full) in [
            ("me/x", "me/x:latest", "docker.io/me/x:latest"),
            ("index.docker.io/me/x", "me/x:latest", "docker.io/me/x:latest"),
            ("quay.io/x", "quay.io/x:latest", "quay.io/x:latest"),
            (
                "localhost:5000/library/x",
                "localhost:5000/library/x:latest",
                "localhost:5000/library/x:latest",
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.local().to_string(), reference.full_name()),
                (local.into(), full.into())
            );
        }
    }
}
