use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Method;
use net::{ApiClient, ApiRequest, ClientError};
use serde::{Serialize, de::DeserializeOwned};
use spec::Tenant;

use crate::{
    Error, ProtocolFault, Repository,
    limits::ADMIN_ANSWER_TIME_MAX,
    protocol::{ADMIN_SOCKET, ErrorBody, PasswordBody, RepositoryInfo, Visibility, VisibilityBody},
};

/// Manages users and visibility of a registry that runs on this machine, through the socket in its
/// data folder. Only the owner of that folder can open it.
#[derive(Debug, Clone)]
pub struct Admin {
    data_dir: PathBuf,
}

impl Admin {
    /// For the registry whose data folder is `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into() }
    }

    /// Adds a user, the owner of the repositories `NAME/…`, or replaces the password of one.
    ///
    /// # Errors
    /// [`Error::Admin`] when the password is too short or too long, [`Error::Unreachable`] when no
    /// registry runs there.
    pub async fn put_user(&self, name: &Tenant, password: &str) -> Result<(), Error> {
        let body = PasswordBody { password: password.to_owned() };
        self.call(Method::PUT, &format!("/admin/users/{name}"), Some(&body)).await.map(drop)
    }

    /// Removes a user. The repositories stay; tokens of the user expire within minutes.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such user.
    pub async fn remove_user(&self, name: &Tenant) -> Result<(), Error> {
        self.call(Method::DELETE, &format!("/admin/users/{name}"), None::<&()>).await.map(drop)
    }

    /// All users.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn users(&self) -> Result<Vec<Tenant>, Error> {
        self.get("/admin/users").await
    }

    /// The first ten thousand repositories, by name.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn repositories(&self) -> Result<Vec<RepositoryInfo>, Error> {
        self.get("/admin/repositories").await
    }

    /// Sets the visibility of a repository, which need not exist yet.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn set_visibility(
        &self,
        repository: &Repository,
        visibility: Visibility,
    ) -> Result<(), Error> {
        let path = format!("/admin/repositories/{repository}/visibility");
        self.call(Method::PUT, &path, Some(&VisibilityBody { visibility })).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let bytes = self.call(Method::GET, path, None::<&()>).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Protocol {
            registry: self.name(),
            source: ProtocolFault::Json { what: "list", source },
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, Error> {
        let mut request = ApiRequest::new(method, path, ADMIN_ANSWER_TIME_MAX);
        if let Some(body) = body {
            request = request.json(body);
        }
        let registry = self.name();
        let socket = self.data_dir.join(ADMIN_SOCKET);
        let answer = ApiClient::unix(socket).exchange(request).await;
        let (status, bytes) = answer.map_err(|error| match error {
            ClientError::Connect { source, .. } => Error::Unreachable { registry, source },
            _ => {
                let subject = "its admin socket".to_owned();
                Error::TimedOut { registry, subject, after: ADMIN_ANSWER_TIME_MAX }
            }
        })?;
        match status.is_success() {
            true => Ok(bytes),
            false => {
                let message = ErrorBody::first_message(&bytes);
                Err(Error::Admin { message: message.unwrap_or_else(|| status.to_string()) })
            }
        }
    }

    fn name(&self) -> String {
        self.data_dir.display().to_string()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}
