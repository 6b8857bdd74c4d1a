use crate::scan::package::{Distribution, one_line};

/// What os-release says; `None` without an id.
pub fn os_release(bytes: &[u8]) -> Option<Distribution> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Distribution::default();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let value = one_line(value.trim().trim_matches(['"', '\'']));
        match key {
            "ID" => found.id = value.to_ascii_lowercase(),
            "VERSION_ID" => found.version = value,
            "PRETTY_NAME" => found.title = value,
            _ => {}
        }
    }
    if found.title.is_empty() {
        found.title = format!("{} {}", found.id, found.version).trim().to_owned();
    }
    (!found.id.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_read_as_shells_read_it() {
        for (text, want) in [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
                Some(("debian", "12", "Debian GNU/Linux 12 (bookworm)")),
            ),
            ("ID='alpine'\nVERSION_ID=3.19.1", Some(("alpine", "3.19.1", "alpine 3.19.1"))),
            ("ID=Wolfi\n# a comment\n\nID_LIKE=x", Some(("wolfi", "", "wolfi"))),
            ("VERSION_ID=1", None),
            ("", None),
        ] {
            let want = want.map(|(id, version, title)| Distribution {
                id: id.to_owned(),
                version: version.to_owned(),
                title: title.to_owned(),
            });
            assert_eq!(os_release(text.as_bytes()), want, "{text}");
        }
    }
}
