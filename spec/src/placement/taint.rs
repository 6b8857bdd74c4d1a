use std::{fmt, str::FromStr};

use crate::text::{ParseError, written_as_text};

/// What keeps tasks away from a node unless they tolerate it, as Kubernetes has it:
/// `KEY[=VALUE]:NoSchedule` or `KEY[=VALUE]:NoExecute`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// One of a kind on a node.
    pub key: String,
    /// May be empty.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    /// No task is placed there that does not tolerate it.
    NoSchedule,
    /// Replicas that do not tolerate it move away, too.
    NoExecute,
}

/// A taint that does not keep a task away: `KEY[=VALUE][:EFFECT]`, or `*` for every one. What is
/// left out may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    key: Option<String>,
    value: Option<String>,
    effect: Option<TaintEffect>,
}

impl Toleration {
    /// Whether it is about this taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// The name and the value of a label, as Kubernetes has them.
///
/// # Errors
/// When either is too long or has other characters.
pub fn check_label(name: &str, value: &str) -> Result<(), ParseError> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > 128 || !name.chars().all(is_inner) {
        let rule =
            "cannot name a label: use 1 to 128 letters, digits, and inner `.`, `_`, `/`, `-`";
        return Err(ParseError::about(name, rule));
    }
    if value.len() > 63 || !value.chars().all(is_inner) {
        let rule =
            "cannot be the value of a label: use up to 63 letters, digits, `.`, `_`, `/`, `-`";
        return Err(ParseError::about(value, rule));
    }
    Ok(())
}

impl fmt::Display for TaintEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSchedule => "NoSchedule",
            Self::NoExecute => "NoExecute",
        })
    }
}

impl FromStr for TaintEffect {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "NoSchedule" => Ok(Self::NoSchedule),
            "NoExecute" => Ok(Self::NoExecute),
            _ => Err(ParseError::about(text, "is no effect: use NoSchedule or NoExecute")),
        }
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, effect } = self;
        match value.as_str() {
            "" => write!(f, "{key}:{effect}"),
            value => write!(f, "{key}={value}:{effect}"),
        }
    }
}

impl FromStr for Taint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let rule = "is not a taint: use KEY[=VALUE]:NoSchedule or KEY[=VALUE]:NoExecute";
        let wrong = || ParseError::about(text, rule);
        let (label, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        check_label(key, value)?;
        let effect = effect.parse()?;
        Ok(Self { key: key.to_owned(), value: value.to_owned(), effect })
    }
}

written_as_text!(
    Taint,
    "`KEY[=VALUE]:NoSchedule` or `KEY[=VALUE]:NoExecute`.",
    "gpu=true:NoSchedule"
);

impl fmt::Display for Toleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key.as_deref().unwrap_or("*"))?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, "={value}"))?;
        self.effect.map_or(Ok(()), |effect| write!(f, ":{effect}"))
    }
}

impl FromStr for Toleration {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (label, effect) = match text.rsplit_once(':') {
            Some((label, effect)) => (label, Some(effect.parse()?)),
            None => (text, None),
        };
        if label == "*" {
            return Ok(Self { key: None, value: None, effect });
        }
        let (key, value) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (label, None),
        };
        check_label(key, value.unwrap_or_default())?;
        Ok(Self { key: Some(key.to_owned()), value: value.map(str::to_owned), effect })
    }
}

written_as_text!(Toleration, "`KEY[=VALUE][:EFFECT]`, or `*` for every taint.", "gpu=true");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toleration_is_about_the_taints_that_it_names() {
        let taint: Taint = "gpu=a100:NoSchedule".parse().unwrap();
        assert_eq!(taint.to_string(), "gpu=a100:NoSchedule");
        for (text, want) in [
            ("gpu", true),
            ("gpu=a100", true),
            ("gpu=a100:NoSchedule", true),
            ("gpu:NoSchedule", true),
            ("*", true),
            ("*:NoSchedule", true),
            ("gpu:NoExecute", false),
            ("gpu=h100", false),
            ("disk", false),
        ] {
            let toleration: Toleration = text.parse().unwrap();
            assert_eq!(toleration.to_string(), text);
            assert_eq!(toleration.tolerates(&taint), want, "{text}");
        }
        for text in
            ["gpu", "gpu:", "gpu:Never", ":NoSchedule", "g pu:NoSchedule", "a=b c:NoExecute"]
        {
            assert!(text.parse::<Taint>().is_err(), "{text}");
        }
        assert!("a b".parse::<Toleration>().is_err());
    }
}
