//! Plugs the registry's client into the control plane: resolves image names, and mints the tokens
//! with which nodes pull.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use blobs::{BlobWriter, MemoryBlobStore};
use futures_util::future::BoxFuture;
use image::{Document, Kind};
use orchestrator::{ImageResolver, ResolvedImage, Runs};
use registry::{Action, Auth, BlobSink, Client, ClientOptions, Reach, Repository, Tokens};
use spec::{Descriptor, Digest, Host, Index, NodeId, Reference, Tenant, wire::Fault};

use crate::{output::size, platform::record::is_registry};

/// Long enough for one registration.
const OWN_TOKEN_TIME: Duration = Duration::from_secs(60);
/// A node fetches large images on slow links; it asks again with each desired set.
const NODE_TOKEN_TIME: Duration = Duration::from_secs(600);
/// Configs have some kilobytes; Spin's applications some more.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Of one image together: a manifest can name ten thousand.
const DOCUMENTS_BYTES_MAX: u64 = 16 << 20;

/// Resolves images in the bundled registry with tokens that it mints, and in any other registry
/// without credentials.
pub struct RegistryResolver {
    address: SocketAddr,
    tokens: Tokens,
    /// Of the platform, in DER.
    authorities: Vec<Vec<u8>>,
    networks: Vec<Host>,
}

/// An image, where to resolve it, and how the definition will name it.
struct ImageLocation {
    /// With the address of its registry.
    address: Reference,
    /// Without a registry when it is the bundled one, wherever that is.
    named: Reference,
    bundled: bool,
}

impl RegistryResolver {
    /// For the registry at `address`, whose key `tokens` signs with, and whose certificate one of
    /// `authorities` has signed. Other registries are reached at public addresses, and in
    /// `networks`.
    pub fn new(
        address: SocketAddr,
        tokens: Tokens,
        authorities: Vec<Vec<u8>>,
        networks: Vec<Host>,
    ) -> Self {
        Self { address, tokens, authorities, networks }
    }

    /// In the bundled registry a tenant's own name space is what it is without a registry:
    /// `cats:v1` is `me/cats:v1`.
    fn locate(&self, tenant: &Tenant, image: &str) -> Result<ImageLocation, Fault> {
        let reference: Reference =
            image.parse().map_err(|error| fault("bad-image", error, None))?;
        let named = match reference.registry() {
            None => {
                let own = format!("{tenant}/");
                let text = reference.to_string();
                let full = if text.starts_with(&own) { text } else { format!("{own}{text}") };
                full.parse().map_err(|error| fault("bad-image", error, None))?
            }
            Some(registry) if is_registry(self.address, registry) => reference.at(None),
            Some(_) => {
                let (address, named) = (reference.clone(), reference);
                return Ok(ImageLocation { address, named, bundled: false });
            }
        };
        let address = named.at(Some(self.address.to_string()));
        Ok(ImageLocation { address, named, bundled: true })
    }

    /// A client that may read this repository alone, if the tenant may.
    fn client(&self, tenant: &Tenant, location: &ImageLocation) -> Client {
        let token = location
            .bundled
            .then(|| {
                self.token(
                    "control-plane",
                    tenant,
                    std::slice::from_ref(&location.named),
                    OWN_TOKEN_TIME,
                )
            })
            .flatten();
        self.client_with(token)
    }

    /// A client that shows `token` to the bundled registry.
    fn client_with(&self, token: Option<String>) -> Client {
        let auth = token.map(|token| (self.address.to_string(), Auth::Token(token)));
        Client::new(ClientOptions {
            auth: BTreeMap::from_iter(auth),
            authorities: self.authorities.clone(),
            // The tenant chooses the registry, and must not reach the internal network through the
            // control plane.
            reach: Reach::Public {
                registries: HashSet::from([self.address.to_string()]),
                networks: self.networks.clone(),
            },
            idle_time_max: Duration::from_secs(5),
            retries_max: 1,
            ..ClientOptions::default()
        })
    }

    /// For these repositories within the rights that the tenant has as a user of the registry: it
    /// decides when the token is shown. `None` without any.
    fn token(
        &self,
        subject: &str,
        tenant: &Tenant,
        named: &[Reference],
        lifetime: Duration,
    ) -> Option<String> {
        let repositories =
            named.iter().filter_map(|named| named.repository().parse::<Repository>().ok());
        let scopes: Vec<(Repository, Vec<Action>)> =
            repositories.map(|repository| (repository, vec![Action::Pull])).collect();
        (!scopes.is_empty()).then(|| self.tokens.mint_for(subject, tenant, &scopes, lifetime))
    }

