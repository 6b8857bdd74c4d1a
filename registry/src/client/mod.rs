//! The client of the distribution API.

mod options; // credentials, TLS, timeouts, and which registries may be called
mod origin; // scheme, host, port
mod transport; // connections and timeouts
mod credentials; // tokens, until they expire
mod session; // requests to one registry, and what their responses mean
mod challenge; // what a 401 demands
mod login; // how it is answered, and which host may see a password
mod repository; // manifests and tags of one repository
mod graph; // the manifests and blobs of one reference
mod retry; // how often, and how soon
mod transfer; // where blobs come from and go to
mod outward; // requests of a server to URLs that its clients name
mod pull;
mod push;
mod download; // files at URLs
mod signatures; // of images, where they are

use std::{fmt, sync::Arc};

use blobs::BlobStore;
use bytes::Bytes;
use http::{Method, StatusCode};
use spec::{Descriptor, Digest, NodeId, Reference};

pub use {
    graph::Resolved,
    options::{Auth, ClientOptions, Reach},
    pull::{Entries, PullOptions},
    push::PushOptions,
    signatures::Verification,
    transfer::{BlobSink, Event, Outcome, Progress, no_progress},
};
pub(crate) use {origin::Origin, outward::Outward};

use crate::{Error, ProtocolFault, limits::ADMIN_ANSWER_BYTES_MAX, protocol::MACHINES};
use {
    credentials::Credentials,
    origin::{is_loopback, repository_of},
    repository::RemoteRepository,
    session::{Call, Context, Session, Target},
    transport::Transport,
};

/// Moves images to and from registries.
///
/// Every blob is checked against its digest before it is visible. Credentials go to the origin that
/// they belong to and nowhere else. A registry on this machine is called in plain HTTP, any other
/// over TLS unless the options name it.
#[derive(Clone)]
pub struct Client(Arc<Context>);

impl Client {
    /// A client that opens connections when it needs them.
    pub fn new(options: ClientOptions) -> Self {
        let transport = Transport::new(&options);
        Self(Arc::new(Context { options, transport, credentials: Credentials::default() }))
    }

    /// Whether `registry` (`HOST:PORT`) answers and accepts the credentials: what `login` does.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], [`Error::Unreachable`], and others.
    pub async fn check(&self, registry: &str) -> Result<(), Error> {
        let session = self.session(registry, Vec::new())?;
        let call = Call::get(Target::Path("/v2/".to_owned()), "the API");
        match session.call_for(call, &[StatusCode::OK]).await {
            Err(Error::NotFound { .. }) => Err(session.fault(ProtocolFault::NoApi)),
            other => other.map(drop),
        }
    }

    /// The manifest or index that the tag of `reference` points to now, or that its digest pins.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LoginNeeded`], [`Error::WrongDigest`] if the bytes are not
    /// those that were pinned, and others.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        self.repository(reference, "pull")?.manifest(&reference.target()).await
    }

    /// All tags of the repository of `reference`, in the registry's order.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LoginNeeded`] and others.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        self.repository(reference, "pull")?.tags().await
    }

    /// Fetches the image behind `reference` into `sink`: first its blobs, then its manifests from
    /// the leaves up, so that no manifest is ever there without what it names. Returns the
    /// descriptor of the manifest or index that the reference points to.
    ///
    /// A transfer that breaks continues where it broke, as often as [`ClientOptions`] allows.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongDigest`], [`Error::Disconnected`], [`Error::TimedOut`],
    /// [`Error::Sink`] and others. Nothing that does not match its digest reaches
    /// [`BlobWriter::commit`].
    pub async fn pull(
        &self,
        reference: &Reference,
        sink: Arc<dyn BlobSink>,
        options: &PullOptions,
    ) -> Result<Descriptor, Error> {
        let repository = self.repository(reference, "pull")?;
        pull::pull(&repository, &reference.target(), &sink, options).await
    }

    /// The digest of what the tag of `reference` points to, when the registry states it.
    pub(crate) async fn digest(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        self.repository(reference, "pull")?.digest(&reference.target()).await
    }

    /// Deletes what `reference` names, if it is there.
    pub(crate) async fn delete(&self, reference: &Reference) -> Result<(), Error> {
        self.repository(reference, "pull,push,delete")?.delete(&reference.target()).await
    }

    /// Fetches one blob of the repository of `reference` into `sink`.
    pub(crate) async fn pull_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        sink: Arc<dyn BlobSink>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let repository = self.repository(reference, "pull")?;
        pull::pull_blob(&repository, blob, &sink, progress).await
    }

    /// Brings the manifest or index `root` and all that it names from `source` to `reference`. Only
    /// blobs that the registry lacks travel; blobs first, then manifests from the leaves up, the
    /// tag last.
    ///
    /// Entries of an index that `source` does not have are left out, so an image that was pulled
    /// for one platform keeps its digest when it is pushed again.
    ///
    /// # Errors
    /// [`Error::LoginNeeded`], [`Error::Denied`], [`Error::Source`], [`Error::Disconnected`],
    /// [`Error::TimedOut`] and others.
    pub async fn push(
        &self,
        reference: &Reference,
        root: &Descriptor,
        source: Arc<dyn BlobStore>,
        options: &PushOptions,
    ) -> Result<(), Error> {
        let repository = self.repository(reference, "pull,push")?;
        push::push(&repository, reference.tag(), root, &source, options).await
    }

    /// Refuses every token that was minted for a machine until now, and breaks off what it reads.
    /// Takes a token of [`Tokens::mint_for_revocation`](crate::Tokens::mint_for_revocation).
    ///
    /// # Errors
    /// [`Error::LoginNeeded`] and [`Error::Denied`] without such a token, and others.
    pub async fn revoke_machine(&self, registry: &str, name: &NodeId) -> Result<(), Error> {
        let session = self.session(registry, Vec::new())?;
        let target = Target::Path(format!("{MACHINES}{name}"));
        let call = Call::new(Method::DELETE, target, "the tokens of a node");
        session.call_for(call, &[StatusCode::NO_CONTENT]).await.map(drop)
    }

    /// A request to the administrator's API of a registry, with the password for it: the status and
    /// the body of the answer.
    pub(crate) async fn administer(
        &self,
        registry: &str,
        method: Method,
        path: String,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        const SUBJECT: &str = "its administration";
        let session = self.session(registry, vec!["administration".to_owned()])?;
        session.send_password();
        let call = Call::new(method, Target::Path(path), SUBJECT).bytes(body);
        let response = session.call(call).await?;
        let status = response.status();
        Ok((status, session.read(SUBJECT, response, ADMIN_ANSWER_BYTES_MAX).await?))
    }

    fn repository(
        &self,
        reference: &Reference,
        actions: &str,
    ) -> Result<RemoteRepository<'_>, Error> {
        let registry = reference
            .registry()
            .ok_or_else(|| Error::NoRegistry { reference: reference.to_string() })?;
        let name = repository_of(reference).into_owned();
        let session = self.session(registry, vec![format!("repository:{name}:{actions}")])?;
        Ok(RemoteRepository { session, name })
    }

    fn session(&self, registry: &str, scopes: Vec<String>) -> Result<Session<'_>, Error> {
        let ClientOptions { plain_http, tls, .. } = &self.0.options;
        let plain =
            plain_http.contains(registry) || is_loopback(registry) && !tls.contains(registry);
        let registry = registry.to_owned();
        match Origin::of_registry(&registry, !plain) {
            Some(origin) => Ok(Session { context: &self.0, origin, registry, scopes }),
            None => Err(Error::InvalidRegistry { registry }),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.0.options).finish_non_exhaustive()
    }
}
