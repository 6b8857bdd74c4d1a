use std::collections::BTreeMap;

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
