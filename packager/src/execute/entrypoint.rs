use super::StageState;
use crate::dockerfile::instruction::Command;

/// `ENTRYPOINT`: takes away the CMD of the base, which were the arguments of another program.
pub(super) fn entrypoint(state: &mut StageState, command: &Command) {
    let (args, is_shell) = arguments(command, &state.shell);
    let stage = &mut state.stage;
    if !state.own_cmd {
        stage.config.cmd = None;
        stage.shell_form.cmd = false;
    }
    stage.config.entrypoint = Some(args);
    stage.shell_form.entrypoint = is_shell;
}

pub(super) fn cmd(state: &mut StageState, command: &Command) {
    let (args, is_shell) = arguments(command, &state.shell);
    state.own_cmd = true;
    state.stage.config.cmd = Some(args);
    state.stage.shell_form.cmd = is_shell;
}

/// The arguments, and whether they were written in shell form.
fn arguments(command: &Command, shell: &[String]) -> (Vec<String>, bool) {
    match command {
        Command::Exec(args) => (args.clone(), false),
        Command::Shell(line) => ([shell, std::slice::from_ref(line)].concat(), true),
    }
}
