use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use net::{ApiClient, ApiRequest, ClientError};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use spec::{CredentialName, Digest, Tenant};
use tokio::time::timeout;

use crate::{
    Client, ClientOptions, Error, ProtocolFault, QuotaChange, Repository, RobotScope,
    account::NewRobot,
    limits::{ADMIN_ANSWER_TIME_MAX, ADMIN_PAGES_MAX, ADMIN_PASS_TIME_MAX},
    protocol::{
        ADMIN, ADMIN_SOCKET, Collected, ErrorBody, Existing, Immutable, ImmutableInfo,
        ManifestInfo, Page, PasswordBody, QuotaInfo, RateLimits, Repositories, RepositoryInfo,
        Retained, RetentionChange, RetentionInfo, RobotCredential, RobotInfo, Scrubbed,
        SnapshotInfo, Switch, TagInfo, UploadInfo, Visibility, VisibilityBody, encode_query,
    },
};

mod images; // what is in images
pub use scans::VulnerabilityImport;

mod scans; // which software is in images
mod signatures; // which keys must have signed what
mod webhooks; // which changes are told to which URLs
mod replications; // repositories that are pushed to other registries
mod upstreams; // registries whose images are fetched when they are pulled
mod policies; // organisations, teams and policies

/// Manages users, repositories and what they have, in a registry.
#[derive(Debug, Clone)]
pub struct Admin(Endpoint);

#[derive(Debug, Clone)]
enum Endpoint {
    /// The socket in the data folder of one that runs on this machine, which only the owner of that
    /// folder can open.
    Socket { data_dir: PathBuf },
    /// One that may run elsewhere, with the password of an operator, or of a user for what is
    /// theirs.
    Network { client: Client, registry: String },
}

/// One request.
struct Request<'a> {
    method: Method,
    path: &'a str,
    body: Option<Value>,
    time_max: Duration,
}

