use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use spec::{Digest, ExecutionConfig, ImageConfig, Want};

use super::{LayerContent, Plan, Program};
use crate::error::Error;

/// Spin's locked application, the part that says what runs.
///
/// # Spec
/// Spin, `crates/locked-app`, lock version 1.
#[derive(Deserialize)]
struct LockedApp {
    spin_lock_version: u64,
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    id: String,
    source: Source,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    allowed_outbound_hosts: Vec<String>,
}

#[derive(Deserialize)]
struct Source {
    digest: Option<Digest>,
}

#[derive(Deserialize)]
struct File {
    content: Content,
    path: String,
}

#[derive(Deserialize)]
struct Content {
    digest: Option<Digest>,
    inline: Option<IgnoredAny>,
}

/// The config of an application that has none of its own.
pub(crate) fn config() -> ImageConfig {
    let (architecture, os) = ("wasm".to_owned(), "wasi".to_owned());
    ImageConfig { architecture, os, ..ImageConfig::default() }
}

/// Completes `plan` with what the locked application in `bytes` says: its program, files,
/// environment and wants.
pub(crate) fn apply(plan: &mut Plan, bytes: &[u8]) -> Result<(), Error> {
    let wrong = |why: String| Error::malformed("Spin application", why);
    let app: LockedApp = spec::json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let unsupported =
        |why: String| Error::Unsupported { what: "this Spin application".to_owned(), why };
    if app.spin_lock_version > 1 {
        return Err(unsupported(format!(
            "its lock version {} is newer than 1",
            app.spin_lock_version
        )));
    }
    let [component] = app.components.as_slice() else {
        return Err(unsupported(format!(
            "it has {} components, and an image here has one program",
            app.components.len()
        )));
    };
    let find = |plan: &Plan, digest: Digest| {
        plan.layers.iter().position(|layer| layer.descriptor.digest == digest)
    };
    let source = component
        .source
        .digest
        .ok_or_else(|| wrong(format!("`{}` has no source digest", component.id)))?;
    let program = find(plan, source)
        .ok_or_else(|| wrong(format!("the source of `{}` is no layer", component.id)))?;
    plan.program = Program::Layer(program);
    for file in &component.files {
        if file.content.inline.is_some() {
            return Err(unsupported(format!(
                "its file `{}` is written into the application itself",
                file.path
            )));
        }
        let digest =
            file.content.digest.ok_or_else(|| wrong(format!("`{}` has no digest", file.path)))?;
        let at = find(plan, digest).ok_or_else(|| wrong(format!("`{}` is no layer", file.path)))?;
        match &mut plan.layers[at].content {
            LayerContent::File { paths } => paths.push(file.path.clone()),
            _ => return Err(wrong(format!("`{}` is a layer of another kind", file.path))),
        }
    }
    let env = component.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let execution = plan.config.config.get_or_insert_with(ExecutionConfig::default);
    execution.env.get_or_insert_default().extend::<Vec<_>>(env);
    plan.args = vec![component.id.clone()];
    plan.wants = wants(&component.metadata.allowed_outbound_hosts);
    Ok(())
}

/// What Spin allows is what the image wants; patterns that no grant can express (`https://*:*`) ask
/// for nothing.
fn wants(hosts: &[String]) -> Vec<Want> {
    hosts.iter().filter_map(|host| format!("net.out:{host};optional").parse().ok()).collect()
}
