use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spec::Tenant;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    Error, Repository,
    server::{PasswordBody, RepositoryInfo, Visibility, VisibilityBody, socket_path},
};

/// The other end is in the same room.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Ten thousand repositories.
const ANSWER_BYTES_MAX: usize = 8 << 20;

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
        match timeout(ANSWER_TIME_MAX, self.try_call(method, path, body)).await {
            Ok(done) => done,
            Err(_) => Err(Error::Slow {
                registry: self.name(),
                what: "its admin socket".to_owned(),
                after: ANSWER_TIME_MAX,
            }),
        }
    }

    async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, Error> {
        let stream = self.connect().await?;
        let cut = |error: hyper::Error| Error::Cut {
            registry: self.name(),
            what: "its admin socket".to_owned(),
            source: error.into(),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        let body = body
            .map(|body| serde_json::to_vec(body).expect("our requests are text"))
            .unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("host", "registry");
        let request = request.body(Full::new(Bytes::from(body))).expect("a checked name is a path");
        let answering = async {
            let response = sender.send_request(request).await.map_err(cut)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| self.odd(&error.to_string()))?.to_bytes();
            if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
        };
        tokio::pin!(answering);
        // The connection has to be driven while we wait; it ends with the answer or before.
        tokio::select! {
            done = &mut answering => done,
            ended = connection => {
                ended.map_err(cut)?;
                answering.await
            }
        }
    }

    async fn connect(&self) -> Result<UnixStream, Error> {
        let path = socket_path(&self.data_dir);
        let short = disk::SocketPath::of(&path).map_err(|source| Error::File {
            action: "open the folder of",
            path,
            source,
        })?;
        UnixStream::connect(short)
            .await
            .map_err(|source| Error::Down { registry: self.name(), source })
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
