//! What the log of a container says of a connection that it did not get.

/// A line would grant it, and none does.
pub(crate) fn line(line: &str, count: u64) -> String {
    format!("margay: denied {line} ({count}x); grant it: --allow {line}")
}

/// An address that takes two keys: what is missing, and nothing that is there.
pub(crate) fn address(line: &str, count: u64, why: &str, granted: bool) -> String {
    let denied = format!("margay: denied {line} ({count}x): {why}");
    match granted {
        true => format!(
            "{denied}; the line is granted, and the network is not opened: its owner starts the \
             node with --private-network ADDRESS/BITS"
        ),
        false => {
            format!("{denied}, which takes two keys: --allow {line} --private-network ADDRESS/BITS")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_address_names_the_key_that_is_missing() {
        let line = "net.out:http://10.0.0.7:80;private";
        let one = address(line, 1, "10.0.0.7 is private", true);
        assert!(one.contains("the network is not opened") && !one.contains("--allow"), "{one}");
        let both = address(line, 1, "10.0.0.7 is private", false);
        let keys = [format!("--allow {line}"), "--private-network".to_owned()];
        assert!(keys.iter().all(|key| both.contains(key)), "{both}");
    }
}
