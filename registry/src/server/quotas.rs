//! Quotas and open uploads, for the owner of the data folder.

use http::{Method, StatusCode};
use spec::Tenant;

use super::{
    error::{ApiError, ErrorCode},
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    Error, QuotaChange, QuotaResource, Repository, blocking,
    limits::{ADMIN_BODY_BYTES_MAX, WEBHOOKS_MAX, WEBHOOKS_OF_ACCOUNT_MAX},
    protocol::{QuotaInfo, UploadInfo, WebhookName},
    storage::{Metadata, Storage},
};

/// `/admin/quotas` and `/admin/quotas/NAME`. `name` is empty for all of them.
pub(super) async fn answer(
    storage: &Storage,
    method: &Method,
    name: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    match (method, name) {
        (&Method::GET, "") => {
            let mut all = Vec::new();
            for name in storage.metadata.names_with_usage().await? {
                all.push(info(storage, &name).await?);
            }
            Ok(json(StatusCode::OK, &all))
        }
        (&Method::PUT, name) => {
            let change: QuotaChange = body.json(ADMIN_BODY_BYTES_MAX).await?;
            check_name(storage, name, &change).await?;
            storage.metadata.change_quota(name, &change).await?;
            Ok(json(StatusCode::OK, &info(storage, name).await?))
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// A repository need not exist yet, but its account does.
async fn check_name(storage: &Storage, name: &str, change: &QuotaChange) -> Result<(), ApiError> {
    let account = match name.split_once('/') {
        Some((account, _)) => {
            name.parse::<Repository>().map_err(ApiError::invalid_name)?;
            if change.concerns(QuotaResource::Repositories) {
                let message = format!("`{name}` is a repository: only an account has repositories");
                return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
            }
            account
        }
        None => name,
    };
    check_account(&storage.metadata, account).await
}

/// There is a user or an organisation of this name.
pub(super) async fn check_account(metadata: &Metadata, account: &str) -> Result<(), ApiError> {
    let name: Tenant = account.parse().map_err(ApiError::invalid_name)?;
    match metadata.has_account(&name).await? {
        true => Ok(()),
        false => {
            let message = format!("there is no user `{account}`, and no organisation");
            Err(ApiError::not_found(ErrorCode::NameUnknown, message))
        }
    }
}

async fn info(storage: &Storage, name: &str) -> Result<QuotaInfo, Error> {
    let used = storage.metadata.used_by(name).await?;
    let uploads = storage.uploads.count_of(name) as u64;
    let used = QuotaResource::ALL.map(|resource| (resource, used.of(resource).unwrap_or(uploads)));
    let limits = storage.metadata.quota(name);
    Ok(QuotaInfo { name: name.to_owned(), used: used.into_iter().collect(), limits })
}

/// `/admin/uploads` and `/admin/uploads/ID`. `id` is empty for all of them.
pub(super) async fn uploads(
    storage: &Storage,
    method: &Method,
    id: &str,
) -> Result<Response, ApiError> {
    match (method, id) {
        (&Method::GET, "") => {
            let open = storage.uploads.list().into_iter().map(|upload| UploadInfo {
                id: upload.id,
                repository: upload.repository.to_string(),
                owner: upload.owner,
                bytes: upload.bytes,
                idle_seconds: upload.idle.as_secs(),
            });
            Ok(json(StatusCode::OK, &open.collect::<Vec<_>>()))
        }
        (&Method::DELETE, id) => {
            let (uploads, owned) = (storage.uploads.clone(), id.to_owned());
            match blocking(move || uploads.discard_id(&owned)).await {
                true => Ok(empty(StatusCode::NO_CONTENT, [])),
                false => {
                    let message =
                        format!("there is no open upload `{id}`: margay registry upload ls");
                    Err(ApiError::not_found(ErrorCode::BlobUploadUnknown, message))
                }
            }
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// Whether an account, and the registry, may have one more webhook or replication of that name.
pub(super) fn check_room(metadata: &Metadata, name: &WebhookName) -> Result<(), ApiError> {
    let all = metadata.webhooks.all();
    let others: Vec<_> = all.iter().filter(|hook| hook.name != *name).collect();
    let of_account = others.iter().filter(|hook| hook.name.account == name.account).count();
    match () {
        () if of_account >= WEBHOOKS_OF_ACCOUNT_MAX => Err(ApiError::conflict(format!(
            "`{}` has {WEBHOOKS_OF_ACCOUNT_MAX} webhooks and replications already",
            name.account
        ))),
        () if others.len() >= WEBHOOKS_MAX => Err(ApiError::conflict(format!(
            "the registry has {WEBHOOKS_MAX} webhooks and replications already"
        ))),
        () => Ok(()),
    }
}
