use crate::{
    error::Error,
    limits::{REUSE_CHARS_SHOWN, REUSE_RANGE},
};

/// The label, or the annotation where there are no labels, that holds how many requests one
/// instance of an image's program may answer, one after another.
pub const REUSE_KEY: &str = "margay.reuse";

/// How many requests one instance may answer: from 1, which is a fresh instance for each, to
/// 10,000.
///
/// # Errors
/// [`Error::Reuse`] for anything else.
pub fn parse_reuse(text: &str) -> Result<u32, Error> {
    match text.parse() {
        Ok(requests) if REUSE_RANGE.contains(&requests) => Ok(requests),
        _ => Err(Error::Reuse { said: text.chars().take(REUSE_CHARS_SHOWN).collect() }),
    }
}
