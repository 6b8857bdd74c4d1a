use std::{fmt, net::IpAddr, str::FromStr};

use crate::{
    digest::shortened,
    name::VolumeName,
    secret::SecretName,
    text::{ParseError, written_as_text},
    time::{parse_bytes, print_bytes},
};

/// One thing that a guest may reach, in the one-line form that manifests, roles, flags, errors and
/// the audit log share: `kind:target[#rights][;key[=value]]…`.
///
/// Everything is denied until a line allows it, and no line takes anything away, so a role can be
/// reviewed as a diff. Kinds that this version cannot enforce are refused by name rather than
/// accepted and ignored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `fs:/data#rw;volume=orders;max=1GiB`: a folder of the guest. Without a volume: that folder
    /// of the image, writes (where `w`) going to the task's writable layer.
    Fs {
        /// Absolute and normal: no `.`, `..`, doubled or trailing `/`.
        path: String,
        /// What may be done there.
        rights: Rights,
        /// The named volume mounted there.
        volume: Option<VolumeName>,
        /// The most bytes that may be written there.
        max_bytes: Option<u64>,
    },
    /// `net.out:https://api.example.com:443`: connections that the guest may open.
    NetOut {
        /// What is spoken.
        scheme: Scheme,
        /// Who may be spoken to.
        host: Host,
        /// On which port.
        port: u16,
        /// `;private`: the first of the two keys to an address in [`forbidden`](crate::forbidden).
        private: bool,
    },
    /// `net.in:http/8080`: a port on which the guest may be reached.
    NetIn {
        /// The port as the guest knows it.
        port: u16,
    },
    /// `env:LOG_LEVEL`: an environment variable, by name.
    Env(String),
    /// `secret:db-password`: a secret, by name; a file under `/run/secrets`, or with `;as=env` a
    /// variable.
    Secret {
        /// The secret's name.
        name: String,
        /// Hand it over as an environment variable of the same name instead of a file.
        as_env: bool,
    },
    /// `clock:coarse`: how well the guest can tell time.
    Clock(ClockLevel),
    /// `random:secure`: where its random numbers come from.
    Random(RandomLevel),
}

/// What may be done with files: `r` read, `w` write, `x` execute, `d` delete and rename; in this
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rights {
    /// Read files and list folders.
    pub read: bool,
    /// Create and change files.
    pub write: bool,
    /// Load as code. Accepted for native images only.
    pub execute: bool,
    /// Delete and rename. `w` alone may add and overwrite.
    pub delete: bool,
}

/// What is spoken to the outside. Plain `tcp` and `udp` are absent until `wasi:sockets` goes
/// through the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP in the clear; port 80 unless said.
    Http,
    /// HTTP over TLS, with the name checked; port 443 unless said.
    Https,
}

/// Whom a guest may speak to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// One DNS name, lower case.
    Name(String),
    /// `*.example.com`: every name below, not `example.com` itself. Holds the part after `*.`.
    Below(String),
    /// One address.
    Address(IpAddr),
    /// `10.2.0.0/24`: every address with the same leading bits.
    Network(IpAddr, u8),
}

/// How well a guest can tell time, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClockLevel {
    /// Always the same instant.
    None,
    /// Stands still between two imports that wait: the default in the shared pool.
    Frozen,
    /// In steps of a millisecond.
    Coarse,
    /// As the host knows it: the default on nodes that you own.
    Fine,
}

/// Where random numbers come from, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RandomLevel {
    /// Zeros.
    None,
    /// The same sequence in every run.
    Seeded,
    /// The kernel's generator: the default.
    Secure,
}

/// A capability that an image asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Want {
    /// What it asks for.
    pub capability: Capability,
    /// `;optional`: it runs without, too.
    pub optional: bool,
}

/// Longer than any honest line.
const LINE_CHARS_MAX: usize = 1024;

impl Capability {
    /// Whether whoever holds `self` may do everything that `want` asks for.
    pub fn covers(&self, want: &Self) -> bool {
        match (self, want) {
            (
                Self::Fs { path, rights, volume, max_bytes },
                Self::Fs { path: p, rights: r, volume: v, max_bytes: m },
            ) => {
                path == p
                    && rights.include(*r)
                    // A want without a volume, or under another name, is content with the volume
                    // that the operator chose.
                    && (volume == v || volume.is_some())
                    && match (max_bytes, m) {
                        (None, _) | (_, None) => true,
                        (Some(granted), Some(wanted)) => granted >= wanted,
                    }
            }
            (
                Self::NetOut { scheme, host, port, private },
                Self::NetOut { scheme: s, host: h, port: p, private: v },
            ) => scheme == s && port == p && host.includes(h) && (*private || !v),
            (Self::NetIn { port }, Self::NetIn { port: p }) => port == p,
            (Self::Env(name), Self::Env(n)) => name == n,
            (Self::Secret { name, as_env }, Self::Secret { name: n, as_env: e }) => {
                name == n && as_env == e
            }
            (Self::Clock(level), Self::Clock(l)) => level >= l,
            (Self::Random(level), Self::Random(l)) => level >= l,
            _ => false,
        }
    }

