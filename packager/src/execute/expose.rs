use super::{Executor, StageState};
use crate::{
    diagnostic::DiagnosticKind, dockerfile::instruction::Word, fault::Fault, limits::PORT_RANGE_MAX,
};

impl Executor<'_, '_> {
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
