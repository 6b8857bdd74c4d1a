pub(crate) mod instruction; // a Dockerfile as values
mod parse; // from the text to these
pub(crate) mod expansion; // variables and quotes in a word
mod shell_pattern; // `${NAME#pattern}`
pub(crate) mod variables; // the values of names
pub(crate) mod duration; // `1m30s`
