//! Values as the database has them.

use spec::Timestamp;

use crate::Error;

pub fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Scans { action, source }
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis as u64)
}

pub fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("it has no keys but text")
}
