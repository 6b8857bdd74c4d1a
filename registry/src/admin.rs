use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use net::{ApiClient, ApiRequest, ClientError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spec::Tenant;

use crate::{
    Error, Repository,
    server::{PasswordBody, RepositoryInfo, Visibility, VisibilityBody, socket_path},
};

/// The registry is on the same machine.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Manages users and visibility of a registry that runs on this machine, through the socket in its
/// data folder. Whoever may open that folder may do this; nobody else can.
#[derive(Clone)]
pub struct Admin {
    data_dir: PathBuf,
}

impl Admin {
    /// Of the registry whose data folder is `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into() }
    }

    /// Makes a user, or gives one a new password. They own the repositories `NAME/…`.
    ///
    /// # Errors
    /// [`Error::Admin`] when the password is too short or too long, [`Error::Down`] when no
    /// registry runs there.
    pub async fn put_user(&self, name: &Tenant, password: &str) -> Result<(), Error> {
        let body = PasswordBody { password: password.to_owned() };
        self.call(Method::PUT, &format!("/admin/users/{name}"), Some(&body)).await.map(drop)
    }

    /// Takes a user away. Their repositories stay; tokens they hold run out within minutes.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is none of that name.
    pub async fn remove_user(&self, name: &Tenant) -> Result<(), Error> {
        self.call(Method::DELETE, &format!("/admin/users/{name}"), None::<&()>).await.map(drop)
    }

    /// All users.
    ///
    /// # Errors
    /// [`Error::Down`] when no registry runs there.
    pub async fn users(&self) -> Result<Vec<Tenant>, Error> {
        self.get("/admin/users").await
    }

    /// The first ten thousand repositories, by name.
    ///
    /// # Errors
    /// [`Error::Down`] when no registry runs there.
    pub async fn repositories(&self) -> Result<Vec<RepositoryInfo>, Error> {
        self.get("/admin/repositories").await
    }

    /// Says who may read a repository, whether or not anything is in it yet.
    ///
    /// # Errors
    /// [`Error::Down`] when no registry runs there.
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
        serde_json::from_slice(&bytes).map_err(|_| self.odd("its answer is no list"))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, Error> {
        let mut request = ApiRequest::new(method, path, ANSWER_TIME_MAX);
        if let Some(body) = body {
            request = request.json(body);
        }
        let registry = self.name();
        let answer = ApiClient::unix(socket_path(&self.data_dir)).exchange(request).await;
        let (status, bytes) = answer.map_err(|error| match error {
            ClientError::Connect { source, .. } => Error::Down { registry, source },
            _ => {
                let what = "its admin socket".to_owned();
                Error::Slow { registry, what, after: ANSWER_TIME_MAX }
            }
        })?;
        if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }

    fn name(&self) -> String {
        self.data_dir.display().to_string()
    }

    fn odd(&self, message: &str) -> Error {
        Error::NotARegistry { registry: self.name(), message: message.to_owned() }
    }

    /// Which registry.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}

fn refusal(status: StatusCode, bytes: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Complaint {
        errors: Vec<Line>,
    }
    #[derive(Deserialize)]
    struct Line {
        message: String,
    }
    let said = serde_json::from_slice::<Complaint>(bytes)
        .ok()
        .and_then(|complaint| complaint.errors.into_iter().next());
    Error::Admin { message: said.map_or_else(|| status.to_string(), |line| line.message) }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("data_dir", &self.data_dir).finish()
    }
}
