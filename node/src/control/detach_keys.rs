use std::str::FromStr;

use crate::error::Error;

/// The keys that leave a task's terminal without ending the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

/// More keys than a hand would press.
const KEYS_MAX: usize = 16;

impl Default for DetachKeys {
    /// Ctrl-P, Ctrl-Q.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        match keys {
            Some(keys) if (1..=KEYS_MAX).contains(&keys.len()) => Ok(Self(keys)),
            _ => Err(Error::BadArgument {
                text: text.chars().take(100).collect(),
                what: "a sequence of keys: characters and ctrl-CHARACTER with commas between, as \
                       in ctrl-p,ctrl-q",
            }),
        }
    }
}

/// `a`, `ctrl-a`, `ctrl-@`, `ctrl-[`, `ctrl-\`, `ctrl-]`, `ctrl-^`, `ctrl-_`.
fn key(text: &str) -> Option<u8> {
    let one = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    };
    match text.strip_prefix("ctrl-").filter(|rest| !rest.is_empty()) {
        Some(rest) => match one(rest)?.to_ascii_uppercase() {
            byte @ b'@'..=b'_' => Some(byte - b'@'),
            _ => None,
        },
        None => one(text),
    }
}

/// Finds the keys in what is typed, however it arrives.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    keys: DetachKeys,
    /// How many of them were typed already, and are held back.
    held: usize,
}

impl KeyFilter {
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, held: 0 }
    }

    /// What of `typed` is for the program, and whether the keys were complete.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte != keys[self.held] {
                passed.extend_from_slice(&keys[..self.held]);
                self.held = 0;
            }
            if *byte != keys[self.held] {
                passed.push(*byte);
                continue;
            }
            self.held += 1;
            if self.held == keys.len() {
                self.held = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_docker_reads_them() {
        for (text, want) in [
            ("ctrl-p,ctrl-q", Some(&[0x10, 0x11][..])),
            ("ctrl-P", Some(&[0x10])),
            ("a,b", Some(b"ab")),
            ("ctrl-@", Some(&[0])),
            ("ctrl-[,x", Some(&[0x1b, b'x'])),
            ("", None),
            ("ctrl-", None),
            ("ctrl-1", None),
            ("ab", None),
            ("a,", None),
            ("é", None),
        ] {
            let read = text.parse::<DetachKeys>().ok();
            assert_eq!(read.as_ref().map(|keys| keys.0.as_slice()), want, "{text}");
        }
    }

    #[test]
    fn only_the_whole_sequence_detaches_and_nothing_of_the_rest_is_lost() {
        for (typed, passed, detached) in [
            (&[&b"ls\n"[..]][..], &b"ls\n"[..], false),
            (&[b"\x10\x11"], b"", true),
            (&[b"a\x10", b"\x11rest"], b"a", true),
            (&[b"\x10", b"x"], b"\x10x", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11\x10"], b"\x11", false),
        ] {
            let mut filter = KeyFilter::new(DetachKeys::default());
            let (mut all, mut left) = (Vec::new(), false);
            for chunk in typed {
                let (passed, detached) = filter.pass(chunk);
                all.extend(passed);
                left |= detached;
            }
            assert_eq!((all.as_slice(), left), (passed, detached), "{typed:?}");
        }
    }
}
