/// Whether `text` is of a pattern, in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(start) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, want) in [
            ("latest", "latest", true),
            ("latest", "latest1", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "v1", true),
            ("dev-*", "dev-", true),
            ("dev-*", "dev", false),
            ("*-rc", "v1-rc", true),
            ("*-rc", "v1-rc1", false),
            ("v*-*c", "v1-rc", true),
            ("v*.*.*", "v1.2.3", true),
            ("v*.*.*", "v1.2", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a**b", "axb", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }
}
