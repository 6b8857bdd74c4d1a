use std::path::PathBuf;

use spec::{Platform, Reference};

use super::{Executor, Pull, StageState};
use crate::{
    diagnostic::{DiagnosticKind, WarningKind},
    dockerfile::instruction::BuildStage,
    error::Error,
    fault::Fault,
    stage::Stage,
};

/// `FROM [--platform=…] image`: an earlier stage, `scratch`, or a local image.
pub(super) fn from(
    executor: &mut Executor<'_, '_>,
    stage: &BuildStage,
    number: usize,
) -> Result<StageState, Fault> {
    let image = executor.word(&executor.globals, &stage.image)?;
    if image.is_empty() {
        return Err(DiagnosticKind::NoImageName.at(stage.image.place));
    }
    let platform = executor.platform_flag(stage)?;
    if let Some(earlier) = executor.base_stage(&image, number) {
        let parent = executor.finished(earlier)?;
        executor.count(parent.stage.layers.iter().map(|layer| layer.items.len()).sum())?;
        return Ok(StageState { own_cmd: false, ..StageState::clone(&parent) });
    }
    if image == "scratch" {
        let mut stage = Stage::scratch();
        stage.config.working_dir = Some("/".to_owned());
        return Ok(StageState::on(stage));
    }
    let wanted = platform.as_ref().or(executor.input.platform);
    let base =
        executor.local_image(&image, wanted).map_err(|fault| fault.or_at(stage.image.place))?;
    if let (Some(wanted), false) = (wanted.cloned(), base.is_wanted) {
        let found = base.plan.platform.clone();
        let image = base.reference.clone();
        executor.warnings.add(stage.place, WarningKind::PlatformIgnored { wanted, image, found });
    }
    Ok(StageState::on(executor.stage_of(&base)?))
}

/// An image of the layout, by the name in FROM or in `COPY --from`.
pub(super) struct LocalBase {
    reference: Reference,
    manifest: spec::Descriptor,
    plan: image::Plan,
    /// Whether it is for the platform that was asked for.
    is_wanted: bool,
}

impl Executor<'_, '_> {
    fn platform_flag(&self, stage: &BuildStage) -> Result<Option<Platform>, Fault> {
        let Some(word) = &stage.platform else { return Ok(None) };
        let text = self.word(&self.globals, word)?;
        let parsed = parse_platform(&text);
        parsed.map(Some).ok_or_else(|| DiagnosticKind::Platform(text).at(word.place))
    }

    pub(super) fn local_image(
        &mut self,
        image: &str,
        platform: Option<&Platform>,
    ) -> Result<LocalBase, Fault> {
        let layout = self.input.layout;
        let reference: Reference = image.parse().map_err(DiagnosticKind::Reference)?;
        let mut found = layout.resolve(&reference)?;
        let fetch = match (self.input.pull, &found) {
            (Pull::Always(fetch), _) if self.fetched.insert(reference.to_string()) => Some(fetch),
            (Pull::Missing(fetch), None) => Some(fetch),
            _ => None,
        };
        let mut why = None;
        if let Some(fetch) = fetch {
            match fetch(&reference) {
                Ok(()) => found = layout.resolve(&reference)?,
                Err(error) => why = Some(error),
            }
        }
        let descriptor = match (found, why) {
            (Some(descriptor), None) => descriptor,
            (_, why) => {
                let folder = self.folder_beside(&reference);
                return Err(DiagnosticKind::NoBase { image: reference, folder, why }.into());
            }
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
        let image = (&base.manifest, &base.plan);
        Stage::from_image(self.input.layout, self.input.cache, &base.reference, image)
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
        // The context is what needs the image.
        if folder.canonicalize().ok() == context.canonicalize().ok() {
            return None;
        }
        let build_files = ["Dockerfile", "Containerfile", "margay.toml"];
        build_files.iter().any(|file| folder.join(file).is_file()).then_some(folder)
    }
}

/// `linux/amd64`, `linux/arm/v7`
pub fn parse_platform(text: &str) -> Option<Platform> {
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
