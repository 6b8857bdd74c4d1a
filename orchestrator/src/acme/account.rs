use std::path::{Path, PathBuf};

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};

use super::{
    AcmeConfig,
    error::OrderError,
    web::{BusyUntil, WebClient},
};
use crate::{Error, state::files};

/// In the folder of the control plane, for its user alone.
const ACCOUNT_FILE: &str = "acme.json";

/// The account at one authority, with its key.
#[derive(Serialize, Deserialize)]
struct AccountFile {
    version: u32,
    directory: String,
    credentials: AccountCredentials,
}

/// Reads the account, or registers one when there is none at this authority yet.
pub(super) async fn open(
    config: &AcmeConfig,
    folder: &Path,
    busy_until: BusyUntil,
) -> Result<Account, OrderError> {
    let client = WebClient::new(config.roots_pem.as_deref(), busy_until);
    let client = client.map_err(|error| OrderError::Kept(error.into()))?;
    let builder = Account::builder_with_http(Box::new(client));
    let path = folder.join(ACCOUNT_FILE);
    if let Some(known) =
        read(path.clone()).await?.filter(|known| known.directory == config.directory)
    {
        return Ok(builder.from_credentials(known.credentials).await?);
    }
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let external = config.external_account.as_ref();
    let external = external.map(|one| ExternalAccountKey::new(one.id.clone(), one.key.expose()));
    let directory = config.directory.clone();
    let (account, credentials) = builder.create(&new, directory.clone(), external.as_ref()).await?;
    write(path, &AccountFile { version: 1, directory: directory.clone(), credentials }).await?;
    tracing::info!(directory, account = account.id(), "registered an account for certificates");
    Ok(account)
}

/// Forgets the account, which the authority does not know any more.
pub(super) async fn forget(folder: &Path) -> Result<(), OrderError> {
    let path = folder.join(ACCOUNT_FILE);
    on_disk(move || disk::remove(&path).map_err(|source| Error::Io { path: path.clone(), source }))
        .await
}

/// A file that cannot be read is one of another version, or damaged: a new account is as good.
async fn read(path: PathBuf) -> Result<Option<AccountFile>, OrderError> {
    let bytes = on_disk(move || files::read_private(&path)).await?;
    Ok(bytes.and_then(|bytes| spec::json::from_slice(&bytes).ok()))
}

async fn write(path: PathBuf, account: &AccountFile) -> Result<(), OrderError> {
    let text = serde_json::to_vec_pretty(account).expect("it has string keys");
    on_disk(move || files::write_private(&path, &text)).await
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, OrderError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|join| OrderError::Kept(join.into()))?;
    done.map_err(|error| OrderError::Kept(error.into()))
}
