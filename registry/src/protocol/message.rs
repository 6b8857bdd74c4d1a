use serde::{Deserialize, Serialize};

/// The body of an error response.
///
/// # Spec
/// OCI distribution-spec 1.1, "Error Codes".
#[derive(Deserialize)]
pub(crate) struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl ErrorBody {
    /// The message of the first error, or its code when it has no message.
    pub fn first_message(body: &[u8]) -> Option<String> {
        let first = serde_json::from_slice::<Self>(body).ok()?.errors.into_iter().next()?;
        Some(if first.message.is_empty() { first.code } else { first.message })
    }
}

/// One page of the tags of a repository.
///
/// # Spec
/// OCI distribution-spec 1.1, "Listing Tags".
#[derive(Serialize, Deserialize)]
pub(crate) struct TagList {
    #[serde(default)]
    pub name: String,
    /// Some registries write `null` for none.
    pub tags: Option<Vec<String>>,
}

/// The name of the admin socket in the data folder of a registry.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// The visibility of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Its owner, and holders of a token for it.
    Private,
    /// Every client, with or without credentials.
    Public,
}

/// A repository in the list for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    pub name: String,
    pub visibility: Visibility,
}

/// The body of `PUT /admin/users/NAME`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    pub password: String,
}

/// The body of `PUT /admin/repositories/NAME/visibility`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VisibilityBody {
    pub visibility: Visibility,
}
