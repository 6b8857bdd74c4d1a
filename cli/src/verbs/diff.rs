mod files; // what two root filesystems have
mod told; // a comparison in words

use std::{collections::BTreeMap, process::ExitCode};

use image::{Plan, ProgramFacts, Wasi, World};
use packager::Layout;
use serde::Serialize;
use spec::{Capability, Descriptor, Digest, Want};

use crate::{
    failure::{Advice, USAGE_ERROR},
    home::Home,
    images::{self, Choice, Fetch},
    output::Output,
    program::{self, PROGRAM_BYTES_MAX},
    transfer::Remote,
};

/// Compare two images: what they may ask for, import, and have in them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Images that are not here are pulled. Files are compared by kind, content, link and mode, and not by time or
owner; devices, pipes and sparse files are left out. Letters are Docker's: A is added, C is changed, D is deleted.

Examples:
  margay diff localhost:8080/ann/api:v1 localhost:8080/ann/api:v2
  margay diff --exit-code api:tested api:latest && echo the same"
)]
pub struct Args {
    /// The image to compare with
    #[arg(value_name = "IMAGE")]
    before: String,
    /// The image that is compared
    #[arg(value_name = "IMAGE")]
    after: Option<String>,
    /// Exit with 1 when the images differ, and with 2 when they cannot be compared
    #[arg(long)]
    pub exit_code: bool,
    /// Compare what the images have for this platform
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<spec::Platform>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

/// What differs between two images.
#[derive(Debug, Serialize)]
struct Diff {
    before: Side,
    after: Side,
    same: bool,
    /// What they ask for.
    capabilities: Capabilities,
    imports: Names,
    exports: Names,
    settings: Vec<Setting>,
    layers: Layers,
    files: Vec<files::Change>,
}

#[derive(Debug, Serialize)]
struct Side {
    image: String,
    /// Of the manifest that is compared.
    digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    wasi: Option<Wasi>,
    #[serde(skip_serializing_if = "Option::is_none")]
    world: Option<World>,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    added: Vec<Added>,
    removed: Vec<Want>,
}

/// A capability that only the image after asks for.
#[derive(Debug, Serialize)]
struct Added {
    want: Want,
    /// One of the image before that reaches as far, or farther.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<Want>,
}

#[derive(Debug, Default, Serialize)]
struct Names {
    added: Vec<String>,
    removed: Vec<String>,
}

/// What the config says about running.
#[derive(Debug, Serialize)]
struct Setting {
    name: &'static str,
    before: String,
    after: String,
}

#[derive(Debug, Serialize)]
struct Layers {
    same: usize,
    added: Vec<Layer>,
    removed: Vec<Layer>,
}

#[derive(Debug, Serialize)]
struct Layer {
    digest: Digest,
    size: u64,
}

/// An image that was read.
struct Image {
    name: String,
    manifest: Descriptor,
    layout: Layout,
    plan: Plan,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let Some(after) = &self.after else {
            return Err(Advice::new(format!("`{}` is compared with no other image", self.before))
                .hint(
                    "name two: margay diff IMAGE IMAGE; what a task has written is not compared \
                     with its image",
                )
                .code(USAGE_ERROR)
                .into());
        };
        let (before, after) = (self.image(home, &self.before)?, self.image(home, after)?);
        let diff = Diff::of(&before, &after)?;
        self.output.report(&diff, told::told)?;
        Ok(ExitCode::from(u8::from(self.exit_code && !diff.same)))
    }

    fn image(&self, home: &Home, text: &str) -> anyhow::Result<Image> {
        let choice = Choice { platform: self.platform.as_ref(), quiet: false };
        let found = images::find_for(home, text, Fetch::Missing, &self.remote, choice)?;
        let manifest = found.layout.choose(&found.descriptor, &packager::host_platforms())?;
        let plan = found.layout.plan(&manifest)?;
        Ok(Image { name: text.to_owned(), manifest, layout: found.layout, plan })
    }
}

impl Diff {
    fn of(before: &Image, after: &Image) -> anyhow::Result<Self> {
        let layers_before = program::layers(&before.layout, &before.plan);
        let layers_after = program::layers(&after.layout, &after.plan);
        let (index_before, index_after) = (layers_before.index()?, layers_after.index()?);
        let program_before = layers_before.program(&index_before, PROGRAM_BYTES_MAX)?;
        let program_after = layers_after.program(&index_after, PROGRAM_BYTES_MAX)?;
        let files = files::changes(
            &files::Tree { index: &index_before, plan: &before.plan, layers: &layers_before },
            &files::Tree { index: &index_after, plan: &after.plan, layers: &layers_after },
        )?;
        let names = |of: fn(&ProgramFacts) -> &Vec<String>| {
            let names =
                |program: &Option<ProgramFacts>| program.as_ref().map_or(vec![], |p| of(p).clone());
            let (added, removed) = split(&names(&program_before), &names(&program_after));
            Names { added, removed }
        };
        Ok(Self {
            same: before.manifest.digest == after.manifest.digest,
            capabilities: Capabilities::of(&before.plan.wants, &after.plan.wants),
            imports: names(|program| &program.imports),
            exports: names(|program| &program.exports),
            settings: settings(&before.plan, &after.plan),
            layers: Layers::of(&before.plan, &after.plan),
            files,
            before: Side::of(before, program_before.as_ref()),
            after: Side::of(after, program_after.as_ref()),
        })
    }
}

