use std::collections::BTreeMap;

/// What the names in one stage of a Dockerfile stand for: ENV and ARG, the latter of two with the
/// same name. A stage that is made from this one knows them too, with ENV before ARG.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Takes in the `NAME=value` lines of a config.
    pub(crate) fn set_env(&mut self, lines: &Option<Vec<String>>) {
        for line in lines.iter().flatten() {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            self.set(name, value);
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}