    /// The word before the first colon.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fs { .. } => "fs",
            Self::NetOut { .. } => "net.out",
            Self::NetIn { .. } => "net.in",
            Self::Env(_) => "env",
            Self::Secret { .. } => "secret",
            Self::Clock(_) => "clock",
            Self::Random(_) => "random",
        }
    }
}

impl Rights {
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false, execute: false, delete: false };
    /// Reading, writing, deleting: what a mounted volume gives unless said otherwise.
    pub const READ_WRITE_DELETE: Self =
        Self { read: true, write: true, execute: false, delete: true };

    /// Whether every right in `other` is here too.
    pub fn include(self, other: Self) -> bool {
        (self.read || !other.read)
            && (self.write || !other.write)
            && (self.execute || !other.execute)
            && (self.delete || !other.delete)
    }
}

impl Host {
    /// Whether everybody whom `other` names is named here too.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Below(zone), Self::Name(name)) => is_below(name, zone),
            (Self::Below(zone), Self::Below(inner)) => zone == inner || is_below(inner, zone),
            (Self::Address(a), Self::Address(b)) => a == b,
            (Self::Network(net, bits), Self::Address(address)) => in_network(*address, *net, *bits),
            (Self::Network(net, bits), Self::Network(inner, inner_bits)) => {
                inner_bits >= bits && in_network(*inner, *net, *bits)
            }
            (Self::Name(_) | Self::Address(_), _) | (Self::Below(_) | Self::Network(..), _) => {
                false
            }
        }
    }
}

fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone)
        .and_then(|rest| rest.strip_suffix('.'))
        .is_some_and(|label| !label.is_empty())
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (a.to_bits() ^ n.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fs { path, rights, volume, max_bytes } => {
                write!(f, "fs:{path}#{rights}")?;
                if let Some(volume) = volume {
                    write!(f, ";volume={volume}")?;
                }
                if let Some(max) = max_bytes {
                    write!(f, ";max={}", print_bytes(*max))?;
                }
                Ok(())
            }
            Self::NetOut { scheme, host, port, private } => {
                write!(f, "net.out:{}://{host}:{port}", scheme.name())?;
                if *private { f.write_str(";private") } else { Ok(()) }
            }
            Self::NetIn { port } => write!(f, "net.in:http/{port}"),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Secret { name, as_env } => {
                write!(f, "secret:{name}")?;
                if *as_env { f.write_str(";as=env") } else { Ok(()) }
            }
            Self::Clock(level) => write!(f, "clock:{}", level.name()),
            Self::Random(level) => write!(f, "random:{}", level.name()),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, has) in
            [("r", self.read), ("w", self.write), ("x", self.execute), ("d", self.delete)]
        {
            if has {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(zone) => write!(f, "*.{zone}"),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Network(IpAddr::V4(v4), bits) => write!(f, "{v4}/{bits}"),
            Self::Network(IpAddr::V6(v6), bits) => write!(f, "[{v6}/{bits}]"),
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

fn parse_want(line: &str) -> Result<Want, String> {
    if line.len() > LINE_CHARS_MAX {
        return Err(format!("it is longer than {LINE_CHARS_MAX} characters"));
    }
    let (kind, rest) =
        line.split_once(':').ok_or("it has no `:` after its kind, as in `fs:/data#rw`")?;
    let mut parts = rest.split(';');
    let head = parts.next().unwrap_or_default();
    let (target, rights) = match head.split_once('#') {
        Some((target, rights)) => (target, Some(rights.parse::<Rights>()?)),
        None => (head, None),
    };
    let mut keys = Keys(
        parts
            .map(|part| part.split_once('=').map_or((part, None), |(k, v)| (k, Some(v))))
            .collect(),
    );
    let optional = keys.flag("optional")?;
    let capability = match kind {
        "fs" => Capability::Fs {
            path: guest_path(target)?,
            rights: rights.unwrap_or(Rights::READ),
            volume: match keys.value("volume")? {
                Some(_) if target == "/" => {
                    return Err(
                        "a volume cannot be mounted at `/`: give it a folder of its own, such as `/data`".to_owned()
                    );
                }
                name => name
                    .map(|name| name.parse::<VolumeName>().map_err(|e| e.to_string()))
                    .transpose()?,
            },
            max_bytes: keys
                .value("max")?
                .map(|text| parse_bytes(text).map_err(|e| e.to_string()))
                .transpose()?,
        },
        "net.out" => net_out(target, keys.flag("private")?)?,
        "net.in" => match target.split_once('/') {
            Some(("http", port)) => Capability::NetIn { port: parse_port(port)? },
            _ => return Err("a way in is `net.in:http/PORT`".to_owned()),
        },
        "env" => Capability::Env(variable(target)?),
        "secret" => Capability::Secret {
            as_env: match keys.value("as")? {
                None | Some("file") => false,
                Some("env") => true,
                Some(other) => {
                    return Err(format!("a secret comes `as=file` or `as=env`, not `{other}`"));
                }
            },
            name: target.parse::<SecretName>().map_err(|error| error.to_string())?.to_string(),
        },
        "clock" => Capability::Clock(target.parse()?),
        "random" => Capability::Random(target.parse()?),
        "kv" | "call" | "spawn" | "log" | "identity" | "feature" => {
            return Err(format!("this version cannot grant `{kind}` yet"));
        }
        _ => {
            return Err(
                "the kinds are fs, net.out, net.in, env, secret, clock and random".to_owned()
            );
        }
    };
    if rights.is_some() && kind != "fs" {
        return Err(format!("`{kind}` takes no `#rights`"));
    }
    keys.nothing_left()?;
    Ok(Want { capability, optional })
}

/// The `;key=value` parts that nobody has taken yet.
struct Keys<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> Keys<'a> {
    fn take(&mut self, key: &str) -> Result<Option<Option<&'a str>>, String> {
        let found: Vec<_> = self.0.extract_if(.., |(k, _)| *k == key).collect();
        match found.as_slice() {
            [] => Ok(None),
            [(_, value)] => Ok(Some(*value)),
            _ => Err(format!("`;{key}` stands there twice")),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key)? {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(format!("`;{key}` takes no value")),
        }
    }

    fn value(&mut self, key: &str) -> Result<Option<&'a str>, String> {
        match self.take(key)? {
            None => Ok(None),
            Some(Some(value)) if !value.is_empty() => Ok(Some(value)),
            Some(_) => Err(format!("`;{key}` needs a value")),
        }
    }

    fn nothing_left(&self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("nothing is known of `;{key}` here")),
        }
    }
}

