use crate::home::Home;
/// TEMP
#[derive(Debug, clap::Args)]
pub struct Args {}
impl Args { pub fn run(self, _home: &Home) -> anyhow::Result<()> { anyhow::bail!("temp") } }
