use std::collections::BTreeSet;

use super::socket::Family;

/// The state of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";
/// That of a socket that takes datagrams from any address.
const UNCONNECTED: &str = "07";
/// A table that is longer is not read to its end: a container has some thousand sockets at most.
const LINES_MAX: usize = 10_000;

/// The ports on which programs listen in the network namespace of this process.
pub(super) fn ports() -> BTreeSet<u16> {
    ["tcp", "tcp6"].map(table).iter().flat_map(|text| in_table(text, LISTEN)).collect()
}

/// The family in which a program takes datagrams on `port`, if one does. A socket of the second
/// family may take those of the first as well.
pub(super) fn datagrams(port: u16) -> Option<Family> {
    let is_in = |name: &str| in_table(&table(name), UNCONNECTED).any(|found| found == port);
    match is_in("udp") {
        true => Some(Family::V4),
        false => is_in("udp6").then_some(Family::V6),
    }
}

fn table(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
}

/// Those of one table.
fn in_table(text: &str, wanted: &'static str) -> impl Iterator<Item = u16> {
    text.lines().take(LINES_MAX).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, port) = local.rsplit_once(':')?;
        (state == wanted).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

/// The same about one for datagrams.
pub(super) fn message_of_datagrams(port: u16) -> String {
    format!("margay: nothing listens on port {port}/udp in the task: datagrams are dropped")
}

/// What is told about a published port that no program listens on.
pub(super) fn message(port: u16, listening: &BTreeSet<u16>) -> String {
    let others: Vec<_> = listening.iter().take(8).map(u16::to_string).collect();
    match others.is_empty() {
        true => {
            format!("margay: nothing listens on port {port} in the task: connections are reset")
        }
        false => format!(
            "margay: nothing listens on port {port} in the task, which listens on {}: connections \
             are reset",
            others.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_ports_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   \
             0: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
             1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0\n   \
             2: 00000000000000000000000000000000:0050 0:0000 0A 0:0 00:0 0     0\nnonsense\n";
        assert_eq!(in_table(table, LISTEN).collect::<Vec<_>>(), [3000, 80]);
    }

    #[test]
    fn the_message_names_the_port_and_those_that_would_do() {
        let none = message(80, &BTreeSet::new());
        assert_eq!(none, "margay: nothing listens on port 80 in the task: connections are reset");
        let others = message(80, &[3000, 9000].into());
        assert!(others.contains("which listens on 3000, 9000:"), "{others}");
    }
}
