//! Where the tasks of a service go, in the words of ECS.

mod expression; // what must hold for a node
mod provider; // on which kind of hosts each replica runs
mod strategy; // which of the nodes that fit comes first
mod taint; // what keeps tasks away from a node

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    launch_type::LaunchType,
    text::{ParseError, written_as_text},
};
pub use expression::{NodeExpression, NodeFacts};
pub use provider::CapacityProvider;
pub use strategy::{PlacementStrategy, Reserved};
pub use taint::{Taint, TaintEffect, Toleration, check_label};

/// Where the tasks of a service go. With nothing in it they are spread over zones, then over nodes,
/// and then take the fullest node that fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// What must hold for a node; 10 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<PlacementConstraint>,
    /// What should hold for a node: those for which most of these hold come first. 10 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<NodeExpression>,
    /// Which of the nodes that fit comes first, in order; 5 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strategies: Vec<PlacementStrategy>,
    /// Taints that do not keep its tasks away; 10 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How its replicas are shared between nodes of the tenant and the pool; by its launch type
    /// alone when left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capacity_providers: Vec<CapacityProvider>,
    /// Whether replicas move by themselves where that spreads them better, as after a node has come
    /// back.
    pub rebalance: bool,
}

impl Placement {
    /// As ECS has it.
    const LINES_MAX: usize = 10;
    /// As ECS has it.
    const STRATEGIES_MAX: usize = 5;

    /// Whether it has no more lines than are looked at for each node.
    ///
    /// # Errors
    /// Names the field and how many there may be.
    pub fn check(&self) -> Result<(), ParseError> {
        for (name, count, most) in [
            ("constraints", self.constraints.len(), Self::LINES_MAX),
            ("preferences", self.preferences.len(), Self::LINES_MAX),
            ("strategies", self.strategies.len(), Self::STRATEGIES_MAX),
            ("tolerations", self.tolerations.len(), Self::LINES_MAX),
        ] {
            if count > most {
                let said = format!("`placement.{name}` has {count} lines, and {most} is the most");
                return Err(ParseError(said));
            }
        }
        CapacityProvider::check(&self.capacity_providers)
    }

    /// Where the replica with this number runs, where providers say so.
    pub fn provider_of(&self, ordinal: u32) -> Option<LaunchType> {
        CapacityProvider::of(&self.capacity_providers, ordinal)
    }
}

/// What must hold for a node that takes a task: `distinctInstance`, or an expression as in
/// `zone == a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementConstraint {
    /// No other task of the service is on it.
    DistinctInstance,
    /// The expression holds for it.
    MemberOf(NodeExpression),
}

impl fmt::Display for PlacementConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DistinctInstance => f.write_str("distinctInstance"),
            Self::MemberOf(expression) => expression.fmt(f),
        }
    }
}

impl FromStr for PlacementConstraint {
    type Err = ParseError;

    /// Takes ECS's `memberOf(EXPRESSION)` as well, and `distinct_hosts` as Nomad has it.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if ["distinctInstance", "distinct-instance", "distinct_hosts"].contains(&text) {
            return Ok(Self::DistinctInstance);
        }
        let inner = text.strip_prefix("memberOf(").and_then(|rest| rest.strip_suffix(')'));
        inner.unwrap_or(text).parse().map(Self::MemberOf)
    }
}

written_as_text!(
    PlacementConstraint,
    "`distinctInstance`, or an expression that must hold for a node.",
    "zone == eu-1a and not (disk == slow)"
);

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingStrategy {
    /// As many as its count.
    #[default]
    Replica,
    /// One on each node that fits.
    Daemon,
}

impl SchedulingStrategy {
    /// Whether it is the usual one.
    pub fn is_replica(&self) -> bool {
        *self == Self::Replica
    }
}

impl FromStr for SchedulingStrategy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "replica" | "REPLICA" => Ok(Self::Replica),
            "daemon" | "DAEMON" => Ok(Self::Daemon),
            _ => {
                Err(ParseError::about(text, "is not a scheduling strategy: use replica or daemon"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_written_as_ecs_and_nomad_have_them() {
        for (text, want) in [
            ("distinctInstance", "distinctInstance"),
            ("distinct-instance", "distinctInstance"),
            ("distinct_hosts", "distinctInstance"),
            ("memberOf(attribute:ecs.availability-zone == eu-1a)", "zone == eu-1a"),
            (" zone == a ", "zone == a"),
        ] {
            let parsed: PlacementConstraint = text.parse().unwrap();
            assert_eq!(parsed.to_string(), want, "{text}");
            assert_eq!(want.parse::<PlacementConstraint>().unwrap(), parsed, "{want}");
        }
    }

    #[test]
    fn a_placement_has_as_many_lines_as_ecs_allows() {
        let constraints = vec![PlacementConstraint::DistinctInstance; 11];
        let error = Placement { constraints, ..Placement::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "`placement.constraints` has 11 lines, and 10 is the most");
        assert!(Placement::default().check().is_ok());
        assert_eq!(serde_json::to_string(&Placement::default()).unwrap(), r#"{"rebalance":false}"#);
    }
}
