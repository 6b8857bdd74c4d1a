use packager::{Layout, LocalImage};
use serde_json::{Map, Value, json};
use spec::{ImageConfig, Platform, Reference, Timestamp};

use crate::{
    listing::{Fields, record},
    output::{ago, docker_size, docker_time, now},
};

/// What a template of `images` can name.
pub const FIELDS: Fields = &[
    ("Containers", "TASKS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Labels", "LABELS"),
    ("Platform", "PLATFORM"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// What Docker prints for what is not known.
pub const UNKNOWN: &str = "N/A";

/// Repository and tag, each in a cell of its own.
pub fn repository_and_tag(reference: &Reference) -> (String, String) {
    let name = reference.to_string();
    let name = name.split('@').next().unwrap_or_default();
    // A registry's port has a colon too; the tag comes after the last slash.
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].find(':') {
        Some(colon) => (name[..start + colon].to_owned(), name[start + colon + 1..].to_owned()),
        None => (name.to_owned(), "<none>".to_owned()),
    }
}

/// When an image was built. The start of 1970 is what a reproducible build writes, and says
/// nothing.
pub fn created(text: Option<&str>) -> Option<Timestamp> {
    let text = text?;
    let seconds = text.get(..19)?;
    let time: Timestamp = format!("{seconds}.000Z").parse().ok()?;
    Some(time).filter(|time| time.millis() > 0)
}

pub fn created_since(text: Option<&str>) -> String {
    created(text).map_or_else(|| UNKNOWN.to_owned(), |time| ago(time, now()))
}

pub fn platform_name(platform: &Platform) -> String {
    match &platform.variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    }
}

/// A row of `images` under Docker's names.
pub fn row(local: &LocalImage, tasks: usize, config: Option<&ImageConfig>) -> Map<String, Value> {
    let (repository, tag) = repository_and_tag(&local.reference);
    let digest = local.descriptor.digest;
    let since = local.created.as_deref();
    let at = created(since).map_or_else(|| UNKNOWN.to_owned(), docker_time);
    let platforms: Vec<String> = local.platforms.iter().map(platform_name).collect();
    let labels = labels(config);
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    record([
        ("Containers", tasks.to_string().into()),
        ("CreatedAt", at.into()),
        ("CreatedSince", created_since(since).into()),
        ("Digest", digest.to_string().into()),
        ("ID", digest.short().into()),
        ("Labels", pairs.join(",").into()),
        ("Platform", platforms.join(", ").into()),
        ("Repository", repository.into()),
        ("SharedSize", UNKNOWN.into()),
        ("Size", docker_size(local.size).into()),
        ("Tag", tag.into()),
        ("UniqueSize", UNKNOWN.into()),
        ("VirtualSize", docker_size(local.size).into()),
        ("Label", Value::Object(labels)),
    ])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn labels(config: Option<&ImageConfig>) -> Map<String, Value> {
    let labels = config.and_then(|config| config.config.as_ref()?.labels.clone());
    labels.unwrap_or_default().into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// The config of the image that this machine would run, of several platforms.
pub fn config(layout: &Layout, descriptor: &spec::Descriptor) -> Option<ImageConfig> {
    let manifest = layout.choose(descriptor, &packager::host_platforms()).ok()?;
    Some(layout.plan(&manifest).ok()?.config)
}

/// The structure of Docker's `inspect`.
pub fn inspect(
    layout: &Layout,
    descriptor: &spec::Descriptor,
    config: &ImageConfig,
    size: u64,
) -> Map<String, Value> {
    let names: Vec<Reference> = layout
        .list()
        .unwrap_or_default()
        .into_iter()
        .filter(|local| local.descriptor.digest == descriptor.digest)
        .map(|local| local.reference)
        .collect();
    let tags: Vec<String> = names.iter().map(ToString::to_string).collect();
    let digests: Vec<String> = names
        .iter()
        .filter(|name| name.registry().is_some())
        .map(|name| format!("{}@{}", repository_and_tag(name).0, descriptor.digest))
        .collect();
    record([
        ("Id", descriptor.digest.to_string().into()),
        ("RepoTags", json!(tags)),
        ("RepoDigests", json!(digests)),
        ("Created", config.created.clone().unwrap_or_default().into()),
        ("Architecture", config.architecture.clone().into()),
        ("Os", config.os.clone().into()),
        ("Size", size.into()),
        ("Config", with_empty(json!(config.config.clone().unwrap_or_default()))),
        ("RootFS", json!({"Type": "layers", "Layers": config.rootfs.diff_ids})),
    ])
}

/// Docker prints a field that an image does not set as well.
fn with_empty(mut config: Value) -> Value {
    let Some(fields) = config.as_object_mut() else { return config };
    for (name, empty) in [
        ("Cmd", Value::Null),
        ("Entrypoint", Value::Null),
        ("Env", Value::Null),
        ("ExposedPorts", json!({})),
        ("Labels", json!({})),
        ("User", "".into()),
        ("Volumes", json!({})),
        ("WorkingDir", "".into()),
    ] {
        fields.entry(name).or_insert(empty);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_repository_and_a_tag() {
        for (name, repository, tag) in [
            ("cats", "cats", "latest"),
            ("localhost:5000/me/cats:v1", "localhost:5000/me/cats", "v1"),
        ] {
            let found = repository_and_tag(&name.parse().unwrap());
            assert_eq!(found, (repository.to_owned(), tag.to_owned()), "{name}");
        }
    }

    #[test]
    fn the_time_of_a_reproducible_build_says_nothing() {
        for (text, want) in [
            (None, None),
            (Some("1970-01-01T00:00:00Z"), None),
            (Some("2026-11-23T16:40:00Z"), Some("2026-11-23T16:40:00.000Z")),
            (Some("2026-11-23T16:40:00.123456789Z"), Some("2026-11-23T16:40:00.000Z")),
            (Some("yesterday"), None),
        ] {
            assert_eq!(created(text).map(|t| t.to_string()).as_deref(), want, "{text:?}");
        }
    }
}
