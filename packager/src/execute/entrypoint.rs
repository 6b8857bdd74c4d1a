use super::StageState;
use crate::dockerfile::instruction::Command;

impl StageState {
    /// `ENTRYPOINT`: takes away the CMD of the base, which were the arguments of another program.
    pub(super) fn entrypoint(&mut self, command: &Command) {
        let (args, is_shell) = self.arguments(command);
        if !self.own_cmd {
            self.stage.config.cmd = None;
            self.stage.shell_form.cmd = false;
        }
        self.stage.config.entrypoint = Some(args);
        self.stage.shell_form.entrypoint = is_shell;
    }

    pub(super) fn cmd(&mut self, command: &Command) {
        let (args, is_shell) = self.arguments(command);
        self.own_cmd = true;
        self.stage.config.cmd = Some(args);
        self.stage.shell_form.cmd = is_shell;
    }

    /// The arguments, and whether they were written in shell form.
    fn arguments(&self, command: &Command) -> (Vec<String>, bool) {
        match command {
            Command::Exec(args) => (args.clone(), false),
            Command::Shell(line) => ([&self.shell, std::slice::from_ref(line)].concat(), true),
        }
    }
}
