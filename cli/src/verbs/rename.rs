use node::tasks;

use crate::home::Home;

/// Give a task another name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name or id
    task: String,
    /// Its new name
    name: String,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        Ok(tasks::find(home.node(), &self.task)?.rename(&self.name)?)
    }
}
