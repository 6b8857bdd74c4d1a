//! The functions that Docker adds to those of Go.

use std::sync::Arc;

use gotmpl::{FuncMap, TemplateError, Value};

/// The most that `pad` adds on one side: wider than any terminal.
const PAD_MAX: usize = 1000;

type Function = fn(&[Value]) -> Result<Value, TemplateError>;

const FUNCTIONS: [(&str, Function); 8] = [
    ("join", join),
    ("json", json),
    ("lower", |values| map_text("lower", values, |text| text.to_lowercase())),
    ("pad", pad),
    ("split", split),
    ("title", |values| map_text("title", values, title)),
    ("truncate", truncate),
    ("upper", |values| map_text("upper", values, |text| text.to_uppercase())),
];

/// Those of Go itself.
const OF_GO: &str = "and eq ge gt html index js le len lt ne not or print printf println slice \
                     urlquery";

/// Every function by name, for a hint.
pub fn names() -> String {
    let mut names: Vec<&str> = OF_GO.split(' ').collect();
    names.extend(FUNCTIONS.map(|(name, _)| name));
    names.sort_unstable();
    names.join(" ")
}

pub fn of_record() -> FuncMap {
    let mut functions = FuncMap::new();
    for (name, function) in FUNCTIONS {
        functions.insert(name.to_owned(), Arc::new(function));
    }
    functions
}

/// For the heading of a table: the heading of a field stays what it is.
pub fn of_heading() -> FuncMap {
    let mut functions = FuncMap::new();
    for (name, _) in FUNCTIONS {
        functions.insert(name.to_owned(), Arc::new(first_text));
    }
    functions.insert("index".to_owned(), Arc::new(first_text));
    functions.insert("slice".to_owned(), Arc::new(first_text));
    functions
}

/// The first argument that is the heading of a field.
fn first_text(values: &[Value]) -> Result<Value, TemplateError> {
    let is_heading = |value: &&Value| value.as_str().is_some_and(|text| !text.is_empty());
    Ok(values.iter().find(is_heading).cloned().unwrap_or(Value::String("".into())))
}

fn wrong(name: &str, want: &str) -> TemplateError {
    TemplateError::Exec(format!("`{name}` takes {want}"))
}

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into().into())
}

fn map_text(
    name: &str,
    values: &[Value],
    map: impl Fn(&str) -> String,
) -> Result<Value, TemplateError> {
    match values {
        [value] => Ok(text(map(&shown(value)))),
        _ => Err(wrong(name, "one text")),
    }
}

/// As Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        other => other.to_string(),
    }
}

fn title(text: &str) -> String {
    let mut after_letter = false;
    let upper = |c: char| {
        let starts = !after_letter && c.is_alphabetic();
        after_letter = c.is_alphanumeric() || c == '\'';
        if starts { c.to_uppercase().collect::<String>() } else { c.to_string() }
    };
    text.chars().map(upper).collect()
}

fn json(values: &[Value]) -> Result<Value, TemplateError> {
    let [value] = values else { return Err(wrong("json", "one value")) };
    Ok(text(as_json(value).to_string()))
}

fn as_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.to_string().into(),
        Value::List(values) => values.iter().map(as_json).collect(),
        Value::Map(entries) => {
            let entries = entries.iter().filter(|(key, _)| &***key != "Label");
            entries.map(|(key, value)| (key.to_string(), as_json(value))).collect()
        }
        _ => serde_json::Value::Null,
    }
}

/// A record as a template sees it.
pub fn of_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(value) => text(value.as_str()),
        serde_json::Value::Array(values) => {
            Value::List(values.iter().map(of_json).collect::<Vec<_>>().into())
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.iter();
            Value::Map(Arc::new(
                fields.map(|(name, value)| (name.as_str().into(), of_json(value))).collect(),
            ))
        }
    }
}

fn join(values: &[Value]) -> Result<Value, TemplateError> {
    match values {
        [Value::List(parts), separator] => {
            let parts: Vec<String> = parts.iter().map(shown).collect();
            Ok(text(parts.join(&shown(separator))))
        }
        [Value::Nil, _] => Ok(text("")),
        _ => Err(wrong("join", "a list and a separator: {{join .List \",\"}}")),
    }
}

fn split(values: &[Value]) -> Result<Value, TemplateError> {
    let [Value::String(whole), Value::String(separator)] = values else {
        return Err(wrong("split", "a text and a separator: {{split .Names \",\"}}"));
    };
    let parts: Vec<Value> = match separator.is_empty() {
        true => whole.chars().map(text).collect(),
        false => whole.split(&**separator).map(text).collect(),
    };
    Ok(Value::List(parts.into()))
}

fn count(value: &Value) -> Option<usize> {
    value.as_int().and_then(|number| usize::try_from(number).ok())
}

fn truncate(values: &[Value]) -> Result<Value, TemplateError> {
    match values {
        [value, length] if count(length).is_some() => {
            let length = count(length).unwrap_or_default();
            Ok(text(shown(value).chars().take(length).collect::<String>()))
        }
        _ => Err(wrong("truncate", "a text and a length: {{truncate .ID 4}}")),
    }
}

fn pad(values: &[Value]) -> Result<Value, TemplateError> {
    match values {
        [value, before, after] if count(before).is_some() && count(after).is_some() => {
            let spaces = |side| " ".repeat(count(side).unwrap_or_default().min(PAD_MAX));
            match shown(value) {
                empty if empty.is_empty() => Ok(text("")),
                whole => Ok(text(format!("{}{whole}{}", spaces(before), spaces(after)))),
            }
        }
        _ => Err(wrong("pad", "a text and the spaces before and after it: {{pad .ID 1 2}}")),
    }
}
