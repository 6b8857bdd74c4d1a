pub(crate) mod instruction; // a Dockerfile as values
mod lines; // lines, continued lines and the text of here-documents
mod words; // a line taken apart
mod flags; // which flags an instruction has
mod document; // `<<EOF`
mod healthcheck; // HEALTHCHECK, whose words take no variables
mod parse; // from the text to values
pub(crate) mod expansion; // variables and quotes in a word
mod shell_pattern; // `${NAME#pattern}`
pub(crate) mod variables; // the values of names
pub(crate) mod duration; // `1m30s`
