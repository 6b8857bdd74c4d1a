use super::{Executor, StageState};
use crate::{diagnostic::DiagnosticKind, dockerfile::instruction::Word, fault::Fault};

impl Executor<'_, '_> {
    /// `EXPOSE port[/protocol] …`
    pub(super) fn expose(&self, state: &mut StageState, ports: &[Word]) -> Result<(), Fault> {
        for word in ports {
            let words = self.expanding(&state.variables, |expander| expander.words(&word.text));
            let words = words.map_err(|error| DiagnosticKind::Expansion(error).at(word.place))?;
            for text in words {
                for port in parse_ports(&text).map_err(|kind| kind.at(word.place))? {
                    state.stage.expose(port);
                }
            }
        }
        Ok(())
    }
}

/// `80`, `80/udp`, `8000-8010`: as the config writes them. What `-p` would say of the host stands
/// in front of some, and counts for nothing.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<String>, DiagnosticKind> {
    let wrong = || DiagnosticKind::Port(text.to_owned());
    let (host, guest) = text.rsplit_once(':').unwrap_or(("", text));
    let (numbers, protocol) = guest.split_once('/').unwrap_or((guest, ""));
    let protocol = match protocol.to_ascii_lowercase() {
        empty if empty.is_empty() => "tcp".to_owned(),
        known if matches!(known.as_str(), "tcp" | "udp" | "sctp") => known,
        _ => return Err(wrong()),
    };
    let (first, last) = range(numbers).ok_or_else(wrong)?;
    if !host.is_empty() {
        let (address, ports) = host.rsplit_once(':').unwrap_or(("", host));
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let is_address = address.is_empty() || address.parse::<std::net::IpAddr>().is_ok();
        let fits = ports.is_empty()
            || range(ports).is_some_and(|(from, to)| to - from == last - first || first == last);
        if !is_address || !fits {
            return Err(wrong());
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
