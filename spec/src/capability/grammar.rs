//! The grammar of a line, `kind:target[#rights][;key[=value]]…`. Each kind takes its own parts out
//! of a [`Line`]; what is left over is an error.

/// A line after its kind.
pub(super) struct Line<'a> {
    pub target: &'a str,
    /// What follows `#`, until a kind takes it.
    pub rights: Option<&'a str>,
    /// The `;key=value` parts that no kind has taken yet.
    keys: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Line<'a> {
    pub fn of(rest: &'a str) -> Self {
        let mut parts = rest.split(';');
        let head = parts.next().unwrap_or_default();
        let (target, rights) = head.split_once('#').map_or((head, None), |(t, r)| (t, Some(r)));
        let keys =
            parts.map(|part| part.split_once('=').map_or((part, None), |(k, v)| (k, Some(v))));
        Self { target, rights, keys: keys.collect() }
    }

    fn take(&mut self, key: &str) -> Result<Option<Option<&'a str>>, String> {
        let taken: Vec<_> = self.keys.extract_if(.., |(k, _)| *k == key).collect();
        match taken.as_slice() {
            [] => Ok(None),
            [(_, value)] => Ok(Some(*value)),
            _ => Err(format!("duplicate key `{key}`")),
        }
    }

    pub fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key)? {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(format!("`;{key}` takes no value")),
        }
    }

    pub fn value(&mut self, key: &str) -> Result<Option<&'a str>, String> {
        match self.take(key)? {
            None => Ok(None),
            Some(Some(value)) if !value.is_empty() => Ok(Some(value)),
            Some(_) => Err(format!("`;{key}` needs a value")),
        }
    }

    pub fn finish(self, kind: &str) -> Result<(), String> {
        match (self.rights, self.keys.first()) {
            (Some(_), _) => Err(format!("`{kind}` takes no `#rights`")),
            (None, Some((key, _))) => Err(format!("`{kind}` has no key `;{key}`")),
            (None, None) => Ok(()),
        }
    }
}

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("`{text}` is not a port from 1 to 65535")),
    }
}

/// Words for the variants of an enum, and back.
macro_rules! words {
    ($type:ident, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// The word in a capability line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl std::str::FromStr for $type {
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
pub(super) use words;
