//! Go templates, as `--format` takes them: Docker's functions over a record of JSON.
//!
//! The language is that of Go's `text/template`, read and carried out by `gotmpl`. What is here are
//! the functions that Docker adds, the limits, and errors that name what a record has.

mod functions; // json, join, upper, …
mod blocks; // which begin and end

use std::fmt::{self, Write as _};

use gotmpl::{MissingKey, TemplateError};
use serde_json::{Map, Value};

use crate::failure::{Advice, USAGE_ERROR};

/// Longer than any template that was written by hand.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// Of all loops of one record together: more than any record has entries.
const ITERATIONS_MAX: u64 = 100_000;
/// Of one record: larger than any inspected task or image, smaller than what would fill a machine.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// A template that was read.
pub struct Template {
    text: String,
    /// Fills the heading of a table: values pass through functions unchanged.
    heading: gotmpl::Template,
    record: gotmpl::Template,
}

impl Template {
    /// # Errors
    /// Names line and column of what cannot be read, and functions that there are not.
    pub fn parse(text: &str) -> Result<Self, Advice> {
        Self::parse_with(text, MissingKey::Error)
    }

    /// The same for records that do not all have the same fields: Go prints `<no value>` for one
    /// that is missing.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_lenient(text: &str) -> Result<Self, Advice> {
        Self::parse_with(text, MissingKey::Invalid)
    }

    fn parse_with(text: &str, missing: MissingKey) -> Result<Self, Advice> {
        if text.len() > TEMPLATE_BYTES_MAX {
            let message = format!("a template has {TEMPLATE_BYTES_MAX} bytes at most");
            return Err(Advice::new(message).code(USAGE_ERROR));
        }
        blocks::check(text)?;
        let text = with_lookups(text);
        let parse = |functions| {
            let template = gotmpl::Template::new("").missing_key(missing);
            let template = template.max_range_iters(ITERATIONS_MAX).funcs(functions);
            template.parse(&text).map_err(|error| unreadable(&text, &error))
        };
        let (heading, record) = (parse(functions::of_heading())?, parse(functions::of_record())?);
        Ok(Self { text, heading, record })
    }

    /// What the template makes of `record`.
    ///
    /// # Errors
    /// Names the field that the record has not, and those that it has.
    pub fn render(&self, record: &Value) -> Result<String, Advice> {
        execute(&self.record, record).map_err(|error| self.failed(record, &error))
    }

    /// The headings of a table: for each field that the template names, the heading of it.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn heading(&self, headings: &Map<String, Value>) -> Result<String, Advice> {
        let headings = Value::Object(headings.clone());
        execute(&self.heading, &headings).map_err(|error| self.failed(&headings, &error))
    }

    /// Refuses a field that no record has, also where there is no record to look at.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn check(&self, headings: &Map<String, Value>) -> Result<(), Advice> {
        let record = Value::Object(headings.clone());
        match execute(&self.heading, &record) {
            Err(
                error @ (TemplateError::MissingKey { .. }
                | TemplateError::UndefinedFunction(_)
                | TemplateError::UndefinedVariable(_)),
            ) => Err(self.failed(&record, &error)),
            // A heading is a text, which is no list to take apart.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn failed(&self, record: &Value, error: &TemplateError) -> Advice {
        let advice = match error {
            TemplateError::MissingKey { key } => {
                let (chain, parent) = named(&self.text, record, key);
                let advice = Advice::new(format!("`--format`: there is no field `{chain}`"));
                match keys(parent.unwrap_or(record)) {
                    Some(keys) => advice.hint(format!("the fields are {keys}")),
                    None => advice,
                }
            }
            TemplateError::UndefinedFunction(_) => return unreadable(&self.text, error),
            TemplateError::RangeIterLimit => {
                Advice::new(format!("`--format`: loops end after {ITERATIONS_MAX} rounds"))
            }
            TemplateError::Write => Advice::new(format!(
                "`--format`: the text of a record has {OUTPUT_BYTES_MAX} bytes at most"
            )),
            error => {
                let text = error.to_string();
                let text = text.strip_prefix("execution error: ").unwrap_or(&text);
                Advice::new(format!("`--format`: {text}"))
            }
        };
        advice.code(1)
    }
}

fn execute(template: &gotmpl::Template, record: &Value) -> Result<String, TemplateError> {
    let value = functions::of_json(record);
    let mut text = Limited(String::new());
    template.execute_fmt(&mut text, &value)?;
    Ok(text.0)
}

/// A text that does not grow without end.
struct Limited(String);

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > OUTPUT_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

fn unreadable(text: &str, error: &TemplateError) -> Advice {
    let advice = match error {
        TemplateError::Parse { line, col, message, .. }
        | TemplateError::Lex { line, col, message, .. } => {
            let place = match text.contains('\n') {
                true => format!("line {line}, column {col}"),
                false => format!("column {col}"),
            };
            let advice = Advice::new(format!("`--format`: {place}: {message}"));
            match message.contains("function") {
                true => advice.hint(format!("the functions are {}", functions::names())),
                false => advice.hint("a field is written {{.Name}}, a block ends with {{end}}"),
            }
        }
        TemplateError::UndefinedFunction(name) => {
            Advice::new(format!("`--format`: there is no function `{name}`"))
                .hint(format!("the functions are {}", functions::names()))
        }
        error => Advice::new(format!("`--format`: {error}")),
    };
    advice.code(USAGE_ERROR)
}

/// Docker's `.Label "NAME"` is a method; a record has a map in its place.
fn with_lookups(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(start) = rest.find("{{") {
        let end = rest[start..].find("}}").map_or(rest.len(), |end| start + end);
        out.push_str(&rest[..start]);
        out.push_str(&rest[start..end].replace(".Label \"", "index $.Label \""));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The chain of fields in the template that ends with `key`, and the value that it was looked for
/// in, as far as that shows without running the template.
fn named<'a>(text: &str, record: &'a Value, key: &str) -> (String, Option<&'a Value>) {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    let chains = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with('.'));
    let mut fallback = (format!(".{key}"), None);
    for chain in chains {
        let fields: Vec<&str> = chain[1..].split('.').collect();
        let Some(place) = fields.iter().position(|field| *field == key) else { continue };
        let parent = fields[..place].iter().try_fold(record, |value, field| value.get(field));
        let shown = format!(".{}", fields[..=place].join("."));
        match parent {
            Some(value) if value.is_object() && value.get(key).is_none() => {
                return (shown, Some(value));
            }
            _ => fallback.0 = shown,
        }
    }
    fallback
}

/// The fields of a record, in one line.
fn keys(record: &Value) -> Option<String> {
    let mut names = record.as_object()?.keys().filter(|name| *name != "Label");
    let mut text = format!(".{}", names.next()?);
    for name in names {
        let _ = write!(text, " .{name}");
    }
    Some(text)
}

#[cfg(test)]
mod tests;
