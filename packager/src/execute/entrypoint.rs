use super::StageState;
use crate::{diagnostic::Place, dockerfile::instruction::Command};

impl StageState {
    /// `ENTRYPOINT`: takes away the CMD of the base, which were the arguments of another program.
    pub(super) fn entrypoint(&mut self, command: &Command, place: Place) {
        self.stage.program_place = Some(place);
        let (args, is_shell) = self.arguments(command);
        if !self.own_cmd {
            self.stage.config.cmd = None;
            self.stage.shell_form.cmd = false;
        }
        // An empty list takes the one of the base away.
        self.stage.config.entrypoint = Some(args).filter(|args| !args.is_empty());
        self.stage.shell_form.entrypoint = is_shell;
    }

    pub(super) fn cmd(&mut self, command: &Command, place: Place) {
        if self.stage.config.entrypoint.is_none() {
            self.stage.program_place = Some(place);
        }
        let (args, is_shell) = self.arguments(command);
        self.own_cmd = true;
        self.stage.config.cmd = Some(args);
        self.stage.shell_form.cmd = is_shell;
    }

    /// The arguments, and whether they were written in shell form.
    fn arguments(&self, command: &Command) -> (Vec<String>, bool) {
        match command {
            Command::Exec(args) => (args.clone(), false),
            Command::Shell(line) => {
                let own = self.stage.config.shell.clone().filter(|shell| !shell.is_empty());
                let mut args = own.unwrap_or_else(|| ["/bin/sh", "-c"].map(str::to_owned).into());
                args.push(line.clone());
                (args, true)
            }
        }
    }
}
