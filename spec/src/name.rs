//! Names of stored objects. Each is a type, so that swapping two arguments does not compile;
//! each can stand in a path, and all but those of volumes in a host name (RFC 1123 label:
//! `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`).

use std::{fmt, str::FromStr};

use crate::text::{ParseError, written_as_text};

/// The owner of the volumes of `margay run` and `margay invoke`. No tenant can have this name, so
/// no tenant reaches them.
pub const OPERATOR: &str = "local";

macro_rules! names {
    ($read:ident, $rule:literal, $pattern:literal: $($(#[$doc:meta])* $type:ident = $noun:literal, $example:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $type {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                $read(text, $noun).map(Self)
            }
        }
        written_as_text!(
            $type,
            concat!("The name of a ", $noun, ": ", $rule, "."),
            $example,
            $pattern
        );
    )+};
}

names! {
    label, "1 to 63 lower-case letters, digits and inner dashes", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$":
    /// The owner of objects. Every stored key starts with it; it comes from a credential and never
    /// from the body of a request.
    Tenant = "tenant", "acme";
    /// A group of nodes and the services on them.
    ClusterName = "cluster", "allthecats";
    /// A host.
    NodeId = "node", "node-7f3a";
    /// A service in a cluster.
    ServiceName = "service", "cats";
    /// A task: one replica of a task definition, or one run of it.
    TaskId = "task", "cats-1-0-4k2m";
    /// The name that all revisions of one task definition share.
    Family = "task definition family", "cats";
    /// A container in a task.
    ContainerName = "container", "cats";
    /// What a client proves itself to the control plane with.
    CredentialName = "credential", "ci";
    /// A certificate of host names.
    CertificateName = "certificate", "shop";
    /// Nodes of one kind, which are added and removed by the platform.
    NodeGroupName = "node group", "workers";
    /// A number that clients report of a service.
    MetricName = "metric", "queue-depth";
}

names! {
    volume, "1 to 63 letters, digits, `_`, `.` and `-`, beginning with a letter or digit", "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$":
    /// A volume on one node. As in Docker: it stands in paths, and never in a host name.
    VolumeName = "volume", "book";
}

fn label(text: &str, noun: &str) -> Result<String, ParseError> {
    if noun == "tenant" && text == OPERATOR {
        return Err(ParseError(format!(
            "`{OPERATOR}` cannot name a tenant: it is the operator's own"
        )));
    }
    let good = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    match good {
        true => Ok(text.to_owned()),
        false => {
            let rule = "use 1 to 63 lower-case letters, digits and inner dashes";
            Err(ParseError::about(text, format_args!("cannot name a {noun}: {rule}")))
        }
    }
}

fn volume(text: &str, noun: &str) -> Result<String, ParseError> {
    let good = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    match good {
        true => Ok(text.to_owned()),
        false => {
            let rule =
                "use 1 to 63 letters, digits, `_`, `.` and `-`, beginning with a letter or digit";
            Err(ParseError::about(text, format_args!("cannot name a {noun}: {rule}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_a_name_of_docker_and_is_one_folder() {
        for text in ["a", "pg_data", "My.Data-2", "a..b", "4_", &"a".repeat(63)] {
            assert_eq!(text.parse::<VolumeName>().unwrap().as_str(), text);
        }
        for text in ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "é", "a\0", &"a".repeat(64)] {
            let error = text.parse::<VolumeName>().expect_err(text).to_string();
            assert!(error.contains("cannot name a volume"), "{error}");
        }
    }

    #[test]
    fn a_name_fits_into_a_host_name() {
        for text in ["a", "cats", "node-7f3a", "4"] {
            assert_eq!(text.parse::<ClusterName>().unwrap().as_str(), text);
        }
        for text in ["", "-a", "a-", "A", "a_b", "a.b", "../x", "é", &"a".repeat(64)] {
            let error = text.parse::<ClusterName>().expect_err(text).to_string();
            assert!(error.contains("cannot name a cluster"), "{error}");
        }
    }

    #[test]
    fn no_tenant_has_the_name_of_the_operator() {
        let error = OPERATOR.parse::<Tenant>().unwrap_err().to_string();
        assert_eq!(error, "`local` cannot name a tenant: it is the operator's own");
        assert!(OPERATOR.parse::<NodeId>().is_ok());
    }
}
