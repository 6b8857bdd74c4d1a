use std::collections::BTreeMap;

use spec::Platform;

/// What the names in one stage of a Dockerfile stand for. A stage that is made from this one knows
/// them too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    /// ENV, also of the base. It wins, wherever an ARG of that name stands.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) args: BTreeMap<String, String>,
}

impl Variables {
    /// With the `NAME=value` lines of a config.
    pub(crate) fn of_env(lines: &Option<Vec<String>>) -> Self {
        let pairs = lines.iter().flatten().filter_map(|line| line.split_once('='));
        Self {
            env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            args: BTreeMap::new(),
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.env.get(name).or_else(|| self.args.get(name)).cloned()
    }
}

/// The ARGs that nobody has to declare in front of the first FROM. What is built is for `host`, as
/// with Docker where nobody says otherwise.
///
/// # Spec
/// Dockerfile reference, "Automatic platform ARGs in the global scope".
pub(crate) fn platform_args(host: &Platform) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for whose in ["BUILD", "TARGET"] {
        args.insert(format!("{whose}PLATFORM"), platform_name(host));
        args.insert(format!("{whose}OS"), host.os.clone());
        args.insert(format!("{whose}ARCH"), host.architecture.clone());
        args.insert(format!("{whose}VARIANT"), host.variant.clone().unwrap_or_default());
    }
    args
}

pub(crate) fn platform_name(platform: &Platform) -> String {
    let variant = platform.variant.iter().map(|variant| format!("/{variant}")).collect::<String>();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

/// `linux/amd64`, `linux/arm/v7`.
pub(crate) fn parse_platform(text: &str) -> Result<Platform, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
        _ => return Err(format!("`{text}` is not a platform like linux/amd64")),
    };
    match parts.contains(&"") {
        true => Err(format!("`{text}` is not a platform like linux/amd64")),
        false => {
            Ok(Platform { architecture: (*architecture).to_owned(), os: (*os).to_owned(), variant })
        }
    }
}

/// Whether an image for `platform` is what was asked for with `wanted`.
pub(crate) fn is_for(platform: &Platform, wanted: &Platform) -> bool {
    platform.os.eq_ignore_ascii_case(&wanted.os)
        && platform.architecture.eq_ignore_ascii_case(&wanted.architecture)
        && (wanted.variant.is_none() || wanted.variant == platform.variant)
}
