use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::ParseError;

/// What clients get in the place of the ingress' own errors, for one service: HTML, or text.
/// `{request_id}` in it stands for the id of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ErrorPages {
    /// A replica went away before it answered.
    #[serde(rename = "502", skip_serializing_if = "Option::is_none")]
    pub bad_gateway: Option<String>,
    /// No replica is ready, or none can be reached.
    #[serde(rename = "503", skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// A replica did not answer in time.
    #[serde(rename = "504", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

impl ErrorPages {
    /// The statuses that may have a page.
    pub const STATUSES: [u16; 3] = [502, 503, 504];
    /// Of one page, which is a part of every route table: a page with its style, not its pictures.
    pub const PAGE_BYTES_MAX: usize = 4096;

    /// Whether every error is as the ingress says it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The page for a status, if it has one.
    pub fn get(&self, status: u16) -> Option<&str> {
        match status {
            502 => self.bad_gateway.as_deref(),
            503 => self.unavailable.as_deref(),
            504 => self.timeout.as_deref(),
            _ => None,
        }
    }

    /// Returns whether this status may have one.
    pub fn set(&mut self, status: u16, page: Option<String>) -> bool {
        match status {
            502 => self.bad_gateway = page,
            503 => self.unavailable = page,
            504 => self.timeout = page,
            _ => return false,
        }
        true
    }

    /// Checks what the types of its parts do not.
    ///
    /// # Errors
    /// Names the page, and how long it may be.
    pub fn check(&self) -> Result<(), ParseError> {
        for status in Self::STATUSES {
            let length = self.get(status).map_or(1, str::len);
            if !(1..=Self::PAGE_BYTES_MAX).contains(&length) {
                let most = Self::PAGE_BYTES_MAX;
                let problem =
                    format!("the page for `{status}` has {length} bytes: 1 to {most} fit");
                return Err(ParseError(problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_of_three_statuses_and_short() {
        let long = "x".repeat(ErrorPages::PAGE_BYTES_MAX + 1);
        for (text, want) in [
            ("{}", Ok(true)),
            (r#"{ "503": "back soon" }"#, Ok(true)),
            (r#"{ "500": "back soon" }"#, Err(())),
            (r#"{ "502": "" }"#, Ok(false)),
            (&format!(r#"{{ "504": "{long}" }}"#), Ok(false)),
        ] {
            let pages = serde_json::from_str::<ErrorPages>(text).map_err(|_| ());
            assert_eq!(pages.map(|pages| pages.check().is_ok()), want, "{text}");
        }
        let mut pages = ErrorPages::default();
        for status in ErrorPages::STATUSES {
            assert!(pages.set(status, Some(status.to_string())));
            assert_eq!(pages.get(status), Some(&*status.to_string()));
        }
        assert!(!pages.set(404, None) && pages.get(404).is_none() && !pages.is_empty());
        let text = serde_json::to_string(&pages).unwrap();
        assert_eq!(text, r#"{"502":"502","503":"503","504":"504"}"#);
    }
}
