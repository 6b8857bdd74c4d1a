use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use net::PrivateListener;
use serde::de::DeserializeOwned;
use spec::Tenant;

use super::{
    error::{ApiError, ErrorCode},
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    Error, Repository,
    access::{Passwords, SetPasswordError},
    limits::{ADMIN_BODY_BYTES_MAX, ADMIN_LIST_MAX},
    protocol::{ADMIN_SOCKET, PasswordBody, RepositoryInfo, Visibility, VisibilityBody},
    storage::Metadata,
};

/// Listens where only the owner of the data folder can connect: the folder is 0700, the socket
/// 0600. The database is locked by now, so an existing socket is that of a dead process.
pub(super) fn listen(data_dir: &Path) -> Result<PrivateListener, Error> {
    let path = data_dir.join(ADMIN_SOCKET);
    PrivateListener::bind(&path).map_err(|source| Error::File { action: "listen on", path, source })
}

/// Users and visibility, for the owner of the data folder.
pub(super) struct AdminApi {
    pub metadata: Metadata,
    pub passwords: Arc<Passwords>,
    pub idle_time_max: Duration,
}

impl AdminApi {
    /// Every request over the admin socket comes through here. A client that could open the socket
    /// is authorized.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Option<IpAddr>,
    ) -> Response {
        let (head, body) = request.into_parts();
        let (method, path) = (head.method, head.uri.path().to_owned());
        let mut body = RequestBody::new(body, self.idle_time_max);
        self.try_answer(&method, &path, &mut body).await.unwrap_or_else(|error| {
            error.log(&method, &path);
            error.into()
        })
    }

    async fn try_answer(
        &self,
        method: &Method,
        path: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        if let Some(name) = path.strip_prefix("/admin/users/") {
            let name: Tenant = name.parse().map_err(ApiError::invalid_name)?;
            return self.user(method, &name, body).await;
        }
        if let Some(name) =
            path.strip_prefix("/admin/repositories/").and_then(|p| p.strip_suffix("/visibility"))
        {
            let name: Repository = name.parse().map_err(ApiError::invalid_name)?;
            if *method != Method::PUT {
                return Err(ApiError::no_such_endpoint());
            }
            let VisibilityBody { visibility } = read(body).await?;
            self.metadata.set_public(&name, visibility == Visibility::Public).await?;
            return Ok(empty(StatusCode::NO_CONTENT, []));
        }
        match (method.as_str(), path) {
            ("GET", "/admin/users") => Ok(json(StatusCode::OK, &self.metadata.users().await?)),
            ("GET", "/admin/repositories") => {
                let page = self.metadata.repositories("", "", ADMIN_LIST_MAX).await?;
                let list = page.entries.into_iter().map(|(name, record)| RepositoryInfo {
                    name: name.to_string(),
                    visibility: match record.public {
                        true => Visibility::Public,
                        false => Visibility::Private,
                    },
                });
                Ok(json(StatusCode::OK, &list.collect::<Vec<_>>()))
            }
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    async fn user(
        &self,
        method: &Method,
        name: &Tenant,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        match *method {
            Method::PUT => {
                let PasswordBody { password } = read(body).await?;
                self.passwords.set(name, &password).await.map_err(|error| match error {
                    SetPasswordError::Length => {
                        ApiError::bad_request(ErrorCode::Unsupported, error.to_string())
                    }
                    SetPasswordError::Busy => ApiError::too_many_requests(error.to_string()),
                    SetPasswordError::Failed(error) => error.into(),
                })?;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            Method::DELETE => match self.metadata.remove_user(name).await? {
                true => Ok(empty(StatusCode::NO_CONTENT, [])),
                false => {
                    let message = format!("there is no user `{name}`");
                    Err(ApiError::not_found(ErrorCode::NameUnknown, message))
                }
            },
            _ => Err(ApiError::no_such_endpoint()),
        }
    }
}

async fn read<T: DeserializeOwned>(body: &mut RequestBody) -> Result<T, ApiError> {
    let bytes = body.all(ADMIN_BODY_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(ErrorCode::Unsupported, format!("the body is not valid: {error}"))
    })
}
