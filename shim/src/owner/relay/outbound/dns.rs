//! Questions of a resolver in the container, and their answers. The names that it may connect to
//! get addresses of a range that no machine has; a connection to one of these is a connection to
//! that name. What a name stands for is looked up once a connection is wanted, outside.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::limits::{NAME_TTL_SECONDS, OUTBOUND_NAMES_MAX};

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, without the last dot.
    pub name: String,
    pub kind: u16,
    /// Where it ends in the message.
    end: usize,
}

/// What it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Address(Ipv4Addr),
    /// The name is there, and has nothing of that kind.
    Nothing,
    NoSuchName,
    /// There are too many names.
    Failed,
}

/// An address of version 4.
pub(super) const A: u16 = 1;
/// One of version 6.
pub(super) const AAAA: u16 = 28;
const INTERNET: u16 = 1;
const HEADER_BYTES: usize = 12;
const LABEL_BYTES_MAX: u8 = 63;
const NAME_BYTES_MAX: usize = 253;

impl Question {
    /// Reads the one question of a message. Nothing where it is none, or has several, or a name
    /// that no host has.
    pub fn read(message: &[u8]) -> Option<Self> {
        let header = message.get(..HEADER_BYTES)?;
        let is_query = header[2] & 0xf8 == 0; // no response, and the usual kind of query
        if !is_query || header[4..6] != [0, 1] {
            return None;
        }
        let (mut name, mut at) = (String::new(), HEADER_BYTES);
        loop {
            let length = *message.get(at)?;
            at += 1;
            if length == 0 {
                break;
            }
            if length > LABEL_BYTES_MAX {
                return None; // a pointer, for which there is no reason here
            }
            let label = message.get(at..at + usize::from(length))?;
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if !label.iter().all(is_plain) {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            at += usize::from(length);
            if name.len() > NAME_BYTES_MAX {
                return None;
            }
        }
        let (kind, class) = (number(message, at)?, number(message, at + 2)?);
        (class == INTERNET).then_some(Self { name, kind, end: at + 4 })
    }

    /// The response to the message that it was read from.
    pub fn answered(&self, message: &[u8], answer: Answer) -> Vec<u8> {
        let code = match answer {
            Answer::Address(_) | Answer::Nothing => 0,
            Answer::Failed => 2,
            Answer::NoSuchName => 3,
        };
        let recursion_desired = message[2] & 1;
        let count = u8::from(matches!(answer, Answer::Address(_)));
        let mut response = message[..2].to_vec();
        response.extend([0x80 | recursion_desired, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        response.extend(&message[HEADER_BYTES..self.end]);
        if let Answer::Address(address) = answer {
            response.extend([0xc0, HEADER_BYTES as u8, 0, A as u8, 0, INTERNET as u8]);
            response.extend(NAME_TTL_SECONDS.to_be_bytes());
            response.extend([0, 4]);
            response.extend(address.octets());
        }
        response
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// The addresses of names, for as long as the container runs.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

/// The network that RFC 2544 keeps for benchmarks.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

impl Names {
    /// The address of `name`, which it keeps. Nothing when there are too many.
    pub fn address(&mut self, name: &str) -> Option<Ipv4Addr> {
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None if self.names.len() >= OUTBOUND_NAMES_MAX => return None,
            None => {
                let number = self.names.len() as u32;
                self.names.push(name.to_owned());
                self.numbers.insert(name.to_owned(), number);
                number
            }
        };
        Some(Ipv4Addr::from_bits(FIRST.to_bits() + number))
    }

    /// The name that has an address.
    pub fn name(&self, address: Ipv4Addr) -> Option<&str> {
        let number = address.to_bits().checked_sub(FIRST.to_bits())?;
        self.names.get(usize::try_from(number).ok()?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(labels: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            message.push(label.len() as u8);
            message.extend(*label);
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message
    }

    #[test]
    fn a_question_is_read_whole_or_not_at_all() {
        let message = query(&[b"API", b"Example", b"com"], A);
        let question = Question::read(&message).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("api.example.com", A));
        for cut in 0..message.len() {
            assert_eq!(Question::read(&message[..cut]), None, "{cut}");
        }
        let long = [b'a'; 63];
        let [mut response, mut two, mut pointer] = [message.clone(), message.clone(), message];
        response[2] = 0x81;
        two[5] = 2;
        pointer[HEADER_BYTES] = 0xc0;
        for bad in [
            response,
            two,
            pointer,
            query(&[b"a b"], A),
            query(&[b"a\0b"], A),
            query(&[&long, &long, &long, &long, &long], A),
        ] {
            assert_eq!(Question::read(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_repeats_its_question() {
        let message = query(&[b"a", b"example"], A);
        let question = Question::read(&message).unwrap();
        let address = Ipv4Addr::new(198, 18, 0, 1);
        let response = question.answered(&message, Answer::Address(address));
        assert_eq!(response[..4], [0xab, 0xcd, 0x81, 0x80]);
        assert_eq!(response[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(response[12..message.len()], message[12..]);
        assert_eq!(response[response.len() - 4..], address.octets());
        for (answer, code) in [(Answer::Nothing, 0), (Answer::Failed, 2), (Answer::NoSuchName, 3)] {
            let response = question.answered(&message, answer);
            assert_eq!((response[3] & 0xf, response[7], response.len()), (code, 0, message.len()));
        }
    }

    #[test]
    fn a_name_keeps_its_address_and_there_is_an_end_of_them() {
        let mut names = Names::default();
        let first = names.address("a.example").unwrap();
        let second = names.address("b.example").unwrap();
        assert_ne!(first, second);
        assert_eq!(names.address("a.example"), Some(first));
        assert_eq!(names.name(second), Some("b.example"));
        assert_eq!(names.name(Ipv4Addr::new(198, 18, 0, 3)), None);
        assert_eq!(names.name(Ipv4Addr::new(10, 0, 0, 1)), None);
        for number in 2..OUTBOUND_NAMES_MAX {
            assert!(names.address(&format!("{number}.example")).is_some());
        }
        assert_eq!(names.address("more.example"), None);
        assert_eq!(names.address("a.example"), Some(first));
    }
}
