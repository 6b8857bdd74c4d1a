use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    text::ParseError,
    time::{parse_bytes, print_bytes},
};

macro_rules! quota {
    ($($(#[doc = $doc:literal])+ $resource:ident $field:ident $word:literal = $default:expr;)+) => {
        /// What a tenant may have at most, or what it has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct TenantQuota {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        /// What an operator changes in the quota of a tenant: what is left out stays.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct QuotaChange {
            $($(#[doc = $doc])+
            #[serde(skip_serializing_if = "Option::is_none")]
            pub $field: Option<u64>,)+
        }

        /// One kind of thing that a quota limits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum QuotaResource {
            $($(#[doc = $doc])+ $resource,)+
        }

        impl Default for TenantQuota {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl TenantQuota {
            /// Nothing of anything.
            pub const NOTHING: Self = Self { $($field: 0,)+ };

            /// How much there is of `resource`.
            pub fn of(&self, resource: QuotaResource) -> u64 {
                match resource { $(QuotaResource::$resource => self.$field,)+ }
            }

            /// With `change`.
            #[must_use]
            pub fn with(&self, change: &QuotaChange) -> Self {
                Self { $($field: change.$field.unwrap_or(self.$field),)+ }
            }
        }

        impl QuotaResource {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$resource,)+];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$resource => $word,)+ }
            }
        }

        impl QuotaChange {
            fn field(&mut self, name: &str) -> Option<&mut Option<u64>> {
                match name { $($word => Some(&mut self.$field),)+ _ => None }
            }
        }
    };
}

quota! {
    /// Tasks: the replicas that services ask for, and standalone tasks that have not ended. As many
    /// as ECS gives one service.
    Tasks tasks "tasks" = 5_000;
    /// Nodes of its own. An eighth of what one control plane has connections for.
    Nodes nodes "nodes" = 250;
    /// Processors that its tasks reserve in the pool, in thousandths.
    Cpu cpu_millis "cpu-millis" = 64_000;
    /// Memory that its tasks reserve in the pool, in bytes: two gibibytes for each processor, as
    /// Fargate pairs them.
    Memory memory_bytes "memory" = 128 << 30;
    /// Named volumes, those that services and tasks ask for among them.
    Volumes volumes "volumes" = 500;
    /// Bytes of all revisions of its task definitions. The largest are 64 KiB.
    Definitions definition_bytes "definitions" = 16 << 20;
    /// Secrets of up to 64 KiB.
    Secrets secrets "secrets" = 100;
    /// Join tokens that were not used and have not expired.
    Tokens tokens "tokens" = 100;
}

impl QuotaResource {
    /// An amount of it in words.
    pub fn print(self, amount: u64) -> String {
        match self {
            Self::Memory | Self::Definitions => print_bytes(amount),
            _ => amount.to_string(),
        }
    }
}

impl fmt::Display for QuotaResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TenantQuota {
    /// The first resource of which there would be too much with `more` of it.
    ///
    /// # Errors
    /// Names it.
    pub fn check(&self, used: &Self, more: &Self) -> Result<(), QuotaExceeded> {
        let exceeded = |resource: &QuotaResource| {
            let (used, more) = (used.of(*resource), more.of(*resource));
            more > 0 && used.saturating_add(more) > self.of(*resource)
        };
        match QuotaResource::ALL.iter().copied().find(exceeded) {
            Some(resource) => Err(QuotaExceeded {
                resource,
                used: used.of(resource),
                more: more.of(resource),
                most: self.of(resource),
            }),
            None => Ok(()),
        }
    }
}

/// A quota that would be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// Of what.
    pub resource: QuotaResource,
    /// What there is.
    pub used: u64,
    /// What was asked for beside it.
    pub more: u64,
    /// What there may be.
    pub most: u64,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, used, more, most } = *self;
        let [used, more, most] = [used, more, most].map(|amount| resource.print(amount));
        write!(f, "quota `{resource}` is used up: {used} of {most}, and this asks for {more} more")
    }
}

impl std::error::Error for QuotaExceeded {}

impl QuotaChange {
    /// Takes one `NAME=VALUE`.
    ///
    /// # Errors
    /// The names, or what is wrong with the value.
    pub fn set(&mut self, line: &str) -> Result<(), ParseError> {
        let names = || {
            let names: Vec<_> = QuotaResource::ALL.iter().map(|one| one.name()).collect();
            names.join(", ")
        };
        let (name, value) = line.split_once('=').ok_or_else(|| {
            ParseError::about(line, format_args!("is not NAME=VALUE, with one of {}", names()))
        })?;
        let field = self.field(name).ok_or_else(|| {
            ParseError::about(name, format_args!("is not a quota: use one of {}", names()))
        })?;
        *field = Some(parse_bytes(value)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_changed_by_name_and_exceeded_by_name() {
        let mut change = QuotaChange::default();
        for (line, want) in [
            ("tasks=3", Ok(())),
            ("memory=1GiB", Ok(())),
            (
                "cats=3",
                Err(
                    "`cats` is not a quota: use one of tasks, nodes, cpu-millis, memory, volumes, \
                     definitions, secrets, tokens",
                ),
            ),
            (
                "tasks",
                Err("`tasks` is not NAME=VALUE, with one of tasks, nodes, cpu-millis, memory, \
                     volumes, definitions, secrets, tokens"),
            ),
        ] {
            let got = change.set(line).map_err(|error| error.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{line}");
        }
        assert!(change.set("tasks=x").is_err());
        let quota = TenantQuota::default().with(&change);
        assert_eq!((quota.tasks, quota.memory_bytes, quota.nodes), (3, 1 << 30, 250));
        let used = TenantQuota { tasks: 2, ..TenantQuota::NOTHING };
        let more = |tasks| TenantQuota { tasks, ..TenantQuota::NOTHING };
        assert_eq!(quota.check(&used, &more(1)), Ok(()));
        let error = quota.check(&used, &more(2)).unwrap_err();
        assert_eq!(error.to_string(), "quota `tasks` is used up: 2 of 3, and this asks for 2 more");
        let over = TenantQuota { tasks: 9, ..TenantQuota::NOTHING };
        assert_eq!(quota.check(&over, &more(0)), Ok(()), "what asks for nothing is not refused");
        let memory = |memory_bytes| TenantQuota { memory_bytes, ..TenantQuota::NOTHING };
        let error = quota.check(&memory(1 << 29), &memory(1 << 30)).unwrap_err();
        assert!(error.to_string().contains("512MiB of 1GiB, and this asks for 1GiB"), "{error}");
    }

    #[test]
    fn a_stored_quota_without_a_later_resource_has_its_default() {
        let stored: TenantQuota = serde_json::from_str(r#"{"tasks":7}"#).unwrap();
        assert_eq!(stored, TenantQuota { tasks: 7, ..TenantQuota::default() });
    }
}
