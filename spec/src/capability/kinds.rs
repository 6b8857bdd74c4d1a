use std::{fmt, str::FromStr};

use super::{
    clock::ClockLevel, env::EnvGrant, files::FileGrant, grammar::Line, inbound::InboundGrant,
    outbound::OutboundGrant, random::RandomLevel, secrets::SecretGrant,
};
use crate::{
    limits::CAPABILITY_LINE_BYTES_MAX,
    text::{ParseError, shortened, written_as_text},
};

/// One thing that a guest may reach, in the one-line form that manifests, roles, flags, errors and
/// the audit log share: `kind:target[#rights][;key[=value]]…`.
///
/// Everything is denied until a line allows it, and no line takes anything away, so a role can be
/// reviewed as a diff. Kinds that this version cannot enforce are refused by name rather than
/// accepted and ignored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `fs:/data#rw;volume=orders;max=1GiB`
    Files(FileGrant),
    /// `net.out:https://api.example.com:443`
    Outbound(OutboundGrant),
    /// `net.in:http/8080`
    Inbound(InboundGrant),
    /// `env:LOG_LEVEL`
    Env(EnvGrant),
    /// `secret:db-password`
    Secret(SecretGrant),
    /// `clock:coarse`
    Clock(ClockLevel),
    /// `random:secure`
    Random(RandomLevel),
}

/// A capability that an image asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Want {
    /// What it asks for.
    pub capability: Capability,
    /// `;optional`: it runs without, too.
    pub optional: bool,
}

impl Capability {
    /// Whether a guest that holds `self` may do everything that `want` asks for.
    pub fn covers(&self, want: &Self) -> bool {
        match (self, want) {
            (Self::Files(grant), Self::Files(want)) => grant.covers(want),
            (Self::Outbound(grant), Self::Outbound(want)) => grant.covers(want),
            (Self::Inbound(grant), Self::Inbound(want)) => grant == want,
            (Self::Env(grant), Self::Env(want)) => grant == want,
            (Self::Secret(grant), Self::Secret(want)) => grant == want,
            (Self::Clock(granted), Self::Clock(wanted)) => granted >= wanted,
            (Self::Random(granted), Self::Random(wanted)) => granted >= wanted,
            _ => false,
        }
    }

    /// The smaller of the two, where `self` covers `want`: the want's reach, with the operator's
    /// volume and ceiling.
    pub(super) fn narrowed_to(&self, want: &Self) -> Self {
        match (self, want) {
            (Self::Files(grant), Self::Files(want)) => Self::Files(grant.narrowed_to(want)),
            _ => want.clone(),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(grant) => grant.fmt(f),
            Self::Outbound(grant) => grant.fmt(f),
            Self::Inbound(grant) => grant.fmt(f),
            Self::Env(grant) => grant.fmt(f),
            Self::Secret(grant) => grant.fmt(f),
            Self::Clock(level) => write!(f, "clock:{}", level.name()),
            Self::Random(level) => write!(f, "random:{}", level.name()),
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.capability.fmt(f)?;
        if self.optional { f.write_str(";optional") } else { Ok(()) }
    }
}

impl FromStr for Capability {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        let want: Want = line.parse()?;
        match want.optional {
            true => Err(ParseError(format!(
                "`{}` is a grant, and only a want can be `;optional`",
                shortened(line)
            ))),
            false => Ok(want.capability),
        }
    }
}

impl FromStr for Want {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        parse_want(line)
            .map_err(|why| ParseError(format!("`{}` is not a capability: {why}", shortened(line))))
    }
}

fn parse_want(text: &str) -> Result<Want, String> {
    if text.len() > CAPABILITY_LINE_BYTES_MAX {
        return Err(format!("it is longer than {CAPABILITY_LINE_BYTES_MAX} characters"));
    }
    let (kind, rest) =
        text.split_once(':').ok_or("it has no `:` after its kind, as in `fs:/data#rw`")?;
    let mut line = Line::of(rest);
    let optional = line.flag("optional")?;
    let capability = match kind {
        "fs" => Capability::Files(FileGrant::parse(&mut line)?),
        "net.out" => Capability::Outbound(OutboundGrant::parse(&mut line)?),
        "net.in" => Capability::Inbound(InboundGrant::parse(&mut line)?),
        "env" => Capability::Env(EnvGrant::parse(&mut line)?),
        "secret" => Capability::Secret(SecretGrant::parse(&mut line)?),
        "clock" => Capability::Clock(line.target.parse()?),
        "random" => Capability::Random(line.target.parse()?),
        "kv" | "call" | "spawn" | "log" | "identity" | "feature" => {
            return Err(format!("this version cannot grant `{kind}` yet"));
        }
        _ => {
            return Err(
                "the kinds are fs, net.out, net.in, env, secret, clock and random".to_owned()
            );
        }
    };
    line.finish(kind)?;
    Ok(Want { capability, optional })
}

