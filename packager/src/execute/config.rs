use spec::HealthCheck;

use super::{Executor, StageState};
use crate::{
    diagnostic::{DiagnosticKind, WarningKind, shortened},
    dockerfile::{
        duration::parse_duration_ns,
        instruction::{Command, Flag, Word},
    },
    fault::Fault,
    items::{Item, MODE_EXECUTABLE},
    limits::{PATH_BYTES_MAX, PORT_RANGE_MAX, QUOTED_CHARS_MAX, VARIABLES_MAX},
    path::clamped,
    stage::single_item,
};

impl Executor<'_, '_> {
    /// `ENV NAME=value …`: into the config, and for the instructions that follow.
    pub(super) fn env(&self, state: &mut StageState, text: &str) -> Result<(), Fault> {
        for (name, value) in self.pairs(&state.variables, text)? {
            if state.stage.set_env(&name, &value) > VARIABLES_MAX {
                return Err(DiagnosticKind::TooManyVariables.into());
            }
            state.variables.env.insert(name, value);
        }
        Ok(())
    }

    /// `LABEL name=value …`. Wants are checked and put into their canonical form.
    pub(super) fn label(&self, state: &mut StageState, text: &str) -> Result<(), Fault> {
        for (name, mut value) in self.pairs(&state.variables, text)? {
            if name == image::WANTS_KEY {
                let wants = image::parse_wants(&value).map_err(DiagnosticKind::Wants)?;
                value = image::wants_text(&wants);
            }
            state.stage.config.labels.get_or_insert_default().insert(name, value);
        }
        Ok(())
    }

    /// `EXPOSE port[/protocol] …`
    pub(super) fn expose(&self, state: &mut StageState, ports: &[Word]) -> Result<(), Fault> {
        for word in ports {
            let text = self.word(&state.variables, word)?;
            for port in parse_ports(&text).map_err(|kind| kind.at(word.line))? {
                state.stage.expose(port);
            }
        }
        Ok(())
    }

    /// `USER name[:group]`
    pub(super) fn user(&self, state: &mut StageState, user: &Word) -> Result<(), Fault> {
        let text = self.word(&state.variables, user)?;
        let (user, group) = text.split_once(':').map_or((&*text, None), |(u, g)| (u, Some(g)));
        if !is_name_or_id(user) || !group.is_none_or(is_name_or_id) {
            return Err(DiagnosticKind::User(text).into());
        }
        state.stage.config.user = Some(text);
        Ok(())
    }

    /// `WORKDIR path`: the folder of what runs and of relative paths, made where it is missing. It
    /// gets a layer of its own, as with Docker, because later instructions depend on whether it is
    /// there.
    pub(super) fn workdir(&mut self, state: &mut StageState, path: &Word) -> Result<(), Fault> {
        let path = self.word(&state.variables, path)?;
        let folder = format!("/{}", clamped(&state.stage.absolute(&path)));
        if folder.len() > PATH_BYTES_MAX {
            return Err(DiagnosticKind::PathTooLong(folder).into());
        }
        state.stage.config.working_dir = Some(folder.clone());
        let items = single_item(&state.stage, &folder, Item::Folder { mode: MODE_EXECUTABLE })?;
        if !items.is_empty() {
            let created_by = shortened(&format!("WORKDIR {folder}"), QUOTED_CHARS_MAX);
            self.add_layer(&mut state.stage, items, created_by)?;
        }
        Ok(())
    }

    /// `HEALTHCHECK [--flag=value …] CMD command`, or `NONE` without `test`.
    pub(super) fn healthcheck(
        &mut self,
        state: &mut StageState,
        flags: &[Flag],
        test: Option<&Command>,
    ) -> Result<(), Fault> {
        let mut check = HealthCheck::default();
        for flag in flags {
            let value = flag.value.as_ref().map(|word| self.word(&state.variables, word));
            let value = value.transpose()?.unwrap_or_default();
            let duration = || {
                let wrong = || DiagnosticKind::Duration(value.clone()).at(flag.line);
                parse_duration_ns(&value).ok_or_else(wrong)
            };
            match flag.name.as_str() {
                "interval" => check.interval = Some(duration()?),
                "timeout" => check.timeout = Some(duration()?),
                "start-period" => check.start_period = Some(duration()?),
                "start-interval" => {
                    duration()?;
                    self.warnings.add(flag.line, WarningKind::StartIntervalIgnored);
                }
                "retries" => {
                    let wrong = |_| DiagnosticKind::Number(value.clone()).at(flag.line);
                    check.retries = Some(value.parse().map_err(wrong)?);
                }
                other => {
                    return Err(DiagnosticKind::HealthcheckFlag(other.to_owned()).at(flag.line));
                }
            }
        }
        check.test = match test {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
            Some(Command::Exec(args)) => [&["CMD".to_owned()], args.as_slice()].concat(),
        };
        state.stage.config.healthcheck = Some(check);
        Ok(())
    }
}

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

/// `80`, `80/udp`, `8000-8010`: as the config writes them.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<String>, DiagnosticKind> {
    let wrong = || DiagnosticKind::Port(text.to_owned());
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp") {
        return Err(wrong());
    }
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (port(first)?, port(last)?);
    if last < first || last - first >= PORT_RANGE_MAX {
        return Err(DiagnosticKind::PortRange(text.to_owned()));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// 2³² - 1 is no id: system calls take it as "unchanged".
fn is_name_or_id(text: &str) -> bool {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().is_ok_and(|id| id != u32::MAX),
        false => {
            let allowed =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$');
            text.len() <= 64 && text.bytes().all(allowed) && !text.starts_with('-')
        }
    }
}