impl FromStr for Rights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let has = |letter| text.contains(letter);
        let rights = Self { read: has('r'), write: has('w'), execute: has('x'), delete: has('d') };
        match rights.to_string() == text && !text.is_empty() {
            true => Ok(rights),
            false => Err(format!(
                "the rights `#{text}` are not letters of `rwxd`, once each and in this order"
            )),
        }
    }
}

/// Words for a level, and back.
macro_rules! levels {
    ($type:ident, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// The word in a capability line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("`{text}` is none of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}
levels!(ClockLevel, None = "none", Frozen = "frozen", Coarse = "coarse", Fine = "fine");
levels!(RandomLevel, None = "none", Seeded = "seeded", Secure = "secure");
levels!(Scheme, Http = "http", Https = "https");

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

fn guest_path(text: &str) -> Result<String, String> {
    let normal = text == "/"
        || text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    match normal && !text.contains(['\0', '\\', '%']) && text.len() <= 256 {
        true => Ok(text.to_owned()),
        false => {
            Err("its path must be absolute, without `.`, `..`, `//`, `%`, `\\` or a `/` at the end"
                .to_owned())
        }
    }
}

fn net_out(target: &str, private: bool) -> Result<Capability, String> {
    let (scheme, rest) =
        target.split_once("://").ok_or("a way out is `net.out:SCHEME://HOST[:PORT]`")?;
    if matches!(scheme, "tcp" | "udp") {
        return Err(format!(
            "this version cannot grant `{scheme}` to a guest yet: use http or https"
        ));
    }
    let scheme: Scheme =
        scheme.parse().map_err(|_| format!("the scheme `{scheme}` is none of http, https"))?;
    if rest.contains(['@', '/', '?', '%', '\\']) && !is_network(rest) {
        return Err("its host has no user, path, query or escapes".to_owned());
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("its `[` has no `]`")?;
            (
                address_or_network(host).ok_or("there is no IPv6 address between `[` and `]`")?,
                after.strip_prefix(':'),
            )
        }
        None => {
            let (host, port) = rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p)));
            (parse_host(host)?, port)
        }
    };
    let port = port.map_or(Ok(scheme.default_port()), parse_port)?;
    Ok(Capability::NetOut { scheme, host, port, private })
}

fn is_network(text: &str) -> bool {
    !text.contains(['@', '?', '%', '\\']) && text.matches('/').count() == 1
}

fn address_or_network(text: &str) -> Option<Host> {
    match text.split_once('/') {
        None => text.parse().ok().map(Host::Address),
        Some((address, bits)) => {
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            (bits <= if address.is_ipv4() { 32 } else { 128 })
                .then_some(Host::Network(address, bits))
        }
    }
}

fn parse_host(text: &str) -> Result<Host, String> {
    if let Some(host) = address_or_network(text) {
        return Ok(host);
    }
    // `127.1`, `0x7f.1` and `2130706433` are addresses to some resolvers and names to others: to us
    // they are neither.
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.starts_with("0x") || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("`{text}` is neither a DNS name nor an address written in full"));
    }
    match text.strip_prefix("*.") {
        Some(zone) if is_dns_name(zone) && zone.contains('.') => Ok(Host::Below(zone.to_owned())),
        None if is_dns_name(text) => Ok(Host::Name(text.to_owned())),
        _ => Err(format!(
            "`{text}` is not a host: a lower-case DNS name, `*.` and a name of two labels or more, or an address"
        )),
    }
}

fn is_dns_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')
                })
        })
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("`{text}` is not a port from 1 to 65535")),
    }
}

fn variable(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the name of an environment variable"))
    }
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
            ("fs:/data;max=1GiB;max=2GiB", "twice"),
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