    async fn look_up(&self, tenant: &Tenant, image: &str) -> Result<ResolvedImage, Fault> {
        let location = self.locate(tenant, image)?;
        let client = self.client(tenant, &location);
        let resolve = async |reference: &Reference| {
            let resolved = client.resolve(reference).await;
            resolved.map_err(|error| self.not_found(tenant, &location, &error))
        };
        let root = resolve(&location.address).await?;
        let unreadable = |error: image::Error| {
            fault("bad-image", format!("image `{image}`: {error}"), error.hint())
        };
        let (bytes, natives) = match image::parse_document(&root.bytes).map_err(unreadable)? {
            Document::Manifest(_) => (root.bytes.to_vec(), None),
            Document::Index(index) => {
                let (entry, natives) = choose(&index).map_err(unreadable)?;
                let resolved = resolve(&location.address.pinned(entry.digest)).await?;
                (resolved.bytes.to_vec(), natives)
            }
        };
        let documents = self.documents(&client, &location, &bytes).await?;
        let plan = image::plan(&bytes, |descriptor| {
            let document = documents.get(&descriptor.digest);
            document.map(|bytes| bytes.to_vec()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the registry does not have it")
            })
        })
        .map_err(unreadable)?;
        let runs = match (plan.kind_hint(), natives) {
            (Kind::Wasm, _) => Runs::Wasm,
            (Kind::Native, Some(architectures)) => Runs::Native(architectures),
            (Kind::Native, None) => Runs::Native(vec![plan.platform.architecture.clone()]),
        };
        Ok(ResolvedImage {
            reference: location.named,
            digest: root.descriptor.digest,
            wants: plan.wants,
            runs,
        })
    }

    /// The small blobs that say what an image is: its config, and other documents that are no
    /// layer.
    async fn documents(
        &self,
        client: &Client,
        location: &ImageLocation,
        manifest: &[u8],
    ) -> Result<MemoryBlobStore, Fault> {
        let Ok(Document::Manifest(parsed)) = image::parse_document(manifest) else {
            return Ok(MemoryBlobStore::default());
        };
        let is_small = |blob: &&Descriptor| {
            blob.size <= DOCUMENT_BYTES_MAX && blob.media_type.as_str().ends_with("config")
        };
        let config = parsed.config.iter().filter(|blob| blob.size <= DOCUMENT_BYTES_MAX);
        let wanted: Vec<&Descriptor> =
            config.chain(parsed.layers.iter().filter(is_small)).collect();
        let image = &location.named;
        let at_most = |what: &str, bytes: u64, bytes_max: u64| {
            if bytes <= bytes_max {
                return Ok(());
            }
            let (bytes, bytes_max) = (size(bytes), size(bytes_max));
            let message =
                format!("{what} of image `{image}` have {bytes}, and at most {bytes_max} will do");
            Err(fault("bad-image", message, None))
        };
        at_most("the documents", sum(wanted.iter().copied()), DOCUMENTS_BYTES_MAX)?;
        at_most("the layers", sum(&parsed.layers), node::CACHE_BYTES_MAX)?;
        let wanted: Vec<Digest> = wanted.iter().map(|blob| blob.digest).collect();
        let sink = DocumentSink { wanted: wanted.into(), kept: MemoryBlobStore::default() };
        let reference = location.address.pinned(Digest::of(manifest));
        let pulled = client
            .pull(&reference, Arc::new(sink.clone()), &registry::PullOptions::default())
            .await;
        pulled.map_err(|error| fault("registry", chain(&error), error.hint()))?;
        Ok(sink.kept)
    }

    fn not_found(
        &self,
        tenant: &Tenant,
        location: &ImageLocation,
        error: &registry::Error,
    ) -> Fault {
        match error {
            registry::Error::NotFound { .. }
            | registry::Error::LoginNeeded { .. }
            | registry::Error::Denied { .. }
                if location.bundled =>
            {
                let pushed = location.named.at(Some(format!("localhost:{}", self.address.port())));
                let hint = format!("push it: margay tag IMAGE {pushed} && margay push {pushed}");
                let message =
                    format!("the registry has no `{}` of tenant `{tenant}`", location.named);
                fault("no-such-image", message, Some(hint))
            }
            _ => fault("registry", chain(error), error.hint()),
        }
    }
}

fn sum<'a>(blobs: impl IntoIterator<Item = &'a Descriptor>) -> u64 {
    blobs.into_iter().fold(0, |bytes, blob| bytes.saturating_add(blob.size))
}

/// Wasm first, as nodes choose; else every architecture that there is a Linux image for.
fn choose(index: &Index) -> Result<(Descriptor, Option<Vec<String>>), image::Error> {
    let linux = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|p| p.os == "linux");
    let platforms: Vec<_> = linux.cloned().collect();
    let entry = image::choose(index, &platforms)?.clone();
    let architectures = platforms.into_iter().map(|platform| platform.architecture).collect();
    Ok((entry, Some(architectures)))
}

impl ImageResolver for RegistryResolver {
    fn resolve<'a>(
        &'a self,
        tenant: &'a Tenant,
        image: &'a str,
    ) -> BoxFuture<'a, Result<ResolvedImage, Fault>> {
        Box::pin(self.look_up(tenant, image))
    }

    fn forget_node<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let token = self.tokens.mint_for_revocation(OWN_TOKEN_TIME);
            let registry = self.address.to_string();
            let revoked = self.client_with(Some(token)).revoke_machine(&registry, node).await;
            revoked.map_err(|error| fault("registry", chain(&error), error.hint()))
        })
    }

    fn pull_token(&self, node: &NodeId, tenant: &Tenant, images: &[&str]) -> Option<String> {
        let locations = images.iter().filter_map(|image| self.locate(tenant, image).ok());
        let named: Vec<Reference> =
            locations.filter(|location| location.bundled).map(|location| location.named).collect();
        self.token(node.as_str(), tenant, &named, NODE_TOKEN_TIME)
    }
}

/// Keeps the blobs in `wanted` in memory, and reports all others as present, so that they are not
/// pulled.
#[derive(Clone)]
struct DocumentSink {
    wanted: Arc<[Digest]>,
    kept: MemoryBlobStore,
}

impl BlobSink for DocumentSink {
    fn has(&self, digest: &Digest) -> bool {
        !self.wanted.contains(digest)
    }

    fn create(&self, blob: &Descriptor) -> io::Result<BlobWriter> {
        self.kept.create(blob)
    }
}

fn fault(code: &str, message: impl ToString, hint: Option<String>) -> Fault {
    Fault { code: code.to_owned(), message: message.to_string(), hint }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
