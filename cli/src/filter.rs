//! `--filter KEY=VALUE`, as Docker's lists take it.

use crate::failure::{Advice, USAGE_ERROR};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub key: String,
    pub value: String,
}

impl Filter {
    /// # Errors
    /// Names the keys that there are.
    pub fn parse(text: &str, keys: &[&str]) -> Result<Self, String> {
        let known = || format!("the keys are {}", keys.join(", "));
        let Some((key, value)) = text.split_once('=') else {
            return Err(format!("a filter is KEY=VALUE; {}", known()));
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if !keys.contains(&key.as_str()) {
            let start: String = key.chars().take(60).collect();
            return Err(format!("there is no filter `{start}`; {}", known()));
        }
        if value.is_empty() {
            return Err(format!("filter `{key}` has no value"));
        }
        Ok(Self { key, value: value.to_owned() })
    }
}

/// Every condition of a list.
#[derive(Debug, Clone, Copy)]
pub struct Filters<'a>(pub &'a [Filter]);

impl<'a> Filters<'a> {
    pub fn values(self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |filter| filter.key == key).map(|filter| &*filter.value)
    }

    pub fn has(self, key: &'a str) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether one of the values of `key` holds; true where there is none.
    pub fn any(self, key: &'a str, holds: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(holds)
    }

    /// Whether every `label=NAME` and `label=NAME=VALUE` holds.
    pub fn labels<'b>(self, key: &'a str, value_of: impl Fn(&str) -> Option<&'b str>) -> bool {
        self.values(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => value_of(name) == Some(value),
            None => value_of(wanted).is_some(),
        })
    }

    /// A condition that is true or false; `None` where it is not asked for.
    ///
    /// # Errors
    /// For any other word.
    pub fn truth(self, key: &'a str) -> anyhow::Result<Option<bool>> {
        let Some(value) = self.values(key).last() else { return Ok(None) };
        match value {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(misused(format!("filter `{key}` is true or false, not `{value}`"))),
        }
    }

    /// Refuses a value of `key` that is none of `words`.
    ///
    /// # Errors
    /// Names the words.
    pub fn check(self, key: &'a str, words: &[&str]) -> anyhow::Result<()> {
        match self.values(key).find(|value| !words.contains(value)) {
            None => Ok(()),
            Some(value) => {
                let words = words.join(", ");
                Err(misused(format!("filter `{key}` cannot be `{value}`: it is one of {words}")))
            }
        }
    }
}

fn misused(message: String) -> anyhow::Error {
    Advice::new(message).code(USAGE_ERROR).into()
}

/// As Docker compares names: a part of it, with `^` and `$` for its beginning and its end.
pub fn names(pattern: &str, name: &str) -> bool {
    let (start, rest) = match pattern.strip_prefix('^') {
        // Docker's names begin with a slash.
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => (false, pattern.strip_prefix('/').unwrap_or(pattern)),
    };
    match (start, rest.strip_suffix('$')) {
        (true, Some(whole)) => name == whole,
        (false, Some(end)) => name.ends_with(end),
        (true, None) => name.starts_with(rest),
        (false, None) => name.contains(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_a_key_that_is_known_and_a_value() {
        let parse = |text| match Filter::parse(text, &["name", "label"]) {
            Ok(filter) => format!("{} {}", filter.key, filter.value),
            Err(error) => error,
        };
        for (text, want) in [
            ("name=web", "name web"),
            ("label=a=b", "label a=b"),
            ("Name = web", "name web"),
            ("web", "a filter is KEY=VALUE; the keys are name, label"),
            ("nam=web", "there is no filter `nam`; the keys are name, label"),
            ("name=", "filter `name` has no value"),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn values_of_one_key_are_choices_and_labels_are_demands() {
        let filters: Vec<Filter> = ["name=a", "name=b", "label=x", "label=y=1"]
            .map(|text| Filter::parse(text, &["name", "label"]).unwrap())
            .into();
        let filters = Filters(&filters);
        assert!(filters.any("name", |name| name == "b") && !filters.any("name", |n| n == "c"));
        assert!(filters.any("id", |_| false), "a key that is not asked for filters nothing");
        let labels = |y| move |name: &str| if name == "x" { Some("") } else { y };
        assert!(filters.labels("label", labels(Some("1"))));
        assert!(!filters.labels("label", labels(Some("2"))));
        assert!(!filters.labels("label", labels(None)));
    }

    #[test]
    fn a_name_is_compared_as_docker_compares_it() {
        for (pattern, name, want) in [
            ("web", "web-1", true),
            ("^web$", "web-1", false),
            ("^web$", "web", true),
            ("^/web$", "web", true),
            ("1$", "web-1", true),
            ("^we", "web-1", true),
            ("x", "web-1", false),
        ] {
            assert_eq!(names(pattern, name), want, "{pattern} and {name}");
        }
    }
}