impl Side {
    fn of(image: &Image, program: Option<&ProgramFacts>) -> Self {
        Self {
            image: image.name.clone(),
            digest: image.manifest.digest,
            wasi: program.map(|program| program.wasi),
            world: program.map(|program| program.world),
        }
    }
}

impl Capabilities {
    fn of(before: &[Want], after: &[Want]) -> Self {
        let Changes { added, removed } = changes(before, after, |want| &want.capability);
        let added = added.into_iter().map(|(want, within)| Added { want, within });
        Self { added: added.collect(), removed }
    }
}

impl Layers {
    fn of(before: &Plan, after: &Plan) -> Self {
        let all = |plan: &Plan| -> Vec<(Digest, u64)> {
            let layers = plan.layers.iter().map(|layer| &layer.descriptor);
            layers.map(|layer| (layer.digest, layer.size)).collect()
        };
        let (before, after) = (all(before), all(after));
        let (added, removed) = split(&before, &after);
        let layers = |list: Vec<(Digest, u64)>| {
            list.into_iter().map(|(digest, size)| Layer { digest, size }).collect::<Vec<_>>()
        };
        Self { same: after.len() - added.len(), added: layers(added), removed: layers(removed) }
    }
}

/// Lines that were added, each with one of before that reaches as far, and those that are gone.
pub struct Changes<T> {
    pub added: Vec<(T, Option<T>)>,
    pub removed: Vec<T>,
}

/// Pure: compares wants, or grants, by the capability in them.
pub fn changes<T: Clone + PartialEq>(
    before: &[T],
    after: &[T],
    capability: impl Fn(&T) -> &Capability,
) -> Changes<T> {
    let (added, removed) = split(before, after);
    let within = |line: &T| {
        let wider = |known: &&T| capability(known).covers(capability(line));
        before.iter().find(wider).cloned()
    };
    let added = added.into_iter().map(|line| {
        let within = within(&line);
        (line, within)
    });
    Changes { added: added.collect(), removed }
}

/// What only `after` has, and what only `before` has.
fn split<T: Clone + PartialEq>(before: &[T], after: &[T]) -> (Vec<T>, Vec<T>) {
    let without = |all: &[T], known: &[T]| {
        all.iter().filter(|one| !known.contains(one)).cloned().collect::<Vec<_>>()
    };
    (without(after, before), without(before, after))
}

/// Settings by name, as text; those of the environment one by one.
fn settings(before: &Plan, after: &Plan) -> Vec<Setting> {
    let named = |plan: &Plan| {
        let execution = plan.execution();
        let ports: Vec<_> = plan.exposed().iter().map(ToString::to_string).collect();
        [
            ("platform", plan.platform.to_string()),
            ("format", format!("{:?}", plan.format)),
            ("arguments", json(&plan.args)),
            ("working directory", execution.working_dir.clone().unwrap_or_default()),
            ("user", execution.user.clone().unwrap_or_default()),
            ("ports", ports.join(" ")),
            ("labels", labels(plan)),
            ("stop signal", execution.stop_signal.clone().unwrap_or_default()),
        ]
    };
    let pairs = named(before).into_iter().zip(named(after));
    let pairs = pairs.map(|((name, before), (_, after))| Setting { name, before, after });
    let differ = |setting: &Setting| setting.before != setting.after;
    pairs.chain(environment(before, after)).filter(differ).collect()
}

/// Each variable by itself, as `NAME=value`.
fn environment(before: &Plan, after: &Plan) -> Vec<Setting> {
    let lines = |plan: &Plan| plan.execution().env.clone().unwrap_or_default();
    let (added, removed) = split(&lines(before), &lines(after));
    let name = |line: &str| line.split_once('=').map_or(line, |(name, _)| name).to_owned();
    let mut pairs: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in removed {
        let name = name(&line);
        pairs.entry(name).or_default().0 = line;
    }
    for line in added {
        let name = name(&line);
        pairs.entry(name).or_default().1 = line;
    }
    let pairs = pairs.into_values();
    pairs.map(|(before, after)| Setting { name: "environment", before, after }).collect()
}

/// Without the capabilities, which are compared by themselves.
fn labels(plan: &Plan) -> String {
    let labels = plan.execution().labels.iter().flatten();
    let labels = labels.filter(|(key, _)| key.as_str() != image::WANTS_KEY);
    json(&labels.collect::<BTreeMap<_, _>>())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("settings are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_was_covered_before_is_told_apart() {
        let wants = |lines: &str| image::parse_wants(lines).expect("wants");
        for (before, after, want) in [
            ("", "", r#"{"added":[],"removed":[]}"#),
            (
                "fs:/data#rw",
                "fs:/data#r",
                r#"{"added":[{"want":"fs:/data#r","within":"fs:/data#rw"}],"removed":["fs:/data#rw"]}"#,
            ),
            (
                "fs:/data#r",
                "fs:/data#rw",
                r#"{"added":[{"want":"fs:/data#rw"}],"removed":["fs:/data#r"]}"#,
            ),
            (
                "clock:coarse",
                "clock:coarse\nnet.out:https://example.com:443",
                r#"{"added":[{"want":"net.out:https://example.com:443"}],"removed":[]}"#,
            ),
        ] {
            let found = Capabilities::of(&wants(before), &wants(after));
            assert_eq!(json(&found), want, "`{before}` and `{after}`");
        }
    }
}
