//! Records in the form that was asked for: aligned columns, JSON, or what a Go template makes of
//! them.

use std::io::IsTerminal as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    failure::Advice,
    output::{self, Output, line, printable},
    template::Template,
};

/// The options of every verb that lists records.
#[derive(Debug, Clone, clap::Args)]
pub struct Listing {
    /// Print each record as a Go template says, as `table TEMPLATE` with headings, or as `json`
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// What a template can name, each with its heading.
pub type Fields = &'static [(&'static str, &'static str)];

/// A listing whose template was read.
pub struct Form {
    output: Output,
    shape: Shape,
    headings: Map<String, Value>,
}

enum Shape {
    /// The verb's own columns, or JSON.
    Own,
    /// Docker's record on each line.
    JsonLines,
    Template {
        template: Box<Template>,
        is_table: bool,
        /// As it was given.
        text: String,
    },
}

impl Listing {
    /// The form without a template.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Reads the template before anything else is done.
    ///
    /// # Errors
    /// Names what the template says wrongly, and the fields that there are.
    pub fn form(&self, fields: Fields) -> anyhow::Result<Form> {
        let named = fields.iter().map(|(name, heading)| ((*name).to_owned(), (*heading).into()));
        let mut headings: Map<String, Value> = named.collect();
        if fields.iter().any(|(name, _)| *name == "Labels") {
            headings.insert("Label".to_owned(), Value::Object(Map::new()));
        }
        let shape = match self.format.as_deref().map(str::trim) {
            None | Some("" | "table") => Shape::Own,
            Some("json") => Shape::JsonLines,
            Some(text) => {
                let table = text.strip_prefix("table ").map(str::trim);
                // A shell hands these two over as they are written.
                let text = table.unwrap_or(text).replace("\\t", "\t").replace("\\n", "\n");
                let template = Box::new(Template::parse(&text)?);
                template.check(&headings)?;
                Shape::Template { template, is_table: table.is_some(), text }
            }
        };
        Ok(Form { output: self.output, shape, headings })
    }
}

impl Form {
    /// Whether `--quiet` means anything: a template says itself what is printed.
    pub fn is_own(&self) -> bool {
        matches!(self.shape, Shape::Own)
    }

    /// Whether JSON is printed, in which every field is.
    pub fn is_json(&self) -> bool {
        self.output.is_json() || matches!(self.shape, Shape::JsonLines)
    }

    /// Whether the template names `field`, so that it is worth finding out.
    pub fn names(&self, field: &str) -> bool {
        match &self.shape {
            Shape::Own => false,
            Shape::JsonLines => true,
            Shape::Template { text, .. } => {
                text.contains(&format!(".{field}")) || text.contains("json .")
            }
        }
    }

    /// Prints `records`: in the columns of the verb, or through what `docker` makes of each.
    pub fn print<T: Serialize, R: IntoIterator<Item = String>>(
        &self,
        records: &[T],
        columns: &[&'static str],
        row: impl Fn(&T) -> R,
        docker: impl Fn(&T) -> Map<String, Value>,
    ) -> anyhow::Result<()> {
        match &self.shape {
            Shape::Own => return self.output.records(records, columns, row),
            Shape::JsonLines => {
                for record in records {
                    line(format_args!("{}", Value::Object(without_lookups(docker(record)))));
                }
            }
            Shape::Template { template, is_table, .. } => {
                let mut texts = Vec::new();
                for record in records {
                    texts.push(template.render(&Value::Object(docker(record)))?);
                }
                match is_table {
                    false => texts.iter().for_each(|text| block(text)),
                    true => {
                        let heading = template.heading(&self.headings)?;
                        output::print_cells([heading].iter().chain(&texts));
                    }
                }
            }
        }
        Ok(())
    }
}

/// One record that is printed through a template, or as JSON.
#[derive(Debug, Clone, clap::Args)]
pub struct Single {
    /// Print through a Go template, or as `json`
    #[arg(short, long, value_name = "TEMPLATE")]
    pub format: Option<String>,
}

impl Single {
    /// What prints values through the template, when there is one.
    ///
    /// # Errors
    /// Names what the template says wrongly.
    pub fn template(&self) -> anyhow::Result<Option<Lines>> {
        lines(self.format.as_deref(), Template::parse)
    }
}

/// What prints values that do not all have the same fields.
///
/// # Errors
/// Names what the template says wrongly.
pub fn lenient(format: Option<&str>) -> anyhow::Result<Option<Lines>> {
    lines(format, Template::parse_lenient)
}

fn lines(
    format: Option<&str>,
    parse: fn(&str) -> Result<Template, Advice>,
) -> anyhow::Result<Option<Lines>> {
    match format.map(str::trim) {
        None | Some("") => Ok(None),
        Some("json") => Ok(Some(Lines(None))),
        Some(text) => Ok(Some(Lines(Some(parse(text)?)))),
    }
}

/// A template, or JSON on one line.
pub struct Lines(Option<Template>);

impl Lines {
    pub fn is_json(&self) -> bool {
        self.0.is_none()
    }

    /// Prints one value.
    ///
    /// # Errors
    /// Names a field that the value has not.
    pub fn print(&self, value: &Value) -> anyhow::Result<()> {
        match &self.0 {
            None => line(format_args!("{value}")),
            Some(template) => block(&template.render(value)?),
        }
        Ok(())
    }
}

/// Text that a template made. Its lines are its own; what would move a terminal's cursor is not.
fn block(text: &str) {
    match std::io::stdout().is_terminal() {
        false => line(format_args!("{text}")),
        true => text.split('\n').for_each(|text| line(format_args!("{}", printable(text)))),
    }
}

/// A method of Docker's records is no field of theirs.
fn without_lookups(mut record: Map<String, Value>) -> Map<String, Value> {
    record.remove("Label");
    record
}

/// A record from pairs.
pub fn record<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
