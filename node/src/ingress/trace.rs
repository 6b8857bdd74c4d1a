//! By what one request is found in every log: its id, and the trace that it is part of.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue};

const ID: &str = "x-request-id";
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static(ID);
/// W3C Trace Context.
pub(super) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// Longer than what any proxy makes: a UUID has 36.
const ID_BYTES_MAX: usize = 128;

/// Makes ids that are unique, and not secret.
#[derive(Debug)]
pub(super) struct RequestIds {
    random: RandomState,
    count: AtomicU64,
}

impl RequestIds {
    pub fn new() -> Self {
        Self { random: RandomState::new(), count: AtomicU64::new(0) }
    }

    /// 128 bits: what a trace needs too.
    fn draw(&self) -> u128 {
        let number = self.count.fetch_add(2, Ordering::Relaxed);
        let half = |number: u64| u128::from(self.random.hash_one(number));
        half(number) << 64 | half(number + 1)
    }
}

/// The id of one request, and the trace that it is part of.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    pub id: HeaderValue,
    /// `traceparent`, of the client or new.
    pub parent: HeaderValue,
    is_new: bool,
}

impl Trace {
    /// Of a request with these headers. The id that they name stays where the sender is believed;
    /// a trace goes on in any case, as it says nothing about the request.
    pub fn of(headers: &HeaderMap, is_believed: bool, ids: &RequestIds) -> Self {
        let named = headers.get(&REQUEST_ID).filter(|id| is_believed && is_id(id.as_bytes()));
        let mut parents = headers.get_all(&TRACE_PARENT).iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(only), None) if is_parent(only.as_bytes()) => Some(only.clone()),
            _ => None,
        };
        if let (Some(id), Some(parent)) = (named, &parent) {
            return Self { id: id.clone(), parent: parent.clone(), is_new: false };
        }
        let drawn = ids.draw();
        let made = hex::<32>(drawn);
        let id = named.cloned().unwrap_or_else(|| value(&made));
        let is_new = parent.is_none();
        let parent = parent.unwrap_or_else(|| {
            // Sampled, as without any context: what comes first decides otherwise for all.
            let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
            text[3..35].copy_from_slice(&made);
            text[36..52].copy_from_slice(&hex::<16>(drawn | 1));
            value(&text)
        });
        Self { id, parent, is_new }
    }

    /// Tells them to the replica.
    pub fn set(&self, headers: &mut HeaderMap) {
        // Programs of CGI and WSGI read `X_Request_Id` as the same name.
        let is_spelling = |name: &HeaderName| {
            let (name, known) = (name.as_str().bytes(), ID.bytes());
            name.len() == known.len()
                && name.zip(known).all(|(a, b)| a == b || (b == b'-' && !a.is_ascii_alphanumeric()))
        };
        while let Some(name) = headers.keys().find(|name| is_spelling(name)).cloned() {
            headers.remove(name);
        }
        headers.insert(REQUEST_ID, self.id.clone());
        if self.is_new {
            headers.insert(TRACE_PARENT, self.parent.clone());
            headers.remove(TRACE_STATE); // of no trace
        }
    }

    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// The id of the trace: the second part of `traceparent`.
    pub fn trace(&self) -> &str {
        self.parent.to_str().ok().and_then(|parent| parent.get(3..35)).unwrap_or_default()
    }
}

/// The last digits of a number.
fn hex<const N: usize>(mut number: u128) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
    digits
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("digits and hyphens")
}

/// What can be written into any log as it is.
fn is_id(id: &[u8]) -> bool {
    let is_of_id = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_of_id)
}

/// `VERSION-TRACE-PARENT-FLAGS` in lower-case hex digits, neither id only zeros. A version to come
/// may have more after a hyphen.
fn is_parent(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let has_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    let is_short = text.len() == 55;
    let is_longer =
        (56..=256).contains(&text.len()) && text[55] == b'-' && !text.starts_with(b"00");
    (is_short || is_longer)
        && [2, 35, 52].into_iter().all(|at| text[at] == b'-')
        && is_hex(&text[..2])
        && !text.starts_with(b"ff")
        && has_id(&text[3..35])
        && has_id(&text[36..52])
        && is_hex(&text[53..55])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced(headers: &[(&str, &str)], is_believed: bool) -> (Trace, HeaderMap) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let trace = Trace::of(&map, is_believed, &RequestIds::new());
        trace.set(&mut map);
        (trace, map)
    }

    #[test]
    fn an_id_is_kept_where_the_sender_is_believed_and_it_is_well_formed() {
        let long = "a".repeat(ID_BYTES_MAX + 1);
        for (id, is_believed, is_kept) in [
            ("7b1f-2A_3.4:5/6+7=", true, true),
            ("7b1f", false, false),
            ("", true, false),
            ("a b", true, false),
            ("a\"b", true, false),
            (&long, true, false),
        ] {
            let (trace, headers) = traced(&[("x-request-id", id)], is_believed);
            assert_eq!(trace.id() == id, is_kept, "{id}");
            assert!(is_kept || trace.id().len() == 32, "{id}");
            assert_eq!(headers.get_all(REQUEST_ID).iter().count(), 1);
        }
        let (trace, headers) = traced(&[("x_request_id", "1"), ("x-request-id", "2")], false);
        assert_eq!((headers.len(), trace.id().len()), (2, 32), "{headers:?}");
    }

    #[test]
    fn a_trace_goes_on_and_one_that_is_none_begins_anew() {
        let (trace, headers) = traced(&[("traceparent", PARENT), ("tracestate", "a=1")], false);
        assert_eq!((headers[TRACE_PARENT].to_str().unwrap(), headers.len()), (PARENT, 3));
        assert_eq!(trace.trace(), &PARENT[3..35]);
        for bad in [
            "",
            &PARENT[1..],
            &PARENT.to_uppercase(),
            &PARENT.replace('-', "_"),
            &PARENT.replacen("00", "ff", 1),
            &format!("{PARENT}-more"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
        ] {
            let (trace, headers) = traced(&[("traceparent", bad), ("tracestate", "a=1")], true);
            assert!(is_parent(headers[TRACE_PARENT].as_bytes()), "{headers:?}");
            assert!(!headers.contains_key(TRACE_STATE), "{bad}");
            assert_eq!(trace.trace(), trace.id(), "a trace that begins here has the id of both");
        }
        let next = format!("{}-more", PARENT.replacen("00", "01", 1));
        assert_eq!(traced(&[("traceparent", &next)], true).1[TRACE_PARENT], next);
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        assert_ne!(traced(&twice, true).0.trace(), &PARENT[3..35]);
    }

    #[test]
    fn ids_do_not_come_twice() {
        let ids = RequestIds::new();
        let drawn: std::collections::BTreeSet<u128> = (0..10_000).map(|_| ids.draw()).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
