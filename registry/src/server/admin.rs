use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use net::PrivateListener;
use serde::{Deserialize, Serialize};
use spec::Tenant;

use super::{
    From,
    app::App,
    reply::{Refusal, Reply, empty, json},
    request_body::RequestBody,
};
use crate::{Error, Repository};

/// Where the socket lies in a registry's data folder.
const SOCKET: &str = "admin.sock";
/// A password, or a word.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Repositories in one answer.
const LIST_MAX: usize = 10_000;

/// Who may read a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Its owner, and whoever was given a token for it.
    Private,
    /// Everybody.
    Public,
}

/// A repository, as its administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    /// Its name.
    pub name: String,
    /// Who may read it.
    pub visibility: Visibility,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    pub password: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VisibilityBody {
    pub visibility: Visibility,
}

/// The admin socket of a registry.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Listens for the owner of the data folder. The database is locked by now, so a socket that lies
/// there is that of a dead process.
pub(super) fn listen(data_dir: &Path) -> Result<PrivateListener, Error> {
    let path = socket_path(data_dir);
    PrivateListener::bind(&path).map_err(|source| Error::File { action: "listen on", path, source })
}

impl App {
    /// Every request on the admin socket comes through here. Who could open the socket is who may.
    pub(super) async fn administer(self: Arc<Self>, request: Request<Incoming>, _: From) -> Reply {
        let (head, body) = request.into_parts();
        let mut body = RequestBody::new(body, self.limits.quiet_time_max);
        let done = self.try_administer(&head.method, head.uri.path(), &mut body).await;
        done.unwrap_or_else(Reply::from)
    }

    async fn try_administer(
        &self,
        method: &Method,
        path: &str,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let named = |error: Error| Refusal::bad("NAME_INVALID", error.to_string());
        if let Some(name) = path.strip_prefix("/admin/users/") {
            let name: Tenant = name.parse().map_err(|error: spec::ParseError| {
                Refusal::bad("NAME_INVALID", error.to_string())
            })?;
            return self.administer_user(method, &name, body).await;
        }
        if let Some(name) =
            path.strip_prefix("/admin/repositories/").and_then(|p| p.strip_suffix("/visibility"))
        {
            let name: Repository = name.parse().map_err(named)?;
            if *method != Method::PUT {
                return Err(unknown());
            }
            let VisibilityBody { visibility } = read(body).await?;
            self.metadata.set_public(&name, visibility == Visibility::Public).await?;
            return Ok(empty(StatusCode::NO_CONTENT, []));
        }
        match (method.as_str(), path) {
            ("GET", "/admin/users") => Ok(json(StatusCode::OK, &self.metadata.users().await?)),
            ("GET", "/admin/repositories") => {
                let (list, _) = self.metadata.repositories("", "", LIST_MAX).await?;
                let list = list.into_iter().map(|(name, record)| RepositoryInfo {
                    name: name.to_string(),
                    visibility: if record.public {
                        Visibility::Public
                    } else {
                        Visibility::Private
                    },
                });
                Ok(json(StatusCode::OK, &list.collect::<Vec<_>>()))
            }
            _ => Err(unknown()),
        }
    }

    async fn administer_user(
        &self,
        method: &Method,
        name: &Tenant,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        match *method {
            Method::PUT => {
                let PasswordBody { password } = read(body).await?;
                self.passwords.set(&self.metadata, name, &password).await.map_err(|error| {
                    match error {
                        Error::Name { message } => Refusal::bad("UNSUPPORTED", message),
                        Error::Admin { message } => {
                            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
                        }
                        other => other.into(),
                    }
                })?;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            Method::DELETE => match self.metadata.remove_user(name).await? {
                true => Ok(empty(StatusCode::NO_CONTENT, [])),
                false => Err(Refusal::absent("NAME_UNKNOWN", format!("there is no user `{name}`"))),
            },
            _ => Err(unknown()),
        }
    }
}

async fn read<T: for<'de> Deserialize<'de>>(body: &mut RequestBody) -> Result<T, Refusal> {
    let bytes = body.all(BODY_BYTES_MAX).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad("UNSUPPORTED", format!("the body is wrong: {error}")))
}

fn unknown() -> Refusal {
    Refusal::absent("UNSUPPORTED", "there is no such address")
}
