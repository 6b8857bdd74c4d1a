use std::{fmt, str::FromStr};

use crate::{
    launch_type::LaunchType,
    text::{ParseError, written_as_text},
};

/// How many replicas of a service run on one kind of hosts, as ECS has it: `node=1,base=2` and
/// `pool=3` are two replicas on nodes of the tenant, and of the others one there for each three in
/// the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapacityProvider {
    /// Which hosts.
    pub provider: LaunchType,
    /// Its share of the replicas beyond the base.
    pub weight: u32,
    /// Replicas that it has before the shares are counted.
    pub base: u32,
}

/// As ECS has it.
const WEIGHT_MAX: u32 = 1000;
/// More than any service has replicas.
const BASE_MAX: u32 = 100_000;

impl CapacityProvider {
    /// Whether replicas can be shared between these.
    pub(super) fn check(all: &[Self]) -> Result<(), ParseError> {
        let problem = match all {
            [] => return Ok(()),
            [one, two] if one.provider == two.provider => {
                format!("capacity provider {} is given twice", one.word())
            }
            [one, two] if one.base > 0 && two.base > 0 => {
                "one capacity provider alone has a `base`".to_owned()
            }
            [_] | [_, _] if all.iter().all(|one| one.weight == 0) => {
                "one capacity provider at least has a weight above 0".to_owned()
            }
            [_] | [_, _] => return Ok(()),
            _ => "there are two capacity providers: node and pool".to_owned(),
        };
        Err(ParseError(problem))
    }

    /// Where the replica with this number runs: first the base, then in turns, so that any first
    /// replicas are shared as all of them are.
    pub(super) fn of(all: &[Self], ordinal: u32) -> Option<LaunchType> {
        let first = all.first()?;
        let based = all.iter().find(|one| one.base > 0).unwrap_or(first);
        let Some(beyond) = ordinal.checked_sub(based.base) else { return Some(based.provider) };
        let Some(second) = all.get(1) else { return Some(first.provider) };
        let (turn, weight) = (u64::from(beyond), u64::from(first.weight));
        let total = weight + u64::from(second.weight);
        let before = |turn: u64| (turn * weight).div_ceil(total.max(1));
        let is_first = before(turn + 1) > before(turn);
        Some(if is_first { first.provider } else { second.provider })
    }

    fn word(self) -> &'static str {
        match self.provider {
            LaunchType::Node => "node",
            LaunchType::Pool => "pool",
        }
    }
}

impl fmt::Display for CapacityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.word(), self.weight)?;
        if self.base > 0 {
            write!(f, ",base={}", self.base)?;
        }
        Ok(())
    }
}

impl FromStr for CapacityProvider {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let rule = "is not a capacity provider: use node=WEIGHT or pool=WEIGHT, and ,base=COUNT";
        let wrong = || ParseError::about(text, rule);
        let (shares, base) = match text.split_once(",base=") {
            Some((shares, base)) => (shares, base.parse().map_err(|_| wrong())?),
            None => (text, 0),
        };
        let (provider, weight) = shares.split_once('=').ok_or_else(wrong)?;
        let provider = provider.parse().map_err(|_| wrong())?;
        let weight = weight.parse().map_err(|_| wrong())?;
        if weight > WEIGHT_MAX || base > BASE_MAX {
            let most = format!("has a weight of 0 to {WEIGHT_MAX} and a base of 0 to {BASE_MAX}");
            return Err(ParseError::about(text, most));
        }
        Ok(Self { provider, weight, base })
    }
}

written_as_text!(
    CapacityProvider,
    "`node=WEIGHT` or `pool=WEIGHT`, with `,base=COUNT` for replicas that it has first.",
    "node=1,base=2"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn providers(text: &str) -> Vec<CapacityProvider> {
        text.split_whitespace().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn replicas_are_shared_by_base_and_weight() {
        for (text, want) in [
            ("node=1", "nnnnnnnn"),
            ("node=1 pool=1", "npnpnpnp"),
            ("pool=1 node=1", "pnpnpnpn"),
            ("node=1,base=2 pool=3", "nnnpppnp"),
            ("pool=3 node=1,base=2", "nnpppnpp"),
            ("node=0,base=3 pool=1", "nnnppppp"),
            ("node=1 pool=0", "nnnnnnnn"),
            ("node=2 pool=1", "nnpnnpnn"),
        ] {
            let all = providers(text);
            CapacityProvider::check(&all).unwrap();
            let letters = (0..8).map(|ordinal| match CapacityProvider::of(&all, ordinal) {
                Some(LaunchType::Node) => 'n',
                Some(LaunchType::Pool) => 'p',
                None => '-',
            });
            assert_eq!(letters.collect::<String>(), want, "{text}");
        }
        assert_eq!(CapacityProvider::of(&[], 0), None);
    }

    #[test]
    fn a_capacity_provider_prints_what_it_parses_and_is_refused_by_name() {
        for text in ["node=1", "pool=0", "node=1,base=2", "pool=1000,base=7"] {
            assert_eq!(text.parse::<CapacityProvider>().unwrap().to_string(), text);
        }
        for text in ["node", "node=", "spot=1", "node=1001", "node=1,base=", "node=1,base=-1"] {
            assert!(text.parse::<CapacityProvider>().is_err(), "{text}");
        }
        for (text, want) in [
            ("node=1 node=1", "capacity provider node is given twice"),
            ("node=1,base=1 pool=1,base=1", "one capacity provider alone has a `base`"),
            ("node=0 pool=0", "a weight above 0"),
            ("node=1 pool=1 node=1", "two capacity providers"),
        ] {
            let said = CapacityProvider::check(&providers(text)).unwrap_err().to_string();
            assert!(said.contains(want), "{text}: {said}");
        }
    }
}
