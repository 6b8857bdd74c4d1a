use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  margay completions bash > ~/.local/share/bash-completion/completions/margay
  margay completions zsh > \"${fpath[1]}/_margay\"
  margay completions fish > ~/.config/fish/completions/margay.fish")]
pub struct Args {
    /// The shell to write for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Args {
    /// Writes the script for `command` to stdout.
    pub fn run(self, mut command: clap::Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "margay", &mut script);
        output::raw(&script);
        Ok(())
    }
}
