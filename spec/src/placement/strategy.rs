use std::{fmt, str::FromStr};

use super::expression::NodeExpression;
use crate::text::{ParseError, written_as_text};

/// Which of the nodes that fit comes first, as ECS has it: `spread:ATTRIBUTE`, `binpack:memory`,
/// `binpack:cpu` or `random`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementStrategy {
    /// The one whose value of this attribute has the fewest tasks of the service.
    Spread(String),
    /// The one with the least left.
    Binpack(Reserved),
    /// Any.
    Random,
}

/// What tasks reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
}

impl fmt::Display for PlacementStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spread(attribute) => write!(f, "spread:{attribute}"),
            Self::Binpack(Reserved::Cpu) => f.write_str("binpack:cpu"),
            Self::Binpack(Reserved::Memory) => f.write_str("binpack:memory"),
            Self::Random => f.write_str("random"),
        }
    }
}

impl FromStr for PlacementStrategy {
    type Err = ParseError;

    /// Takes ECS's fields as well, as in `spread:attribute:ecs.availability-zone`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (kind, field) = text.split_once([':', '=']).unwrap_or((text, ""));
        let is_label = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
        match (kind, field) {
            ("spread", "") => Ok(Self::Spread("node".to_owned())),
            ("spread", field) => {
                let name = NodeExpression::attribute_name(field);
                match !name.is_empty() && name.len() <= 256 && name.chars().all(is_label) {
                    true => Ok(Self::Spread(name)),
                    false => Err(ParseError::about(field, "cannot name an attribute of a node")),
                }
            }
            ("binpack", "cpu" | "CPU") => Ok(Self::Binpack(Reserved::Cpu)),
            ("binpack", "" | "memory" | "MEMORY") => Ok(Self::Binpack(Reserved::Memory)),
            ("random", "") => Ok(Self::Random),
            _ => Err(ParseError::about(
                text,
                "is not a placement strategy: use spread:zone, spread:node, spread:LABEL, \
                 binpack:memory, binpack:cpu or random",
            )),
        }
    }
}

written_as_text!(
    PlacementStrategy,
    "`spread:ATTRIBUTE`, `binpack:memory`, `binpack:cpu` or `random`.",
    "spread:zone"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_written_as_ecs_has_them() {
        for (text, want) in [
            ("spread", "spread:node"),
            ("spread:zone", "spread:zone"),
            ("spread:attribute:ecs.availability-zone", "spread:zone"),
            ("spread:instanceId", "spread:node"),
            ("spread=rack", "spread:rack"),
            ("binpack", "binpack:memory"),
            ("binpack:cpu", "binpack:cpu"),
            ("random", "random"),
        ] {
            assert_eq!(text.parse::<PlacementStrategy>().unwrap().to_string(), want, "{text}");
        }
        for text in ["", "pack", "binpack:disk", "random:x", "spread:a b"] {
            assert!(text.parse::<PlacementStrategy>().is_err(), "{text}");
        }
    }
}
