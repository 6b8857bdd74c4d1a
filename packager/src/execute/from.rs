use std::path::PathBuf;

use blobs::DOCUMENT_BYTES_MAX;
use serde::Deserialize;
use spec::{Descriptor, Platform, Reference};

use super::{Executor, StageState};
use crate::{
    diagnostic::{DiagnosticKind, WarningKind, shortened},
    dockerfile::instruction::BuildStage,
    error::{Error, unusable},
    fault::Fault,
    layout::Layout,
    limits::QUOTED_CHARS_MAX,
    stage::Stage,
};

/// `FROM [--platform=…] image`: an earlier stage, `scratch`, or a local image.
pub(super) fn from(
    executor: &mut Executor<'_, '_>,
    stage: &BuildStage,
    number: usize,
) -> Result<StageState, Fault> {
    let image = executor.word(&executor.globals, &stage.image)?;
    let platform = executor.platform_flag(stage)?;
    if let Some(earlier) = executor.dockerfile.stage_number(&image, number) {
        let parent = executor.finished[&earlier].clone();
        executor.count(parent.stage.layers.iter().map(|layer| layer.items.len()).sum())?;
        return Ok(StageState { own_cmd: false, ..StageState::clone(&parent) });
    }
    if image == "scratch" {
        return Ok(StageState::on(Stage::scratch()));
    }
    let base = executor.local_image(&image, platform.as_ref())?;
    if let (Some(wanted), false) = (platform, base.is_wanted) {
        let found = base.plan.platform.clone();
        let image = base.reference.clone();
        executor.warnings.add(stage.line, WarningKind::PlatformIgnored { wanted, image, found });
    }
    if base.plan.format == image::Format::Image
        && let Some(trigger) = first_trigger(executor.input.layout, &base.manifest)?
    {
        let trigger = shortened(&trigger, QUOTED_CHARS_MAX);
        return Err(DiagnosticKind::BaseTrigger { image, trigger }.into());
    }
    Ok(StageState::on(executor.stage_of(&base)?))
}

/// An image of the layout, by the name in FROM or in `COPY --from`.
pub(super) struct LocalBase {
    reference: Reference,
    manifest: Descriptor,
    plan: image::Plan,
    /// Whether it is for the platform that was asked for.
    is_wanted: bool,
}

impl Executor<'_, '_> {
    fn platform_flag(&self, stage: &BuildStage) -> Result<Option<Platform>, Fault> {
        let mut platform = None;
        for flag in &stage.flags {
            let Some(value) = flag.value.as_ref().filter(|_| flag.name == "platform") else {
                return Err(DiagnosticKind::FromFlag(flag.name.clone()).at(flag.line));
            };
            let text = self.word(&self.globals, value)?;
            let parsed = parse_platform(&text);
            platform = Some(parsed.ok_or_else(|| DiagnosticKind::Platform(text).at(flag.line))?);
        }
        Ok(platform)
    }

    pub(super) fn local_image(
        &self,
        image: &str,
        platform: Option<&Platform>,
    ) -> Result<LocalBase, Fault> {
        let layout = self.input.layout;
        let reference: Reference = image.parse().map_err(DiagnosticKind::Reference)?;
        let Some(descriptor) = layout.resolve(&reference)? else {
            let folder = self.folder_beside(&reference);
            return Err(DiagnosticKind::NoBase { image: reference, folder }.into());
        };
        let mut manifest = None;
        if let Some(wanted) = platform {
            let mut entries = layout.manifests(&descriptor)?.into_iter().map(|(entry, _)| entry);
            manifest = entries
                .find(|entry| entry.platform.as_ref().is_some_and(|own| is_for(own, wanted)));
        }
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => layout.choose(&descriptor, self.input.native)?,
        };
        let plan = layout.plan(&manifest)?;
        let is_wanted = platform.is_none_or(|wanted| is_for(&plan.platform, wanted));
        Ok(LocalBase { reference, manifest, plan, is_wanted })
    }

    pub(super) fn stage_of(&self, base: &LocalBase) -> Result<Stage, Error> {
        Stage::from_image(self.input.layout, self.input.cache, &base.reference, &base.plan)
    }

    /// A folder of the same name beside the build context, from which the missing image could be
    /// built.
    fn folder_beside(&self, image: &Reference) -> Option<PathBuf> {
        if image.registry().is_some() {
            return None;
        }
        let name = image.repository().rsplit('/').next()?;
        let context = self.input.context.path();
        let folder = match context.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => parent.join(name),
            None => context.canonicalize().ok()?.parent()?.join(name),
        };
        let build_files = ["Dockerfile", "margay.toml"];
        build_files.iter().any(|file| folder.join(file).is_file()).then_some(folder)
    }
}

/// `linux/amd64`, `linux/arm/v7`
fn parse_platform(text: &str) -> Option<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
        _ => return None,
    };
    let (os, architecture) = ((*os).to_owned(), (*architecture).to_owned());
    (!parts.contains(&"")).then_some(Platform { os, architecture, variant })
}

/// Whether an image for `platform` is what was asked for with `wanted`.
fn is_for(platform: &Platform, wanted: &Platform) -> bool {
    platform.os.eq_ignore_ascii_case(&wanted.os)
        && platform.architecture.eq_ignore_ascii_case(&wanted.architecture)
        && (wanted.variant.is_none() || wanted.variant == platform.variant)
}

/// The first ONBUILD instruction of an image, which Docker would carry out in every image made from
/// it: Docker's own addition to configs.
fn first_trigger(layout: &Layout, manifest: &Descriptor) -> Result<Option<String>, Error> {
    #[derive(Deserialize)]
    struct Config {
        config: Option<Execution>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Execution {
        on_build: Option<Vec<String>>,
    }
    let malformed = |error: serde_json::Error| {
        let why = error.to_string();
        unusable(&manifest.digest)(image::Error::Malformed { document: "image config", why })
    };
    let mut manifests = layout.manifests(manifest)?.into_iter();
    let Some(config) = manifests.find_map(|(_, manifest)| manifest.config) else { return Ok(None) };
    let bytes = layout.read_blob(&config, DOCUMENT_BYTES_MAX)?;
    let config: Config = serde_json::from_slice(&bytes).map_err(malformed)?;
    Ok(config.config.and_then(|config| config.on_build).into_iter().flatten().next())
}