impl Admin {
    /// For the registry whose data folder is `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self(Endpoint::Socket { data_dir: data_dir.into() })
    }

    /// For the registry at `registry`, over HTTPS or as `options` say, with the password that they
    /// have for it.
    pub fn remote(options: ClientOptions, registry: &str) -> Self {
        // A pass over everything is quiet for long; each request has a limit of its own.
        let options = ClientOptions { idle_time_max: ADMIN_PASS_TIME_MAX, ..options };
        Self(Endpoint::Network { client: Client::new(options), registry: registry.to_owned() })
    }

    /// Adds a user, the owner of the repositories `NAME/…`, or replaces the password of one. Tokens
    /// for the password before are refused from then on.
    ///
    /// # Errors
    /// [`Error::Admin`] when the password is too short or too long, when the user is there and
    /// should not be, or the other way, and when repositories of an earlier user of this name are
    /// left; [`Error::Unreachable`] when no registry runs there.
    pub async fn put_user(
        &self,
        name: &Tenant,
        password: &str,
        user: Existing,
    ) -> Result<(), Error> {
        let body = PasswordBody { password: password.to_owned(), bcrypt: None, user };
        self.call(Method::PUT, &format!("/admin/users/{name}"), Some(&body)).await.map(drop)
    }

    /// Adds a user of an htpasswd file, by the hash of the password. With the first login the hash
    /// becomes one of this registry.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is such a user, and when the hash is not one of bcrypt.
    pub async fn import_user(&self, name: &Tenant, bcrypt: &str) -> Result<(), Error> {
        let bcrypt = Some(bcrypt.to_owned());
        let body = PasswordBody { password: String::new(), bcrypt, user: Existing::New };
        self.call(Method::PUT, &format!("/admin/users/{name}"), Some(&body)).await.map(drop)
    }

    /// Removes a user with their robot accounts and open uploads. Their tokens are refused from
    /// then on, and what they are reading or writing breaks off.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such user, when it has repositories and nothing is to
    /// become of them, and when the user that gets them has one of the same name.
    pub async fn remove_user(&self, name: &Tenant, then: &Repositories) -> Result<(), Error> {
        let path = format!("/admin/users/{name}{}", then.query());
        self.call(Method::DELETE, &path, None::<&()>).await.map(drop)
    }

    /// Adds a robot account `USER+ROBOT`, and returns its secret.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such user, or such a robot account already.
    pub async fn create_robot(
        &self,
        user: &Tenant,
        robot: &CredentialName,
        scope: RobotScope,
        repositories: &[Repository],
        lifetime: Duration,
    ) -> Result<RobotCredential, Error> {
        let body = NewRobot {
            scope,
            repositories: repositories.iter().map(ToString::to_string).collect(),
            lifetime_seconds: Some(lifetime.as_secs()),
        };
        let path = format!("/admin/robots/{user}+{robot}");
        self.read(self.call(Method::PUT, &path, Some(&body)).await?)
    }

    /// Gives a robot account another secret.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such robot account.
    pub async fn rotate_robot(
        &self,
        user: &Tenant,
        robot: &CredentialName,
    ) -> Result<RobotCredential, Error> {
        let path = format!("/admin/robots/{user}+{robot}");
        self.read(self.call(Method::POST, &path, None::<&()>).await?)
    }

    /// Removes a robot account.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such robot account.
    pub async fn remove_robot(&self, user: &Tenant, robot: &CredentialName) -> Result<(), Error> {
        let path = format!("/admin/robots/{user}+{robot}");
        self.call(Method::DELETE, &path, None::<&()>).await.map(drop)
    }

    /// All robot accounts.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn robots(&self) -> Result<Vec<RobotInfo>, Error> {
        self.get("/admin/robots").await
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

    /// All tags of a repository.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such repository.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<TagInfo>, Error> {
        self.pages(&format!("/admin/tags/{repository}")).await
    }

    /// Removes a tag; its manifest stays.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such tag.
    pub async fn remove_tag(&self, repository: &Repository, tag: &str) -> Result<(), Error> {
        self.delete(&format!("/admin/tags/{repository}:{tag}")).await
    }

    /// All manifests of a repository.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such repository.
    pub async fn manifests(&self, repository: &Repository) -> Result<Vec<ManifestInfo>, Error> {
        self.pages(&format!("/admin/manifests/{repository}")).await
    }

    /// Removes a manifest with every tag that points to it.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such manifest.
    pub async fn remove_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), Error> {
        self.delete(&format!("/admin/manifests/{repository}@{digest}")).await
    }

    /// Removes a repository with all that it has.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such repository.
    pub async fn remove_repository(&self, repository: &Repository) -> Result<(), Error> {
        self.delete(&format!("/admin/repositories/{repository}")).await
    }

    /// Removes the blobs that no manifest has named, and no request has asked for, for `grace` (an
    /// hour if none is given); or says what would go.
    ///
    /// # Errors
    /// [`Error::Admin`] when the registry shuts down.
    pub async fn collect(
        &self,
        grace: Option<Duration>,
        dry_run: bool,
    ) -> Result<Collected, Error> {
        let grace = grace.map(|grace| format!("&grace_seconds={}", grace.as_secs()));
        let path = format!("/admin/collect?dry_run={dry_run}{}", grace.unwrap_or_default());
        let request = Request::new(Method::POST, &path, ADMIN_PASS_TIME_MAX);
        self.read(self.send(request).await?)
    }

    /// Every name that has retention rules.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn retentions(&self) -> Result<Vec<RetentionInfo>, Error> {
        self.get("/admin/retention").await
    }

    /// Changes what an account, a repository or, as `*`, every other one retains.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such account, or too many rules.
    pub async fn change_retention(
        &self,
        name: &str,
        change: &RetentionChange,
    ) -> Result<RetentionInfo, Error> {
        let path = format!("/admin/retention/{name}");
        self.read(self.call(Method::PUT, &path, Some(change)).await?)
    }

    /// Removes the rule of a pattern, the time of untagged manifests, or, with neither, all rules
    /// of a name.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such rule.
    pub async fn remove_retention(
        &self,
        name: &str,
        tags: Option<&str>,
        untagged: bool,
    ) -> Result<(), Error> {
        let tags = tags.map(|tags| format!("&tags={}", encode_query(tags))).unwrap_or_default();
        self.delete(&format!("/admin/retention/{name}?untagged={untagged}{tags}")).await
    }

    /// Deletes what the rules of all names, of an account or of a repository do not keep, and no
    /// request has used for `grace` (an hour if none is given); or says what would go.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such name, and when the registry shuts down.
    pub async fn retain(
        &self,
        name: Option<&str>,
        grace: Option<Duration>,
        dry_run: bool,
    ) -> Result<Retained, Error> {
        let name = name.map(|name| format!("/{name}")).unwrap_or_default();
        let grace = grace.map(|grace| format!("&grace_seconds={}", grace.as_secs()));
        let grace = grace.unwrap_or_default();
        let path = format!("/admin/retention{name}?dry_run={dry_run}{grace}");
        let request = Request::new(Method::POST, &path, ADMIN_PASS_TIME_MAX);
        self.read(self.send(request).await?)
    }

    /// Every account that has repositories, and everything that has a quota.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn quotas(&self) -> Result<Vec<QuotaInfo>, Error> {
        self.get("/admin/quotas").await
    }

    /// Changes the quota of an account or, as `ACCOUNT/…`, of a repository.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such account, or the limit is not one of a repository.
    pub async fn change_quota(&self, name: &str, change: &QuotaChange) -> Result<QuotaInfo, Error> {
        let path = format!("/admin/quotas/{name}");
        self.read(self.call(Method::PUT, &path, Some(change)).await?)
    }

    /// The uploads that are not finished, those that are idle for the longest time first.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn uploads(&self) -> Result<Vec<UploadInfo>, Error> {
        self.get("/admin/uploads").await
    }

    /// Cancels an upload.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such upload.
    pub async fn cancel_upload(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("/admin/uploads/{id}")).await
    }

    /// Reads every blob and manifest again, so many bytes in a second, and says which are damaged.
    ///
    /// # Errors
    /// [`Error::Admin`] when the registry shuts down.
    pub async fn scrub(&self, bytes_per_second: Option<u64>) -> Result<Scrubbed, Error> {
        let rate = bytes_per_second.map(|rate| format!("?bytes_per_second={rate}"));
        let path = format!("/admin/scrub{}", rate.unwrap_or_default());
        let request = Request::new(Method::POST, &path, ADMIN_PASS_TIME_MAX);
        self.read(self.send(request).await?)
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn is_on(&self, switch: Switch) -> Result<bool, Error> {
        self.get(&format!("/admin/rules/{}", switch.name())).await
    }

    /// Switches something on or off for all clients.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn set_switch(&self, switch: Switch, on: bool) -> Result<(), Error> {
        let method = if on { Method::PUT } else { Method::DELETE };
        let path = format!("/admin/rules/{}", switch.name());
        self.call(method, &path, None::<&()>).await.map(drop)
    }

    /// The repositories whose tags are immutable.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn immutable(&self) -> Result<Vec<ImmutableInfo>, Error> {
        self.get("/admin/rules/immutable").await
    }

    /// Makes the tags of a repository immutable, or lets them be moved again.
    ///
    /// # Errors
    /// [`Error::Admin`] when the rule has too many exceptions.
    pub async fn set_immutable(
        &self,
        repository: &Repository,
        rule: Option<Immutable>,
    ) -> Result<(), Error> {
        let path = format!("/admin/rules/immutable/{repository}");
        match rule {
            Some(rule) => self.call(Method::PUT, &path, Some(&rule)).await.map(drop),
            None => self.delete(&path).await,
        }
    }

    /// Makes a snapshot of everything below the data folder.
    pub(crate) async fn take_snapshot(&self) -> Result<SnapshotInfo, Error> {
        let request = Request::new(Method::POST, "/admin/snapshots", ADMIN_PASS_TIME_MAX);
        self.read(self.send(request).await?)
    }

    pub(crate) async fn remove_snapshot(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("/admin/snapshots/{id}")).await
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        self.call(Method::DELETE, path, None::<&()>).await.map(drop)
    }

    /// Every page of a list, up to a limit.
    async fn pages<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let (mut all, mut last) = (Vec::new(), String::new());
        for _ in 0..ADMIN_PAGES_MAX {
            let page: Page<T> = self.get(&format!("{path}?last={}", encode_query(&last))).await?;
            all.extend(page.entries);
            match page.next {
                Some(next) => last = next,
                None => break,
            }
        }
        Ok(all)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(self.call(Method::GET, path, None::<&()>).await?)
    }

    fn read<T: DeserializeOwned>(&self, bytes: Bytes) -> Result<T, Error> {
        serde_json::from_slice(&bytes).map_err(|source| Error::Protocol {
            registry: self.name(),
            source: ProtocolFault::Json { what: "answer", source },
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, Error> {
        let mut request = Request::new(method, path, ADMIN_ANSWER_TIME_MAX);
        request.body = body
            .map(|body| serde_json::to_value(body).expect("bodies of the API have string keys"));
        self.send(request).await
    }

    /// A request whose answer may take as long as reading an image.
    async fn pass(&self, method: Method, path: &str, body: Option<Value>) -> Result<Bytes, Error> {
        self.send(Request { body, ..Request::new(method, path, ADMIN_PASS_TIME_MAX) }).await
    }

    async fn send(&self, request: Request<'_>) -> Result<Bytes, Error> {
        let (registry, after) = (self.name(), request.time_max);
        let (status, bytes) = match &self.0 {
            Endpoint::Socket { data_dir } => {
                let Request { method, path, body, time_max } = request;
                let request = ApiRequest::new(method, path, time_max);
                let request = match &body {
                    Some(body) => request.json(body),
                    None => request,
                };
                let answer = ApiClient::unix(data_dir.join(ADMIN_SOCKET)).exchange(request).await;
                answer.map_err(|error| match error {
                    ClientError::Connect { source, .. } => Error::Unreachable { registry, source },
                    _ => {
                        let subject = "its admin socket".to_owned();
                        Error::TimedOut { registry, subject, after }
                    }
                })?
            }
            Endpoint::Network { client, registry } => {
                let Request { method, path, body, time_max } = request;
                let path = path.replacen("/admin/", ADMIN, 1);
                let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
                let answer = client.administer(registry, method, path, body);
                timeout(time_max, answer).await.map_err(|_| Error::TimedOut {
                    registry: registry.clone(),
                    subject: "its administration".to_owned(),
                    after,
                })??
            }
        };
        match status.is_success() {
            true => Ok(bytes),
            false => {
                let message = ErrorBody::first_message(&bytes);
                Err(Error::Admin { message: message.unwrap_or_else(|| status.to_string()) })
            }
        }
    }

    fn name(&self) -> String {
        match &self.0 {
            Endpoint::Socket { data_dir } => data_dir.display().to_string(),
            Endpoint::Network { registry, .. } => registry.clone(),
        }
    }

    /// The data folder of a registry on this machine.
    pub(crate) fn data_dir(&self) -> Option<&Path> {
        match &self.0 {
            Endpoint::Socket { data_dir } => Some(data_dir),
            Endpoint::Network { .. } => None,
        }
    }

    /// Users that administer the registry over the network.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn operators(&self) -> Result<Vec<Tenant>, Error> {
        self.get("/admin/operators").await
    }

    /// Lets a user administer the registry over the network, or no more.
    ///
    /// # Errors
    /// [`Error::Admin`] when there is no such user or operator.
    pub async fn set_operator(&self, user: &Tenant, is: bool) -> Result<(), Error> {
        let method = if is { Method::PUT } else { Method::DELETE };
        self.call(method, &format!("/admin/operators/{user}"), None::<&()>).await.map(drop)
    }

    /// The metrics of the registry, in the text format of Prometheus.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn metrics(&self) -> Result<String, Error> {
        let text = self.call(Method::GET, "/admin/metrics", None::<&()>).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// How many requests clients may send.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn rates(&self) -> Result<RateLimits, Error> {
        self.get("/admin/rules/rate-limits").await
    }

    /// Limits the requests of clients.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no registry runs there.
    pub async fn set_rates(&self, rates: &RateLimits) -> Result<RateLimits, Error> {
        self.read(self.call(Method::PUT, "/admin/rules/rate-limits", Some(rates)).await?)
    }
}

impl<'a> Request<'a> {
    fn new(method: Method, path: &'a str, time_max: Duration) -> Self {
        Self { method, path, body: None, time_max }
    }
}
