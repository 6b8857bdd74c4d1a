//! JSON that every reader understands alike.
//!
//! The same bytes are read by several programs: a registry, the client that pushes, an engine of
//! another maker. Where they disagree, what was checked is not what runs (CVE-2021-41190 was one
//! such disagreement). Of two equal keys one reader takes the first and another the last, and some
//! match keys without regard to case. So a document in which that could matter is refused, and one
//! with a list where an object belongs, which serde would take.

mod named; // structs from objects alone

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};

use named::Named;

/// Objects and lists inside each other. Image documents nest six deep and task definitions eight.
const DEPTH_MAX: usize = 64;
/// Characters of a key and of a place that a message quotes.
const QUOTED_CHARS_MAX: usize = 128;

/// Objects whose keys are names chosen by users, in image documents and task definitions. There
/// every reader takes keys as they are, and `Version` beside `version` is usual in labels.
const FREE_KEYS: &[&str] =
    &["annotations", "labels", "env", "environment", "exposedports", "volumes", "metadata"];

/// Reads a document in which no object has a key twice, also in another case.
///
/// # Errors
/// As `serde_json`; and the key and its place where the document is ambiguous or too deep.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    check(bytes)?;
    let mut document = serde_json::Deserializer::from_slice(bytes);
    let read = T::deserialize(Named(&mut document))?;
    document.end().map(|()| read)
}

/// Whether a document is JSON in which no object has a key twice.
///
/// # Errors
/// As [`from_slice`].
pub fn check(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut document = serde_json::Deserializer::from_slice(bytes);
    let place = Place { parent: None, step: Step::Root, depth: 0 };
    Unambiguous(&place).deserialize(&mut document)?;
    document.end()
}

/// Where in a document a value is.
struct Place<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
    depth: usize,
}

enum Step<'a> {
    Root,
    Key(&'a str),
    Entry(usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent.filter(|parent| parent.parent.is_some()) {
            parent.fmt(f)?;
            if matches!(self.step, Step::Key(_)) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => f.write_str("the top level"),
            Step::Key(key) => f.write_str(&quoted(key)),
            Step::Entry(number) => write!(f, "[{number}]"),
        }
    }
}

impl Place<'_> {
    fn has_free_keys(&self) -> bool {
        matches!(self.step, Step::Key(key) if FREE_KEYS.contains(&folded(key).as_str()))
    }

    fn below<'b>(&'b self, step: Step<'b>) -> Place<'b> {
        Place { parent: Some(self), step, depth: self.depth + 1 }
    }
}

/// Reads a value for its keys alone.
struct Unambiguous<'a>(&'a Place<'a>);

