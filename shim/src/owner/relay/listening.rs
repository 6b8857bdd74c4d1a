use std::collections::BTreeSet;

/// The state of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";
/// A table that is longer is not read to its end: a container has some thousand sockets at most.
const LINES_MAX: usize = 10_000;

/// The ports on which programs listen in the network namespace of this process.
pub(super) fn ports() -> BTreeSet<u16> {
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/thread-self/net/{table}"));
    let texts = tables.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    texts.iter().flat_map(|text| in_table(text)).collect()
}

/// Those of one table.
fn in_table(text: &str) -> impl Iterator<Item = u16> {
    text.lines().take(LINES_MAX).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    })
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
        assert_eq!(in_table(table).collect::<Vec<_>>(), [3000, 80]);
    }

    #[test]
    fn the_message_names_the_port_and_those_that_would_do() {
        let none = message(80, &BTreeSet::new());
        assert_eq!(none, "margay: nothing listens on port 80 in the task: connections are reset");
        let others = message(80, &[3000, 9000].into());
        assert!(others.contains("which listens on 3000, 9000:"), "{others}");
    }
}