written_as_text!(
    Capability,
    "One thing that a guest may reach: KIND:TARGET[#RIGHTS][;KEY[=VALUE]]…",
    "net.out:https://api.example.com:443"
);
written_as_text!(
    Want,
    "A capability that an image asks for.",
    "fs:/data#rw;volume=orders;optional"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_line_parses_to_its_canonical_form_or_says_why_not() {
        for (line, want) in [
            ("fs:/data#rw;volume=orders;max=1GiB", "fs:/data#rw;volume=orders;max=1GiB"),
            ("fs:/app", "fs:/app#r"),
            ("net.out:https://api.example.com", "net.out:https://api.example.com:443"),
            (
                "net.out:http://*.example.com:8080;private",
                "net.out:http://*.example.com:8080;private",
            ),
            ("net.out:http://10.2.0.0/24:80;private", "net.out:http://10.2.0.0/24:80;private"),
            ("net.out:http://[::1]:80", "net.out:http://[::1]:80"),
            ("net.in:http/8080", "net.in:http/8080"),
            ("env:LOG_LEVEL", "env:LOG_LEVEL"),
            ("secret:db-password;as=env", "secret:db-password;as=env"),
            ("clock:coarse", "clock:coarse"),
            ("random:seeded", "random:seeded"),
            ("fs:/data#rw;volume=orders;optional", "fs:/data#rw;volume=orders;optional"),
        ] {
            let got = line.parse::<Want>().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(got.to_string(), want, "parsing {line}");
            assert_eq!(want.parse::<Want>().unwrap(), got, "printing and parsing {want}");
        }
        for (line, why) in [
            ("data", "no `:`"),
            ("fs:/a/../b", "absolute"),
            ("fs:/#rw;volume=a", "a folder of its own"),
            ("fs:data", "absolute"),
            ("fs:/data#wr", "in this order"),
            ("fs:/data#", "in this order"),
            ("fs:/data;max=1GiB;max=2GiB", "duplicate key `max`"),
            ("fs:/data;colour=red", "`;colour`"),
            ("net.out:*", "SCHEME://HOST"),
            ("net.out:https://*", "not a host"),
            ("net.out:https://*.com", "not a host"),
            ("net.out:https://a@b", "no user"),
            ("net.out:https://a.b/c", "not a host"),
            ("net.out:https://a.b/c/d", "no user, path"),
            ("net.out:http://127.1", "neither a DNS name nor an address"),
            ("net.out:http://0x7f.1", "neither a DNS name nor an address"),
            ("net.out:http://0x7f000001", "neither a DNS name nor an address"),
            ("net.out:http://2130706433", "neither a DNS name nor an address"),
            ("net.out:https://EXAMPLE.com", "not a host"),
            ("net.out:https://example.com.", "not a host"),
            ("net.out:https://exämple.com", "not a host"),
            ("net.out:tcp://10.2.0.0/24:5432", "cannot grant `tcp`"),
            ("net.out:https://a.b:0", "not a port"),
            ("net.out:https://a.b:+1", "not a port"),
            ("net.in:tcp/80", "net.in:http/PORT"),
            ("env:A=B", "environment variable"),
            ("clock:fast", "none of none, frozen, coarse, fine"),
            ("kv:sessions#rw", "cannot grant `kv` yet"),
            ("teleport:mars", "the kinds are"),
        ] {
            let error = line.parse::<Want>().map(|w| w.to_string()).expect_err(line).to_string();
            assert!(error.contains(why), "parsing {line}: {error}");
        }
        assert!("env:A;optional".parse::<Capability>().is_err());
    }

    #[test]
    fn a_grant_covers_what_is_no_wider_than_itself() {
        for (grant, want, covers) in [
            ("fs:/data#rw;volume=a", "fs:/data#r", true),
            ("fs:/data#rwd;volume=a;max=1MiB", "fs:/data#rw;volume=b", true),
            ("fs:/data#rw;volume=a;max=1MiB", "fs:/data#rw;volume=a;max=2MiB", false),
            ("fs:/data#r", "fs:/data#rw", false),
            ("fs:/data#rw", "fs:/data#rw;volume=a", false),
            ("fs:/data#rw", "fs:/data/b#r", false),
            ("net.out:https://*.example.com", "net.out:https://api.example.com", true),
            ("net.out:https://*.example.com", "net.out:https://a.b.example.com", true),
            ("net.out:https://*.example.com", "net.out:https://example.com", false),
            ("net.out:https://*.example.com", "net.out:https://evilexample.com", false),
            ("net.out:https://api.example.com", "net.out:http://api.example.com:443", false),
            ("net.out:http://10.2.0.0/24;private", "net.out:http://10.2.0.9", true),
            ("net.out:http://10.2.0.0/24", "net.out:http://10.2.0.9;private", false),
            ("net.out:http://10.2.0.0/24", "net.out:http://10.2.1.9", false),
            ("clock:fine", "clock:coarse", true),
            ("clock:frozen", "clock:coarse", false),
            ("env:A", "env:B", false),
        ] {
            let (g, w): (Capability, Capability) = (grant.parse().unwrap(), want.parse().unwrap());
            assert_eq!(g.covers(&w), covers, "{grant} over {want}");
        }
    }
}