impl<'de> DeserializeSeed<'de> for Unambiguous<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0.depth > DEPTH_MAX {
            true => Err(D::Error::custom(format!(
                "objects and lists are nested more than {DEPTH_MAX} deep"
            ))),
            false => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Unambiguous<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let free = self.0.has_free_keys();
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let name = if free { key.clone() } else { folded(&key) };
            if !seen.insert(name) {
                return Err(A::Error::custom(format!(
                    "the key `{}` is there twice{} at `{}`",
                    quoted(&key),
                    if free { "" } else { ", or in another case," },
                    quoted(&self.0.to_string())
                )));
            }
            map.next_value_seed(Unambiguous(&self.0.below(Step::Key(&key))))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut number = 0;
        while list.next_element_seed(Unambiguous(&self.0.below(Step::Entry(number))))?.is_some() {
            number += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// As a reader compares that does not regard case: `ſ` is an `s`, and the Kelvin sign is a `k`.
fn folded(key: &str) -> String {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

fn quoted(text: &str) -> String {
    let shown = text.chars().flat_map(char::escape_debug).take(QUOTED_CHARS_MAX);
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_readers_could_disagree_about_is_refused_with_its_place() {
        let shown = |text: &str| match check(text.as_bytes()) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string().split(" at line ").next().unwrap_or("").to_owned(),
        };
        for (text, want) in [
            (r#"{"a": 1, "b": [{"a": 1}, {"a": 2}], "c": {"a": null}}"#, "ok"),
            (
                r#"{"a": 1.5, "a": -2}"#,
                "the key `a` is there twice, or in another case, at `the top level`",
            ),
            (
                r#"{"layers": [], "Layers": []}"#,
                "the key `Layers` is there twice, or in another case, at `the top level`",
            ),
            (
                r#"{"layers": [], "layer\u017f": []}"#,
                "the key `layerſ` is there twice, or in another case, at `the top level`",
            ),
            (
                r#"{"K": 1, "\u212a": 2}"#,
                "the key `\u{212a}` is there twice, or in another case, at `the top level`",
            ),
            (
                r#"{"a": 1, "\u0061": 2}"#,
                "the key `a` is there twice, or in another case, at `the top level`",
            ),
            (
                r#"{"layers": [{}, {"digest": 1, "Digest": 2}]}"#,
                "the key `Digest` is there twice, or in another case, at `layers[1]`",
            ),
            (
                r#"{"config": {"x": {"User": "a", "user": "b"}}}"#,
                "the key `user` is there twice, or in another case, at `config.x`",
            ),
            (r#"{"config": {"Labels": {"Version": "1", "version": "2"}}}"#, "ok"),
            (
                r#"{"config": {"Labels": {"version": "1", "version": "2"}}}"#,
                "the key `version` is there twice at `config.Labels`",
            ),
            (
                r#"{"annotations": {"x": {"a": 1, "A": 2}}}"#,
                "the key `A` is there twice, or in another case, at `annotations.x`",
            ),
            ("{\"a\": 1} x", "trailing characters"),
            ("", "EOF while parsing a value"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn a_struct_is_an_object_and_no_list_of_its_fields() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Kind {
            Plain,
            Sized { size: u64 },
            Pair(u64, u64),
            Whole(Inner),
        }
        #[derive(Debug, PartialEq, Deserialize)]
        struct Inner {
            digest: String,
            size: Option<u64>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        struct Outer {
            inner: Inner,
            #[serde(default)]
            more: Vec<Inner>,
            maybe: Option<Inner>,
            kind: Option<Kind>,
            #[serde(default)]
            map: std::collections::BTreeMap<String, Inner>,
            pair: Option<(u64, String)>,
        }
        let inner = r#"{"digest": "d", "size": 1}"#;
        let list = r#"["d", 1]"#;
        let with = |more: &str| format!(r#"{{"inner": {inner}{more}}}"#);
        for (text, is_read) in [
            (with(""), true),
            (with(r#", "pair": [1, "x"], "kind": "plain""#), true),
            (
                with(&format!(r#", "more": [{inner}], "maybe": {inner}, "map": {{"a": {inner}}}"#)),
                true,
            ),
            (with(r#", "kind": {"sized": {"size": 1}}"#), true),
            (with(r#", "kind": {"pair": [1, 2]}, "maybe": null"#), true),
            (with(&format!(r#", "kind": {{"whole": {inner}}}"#)), true),
            (format!("[{inner}]"), false),
            (format!(r#"{{"inner": {list}}}"#), false),
            (with(&format!(r#", "more": [{list}]"#)), false),
            (with(&format!(r#", "maybe": {list}"#)), false),
            (with(&format!(r#", "map": {{"a": {list}}}"#)), false),
            (with(&format!(r#", "kind": {{"whole": {list}}}"#)), false),
            (with(r#", "kind": {"sized": [1]}"#), false),
            (with("") + " x", false),
        ] {
            let read = from_slice::<Outer>(text.as_bytes());
            assert_eq!(read.is_ok(), is_read, "{text}: {read:?}");
            if let Ok(read) = read {
                assert_eq!(read, serde_json::from_str(&text).unwrap(), "{text}");
            }
        }
    }

    #[test]
    fn a_document_is_nested_no_deeper_than_the_limit() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check(nested(DEPTH_MAX).as_bytes()).is_ok());
        let error = check(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("objects and lists are nested more than 64 deep"), "{error}");
        assert!(check(nested(1_000_000).as_bytes()).is_err(), "and no stack ends");
    }

    #[test]
    fn a_message_quotes_no_more_than_a_line() {
        let key = "k".repeat(100_000);
        let error = check(format!(r#"{{"{key}": 1, "{key}": 2}}"#).as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 400, "{}", error.to_string().len());
    }
}
