use std::{fmt, str::FromStr};

use crate::text::{ParseError, written_as_text};

/// A host name in a `Host` header: at least two labels, in lower case, without a port. Its first
/// label may be `*`, which stands for any one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// RFC 1035.
const HOST_CHARS_MAX: usize = 253;

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for more than one name.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether it is `domain`, or lies below it.
    pub fn is_within(&self, domain: &str) -> bool {
        self.0.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// How many labels it has in front of `domain`; `None` when it is not within it.
    pub fn labels_below(&self, domain: &str) -> Option<usize> {
        let rest = self.is_within(domain).then(|| &self.0[..self.0.len() - domain.len()])?;
        Some(rest.bytes().filter(|byte| *byte == b'.').count())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong =
            |rule: &str| Err(ParseError::about(text, format_args!("is no host name: {rule}")));
        if text.contains("://") || text.contains('/') {
            return wrong("leave out the scheme and the path");
        }
        if text.contains(':') {
            return wrong("leave out the port");
        }
        let labels = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > HOST_CHARS_MAX || !labels.split('.').all(is_label) {
            return wrong(
                "use labels of letters, digits and inner dashes with dots between them, as in \
                 cats.example.com or *.example.com",
            );
        }
        match labels.rsplit('.').next() {
            _ if !labels.contains('.') => wrong("it needs at least two labels"),
            Some(last) if last.bytes().all(|b| b.is_ascii_digit()) => {
                wrong("it looks like an address")
            }
            _ => Ok(Self(text.to_ascii_lowercase())),
        }
    }
}

written_as_text!(
    HostName,
    "A host name of at least two labels, in lower case; its first label may be `*`.",
    "cats.example.com"
);

/// Which paths of a host a service answers for: `/api` is that path and everything below it,
/// `=/api` is that path alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutePath {
    text: String,
}

/// Longer than any path that routes are told apart by.
const PATH_CHARS_MAX: usize = 256;

impl RoutePath {
    /// Every path.
    pub fn all() -> Self {
        Self { text: "/".to_owned() }
    }

    /// Whether it is one path and none below.
    pub fn is_exact(&self) -> bool {
        self.text.starts_with('=')
    }

    /// The path itself, without a slash at its end.
    pub fn path(&self) -> &str {
        self.text.trim_start_matches('=').trim_end_matches('/')
    }

    /// Whether `path`, which has no dot segments, is one of these.
    pub fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(self.path()) {
            Some("") => true,
            Some(rest) if self.is_exact() => rest == "/" && self.path().is_empty(),
            Some(rest) => rest.starts_with('/'),
            None => false,
        }
    }

    /// In this order the first that matches a path is the one that means it: exact ones first, then
    /// longer ones.
    pub fn rank(&self) -> (bool, usize) {
        (!self.is_exact(), usize::MAX - self.path().len())
    }
}

impl fmt::Display for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RoutePath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let path = text.strip_prefix('=').unwrap_or(text);
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;:@".contains(&b);
        let is_good = path.starts_with('/')
            && path.len() <= PATH_CHARS_MAX
            && path.bytes().all(is_plain)
            && !path.contains("//")
            && path.split('/').all(|segment| !matches!(segment, "." | ".."));
        let exact = if text.starts_with('=') { "=" } else { "" };
        match (is_good, path.trim_end_matches('/')) {
            (true, "") => Ok(Self { text: format!("{exact}/") }),
            (true, path) => Ok(Self { text: format!("{exact}{path}") }),
            (false, _) => Err(ParseError::about(
                text,
                "is no path of a route: use /api for it and everything below, or =/api for it alone",
            )),
        }
    }
}

written_as_text!(
    RoutePath,
    "A path and everything below it, as in `/api`; with `=` in front that path alone.",
    "/api"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_labels_with_dots() {
        for (text, want) in [
            ("Cats.Example.com", Ok("cats.example.com")),
            ("*.example.com", Ok("*.example.com")),
            ("xn--mller-kva.example", Ok("xn--mller-kva.example")),
            ("cats.localhost", Ok("cats.localhost")),
            ("localhost", Err("at least two labels")),
            ("*.com", Err("at least two labels")),
            ("", Err("use labels")),
            ("cats..com", Err("use labels")),
            ("cats.com.", Err("use labels")),
            ("a.*.com", Err("use labels")),
            ("-a.com", Err("use labels")),
            ("a_b.com", Err("use labels")),
            ("müller.example", Err("use labels")),
            ("10.0.0.5", Err("looks like an address")),
            ("cats.com:80", Err("leave out the port")),
            ("https://cats.com", Err("leave out the scheme")),
            ("cats.com/api", Err("leave out the scheme and the path")),
        ] {
            match (text.parse::<HostName>(), want) {
                (Ok(host), Ok(want)) => assert_eq!(host.as_str(), want),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
                (got, want) => panic!("{text}: {got:?}, not {want:?}"),
            }
        }
        let host: HostName = "a.b.example.com".parse().unwrap();
        for (domain, want) in [
            ("example.com", Some(2)),
            ("b.example.com", Some(1)),
            ("a.b.example.com", Some(0)),
            ("xample.com", None),
            ("c.a.b.example.com", None),
        ] {
            assert_eq!(host.labels_below(domain), want, "{domain}");
        }
    }

    #[test]
    fn paths_match_by_whole_segments_and_the_longest_comes_first() {
        for (route, path, want) in [
            ("/", "/", true),
            ("/", "/api", true),
            ("/api", "/api", true),
            ("/api/", "/api", true),
            ("/api", "/api/", true),
            ("/api", "/api/v1", true),
            ("/api", "/apis", false),
            ("/api", "/", false),
            ("/api", "/API", false),
            ("=/api", "/api", true),
            ("=/api", "/api/", false),
            ("=/api", "/api/v1", false),
            ("=/", "/", true),
            ("=/", "/api", false),
        ] {
            let parsed: RoutePath = route.parse().unwrap();
            assert_eq!(parsed.matches(path), want, "{route} {path}");
        }
        let mut routes: Vec<RoutePath> =
            ["/", "/api", "=/", "/api/v1", "=/api"].map(|text| text.parse().unwrap()).into();
        routes.sort_by_key(RoutePath::rank);
        let shown: Vec<_> = routes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["=/api", "=/", "/api/v1", "/api", "/"]);
        for text in ["", "api", "/a b", "/a?b", "/a#b", "/%61", "/a/../b", "/./a", "//a", "=api"] {
            assert!(text.parse::<RoutePath>().is_err(), "{text}");
        }
    }
}
