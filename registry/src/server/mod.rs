//! The distribution API as a registry serves it.

mod route; // method and path to endpoint
mod request_body; // with limits
mod response; // status, headers and body
mod error; // error responses

mod metrics; // counters of requests
mod access_log; // a line for each request
mod observed; // a request on its way into both
mod called; // the registry as its client knows it
mod api; // routes each request to its endpoint
mod audited; // a request on its way into the audit log
mod logins; // names and passwords
mod remote; // administration over the network
mod rates; // how many requests a client may send
mod auth; // principal and verdict
mod token; // tokens for passwords
mod outline; // what a registry reads in a manifest
mod stored; // the bytes of a digest, and what they name
mod incoming; // a manifest that is about to be added
mod blobs; // reading and deleting blobs
mod uploads; // adding blobs
mod manifests; // reading, adding and deleting manifests
mod lists; // tags, repositories, referrers
mod robots; // robot accounts, for the owner of the data folder
mod collect; // online garbage collection
mod expiry; // which tags and manifests no rule keeps
mod retain; // they go
mod scrub; // reading everything again
mod front; // TLS, plain HTTP and proxies, before a request is read
mod rules; // switches and immutable tags
mod quotas; // what accounts and repositories may have, and open uploads
mod survey; // reading what is in an image
mod images; // and saying it
mod attached; // what a scan has found, beside the image
mod scanner; // which software is in an image
mod pushed; // images that were pushed, on their way to both
mod scans; // and saying it
mod scan_policies; // images that are refused for it
mod vulnerabilities; // what is published
mod signatures; // images that have to be signed
mod courier; // events on their way to webhooks
mod webhooks; // created, listed, tried and removed
mod remote_registry; // another registry, as this one calls it
mod upstreams; // the pull-through cache
mod replication; // images on their way to other registries
mod contents; // tags, manifests and whole repositories, for the owner of the data folder
mod snapshot; // a copy of everything at one moment
mod retention; // what repositories retain
mod policies; // teams, and what they may do
mod admin; // users and visibility, for the owner of the data folder

use std::{
    convert::Infallible,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::audit::AuditLog;
use ::blobs::FileBlobStore;
use hyper::service::service_fn;
use net::{
    ConnectionLimits, Connections, Descriptors, HttpLimits, PrivateListener, TrustedProxies,
};
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval},
};

use crate::{
    Error, Limits, Tokens,
    access::{Cost, Passwords},
    blocking,
    limits::{ADMIN_CONNECTIONS_MAX, DESCRIPTORS_WANTED, RESERVE_INTERVAL, UPLOAD_SWEEP_INTERVAL},
    protocol::SNAPSHOTS,
    storage::{Metadata, RepositoryLocks, Storage, Uploads},
};
use {
    admin::AdminApi, api::Api, auth::Authenticator, collect::Collector, courier::Courier,
    front::Front, images::ImageEndpoints, logins::Logins, observed::Observer, pushed::PushedImages,
    pushed::Pushes, replication::ReplicationEndpoints, replication::Replicator, retain::Retainer,
    retention::RetentionEndpoints, scanner::Scanner, scans::ScanEndpoints, scrub::Scrubber,
    survey::Surveyor, upstreams::Fetches, upstreams::PullThrough, upstreams::UpstreamEndpoints,
    webhooks::WebhookEndpoints,
};

/// Where a registry stores its data, and how it behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Blobs, database, token key, admin socket. Created if absent, with mode 0700.
    pub data_dir: PathBuf,
    /// The URL of the token endpoint, when it is not `/token` where the client has called: behind a
    /// proxy that says neither scheme nor host.
    pub realm: Option<String>,
    /// With which clients speak TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether clients of other machines may speak plain HTTP, in which passwords travel as they
    /// are.
    pub plain_http: bool,
    /// Whose word about their clients is taken.
    pub proxies: TrustedProxies,
    pub limits: Limits,
    pub cost: Cost,
}

impl Config {
    /// The defaults, in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            realm: None,
            tls: None,
            plain_http: false,
            proxies: TrustedProxies::default(),
            limits: Limits::default(),
            cost: Cost::Recommended,
        }
    }
}

/// A registry that has its data folder open, and does not serve yet.
pub struct Server {
    api: Arc<Api>,
    admin_api: Arc<AdminApi>,
    admin_listener: PrivateListener,
    storage: Storage,
    collector: Collector,
    scrubber: Scrubber,
    retainer: Retainer,
    pushed_images: PushedImages,
    courier: Courier,
    fetches: Fetches,
    front: Front,
    limits: Limits,
}

impl Server {
    /// Opens the data folder: resumes the uploads of an earlier process, creates the token key at
    /// the first start, and listens on the admin socket inside.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::InvalidKey`], and [`Error::Metadata`] when another registry has it
    /// open.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let server = blocking(move || {
            let path = &config.data_dir;
            disk::private_folder(path).map_err(|source| Error::File {
                action: "make the folder",
                path: path.clone(),
                source,
            })?;
            // First, because it is also the lock that keeps a second registry out.
            let metadata = Metadata::open(&config.data_dir)?;
            Self::with_metadata(metadata, config)
        })
        .await?;
        server.storage.metadata.migrate().await?;
        server.storage.metadata.load_rules().await?;
        server.storage.metadata.load_policies().await?;
        server.storage.metadata.load_damaged().await?;
        server.storage.metadata.load_quotas().await?;
        server.storage.metadata.load_webhooks().await?;
        server.storage.metadata.load_upstreams().await?;
        server.storage.metadata.resume_transfers().await?;
        Ok(server)
    }

    /// Blocks.
    fn with_metadata(metadata: Metadata, config: Config) -> Result<Self, Error> {
        let Config { data_dir, realm, tls, plain_http, proxies, limits, cost } = config;
        snapshot::remove(&data_dir.join(SNAPSHOTS))?;
        let passwords = Arc::new(Passwords::new(metadata.clone(), cost));
        let tokens = Tokens::open(&data_dir)?;
        let audit = Arc::new(open_audit_log(data_dir.join("audit"))?);
        let storage = open_storage(metadata.clone(), &data_dir)?;
        let (collector, collecting) = Collector::new(storage.clone());
        let (scrubber, scrubbing) = Scrubber::new(storage.clone());
        let (courier, postman) = Courier::new(metadata.clone(), Replicator::new(storage.clone()));
        let surveyor = Surveyor::new(storage.clone());
        let scanner = Scanner::open(storage.clone(), &data_dir)?;
        let (pushes, pushed_images) =
            Pushes::new(metadata.clone(), surveyor.clone(), scanner.clone());
        let (pull_through, fetches) = PullThrough::new(storage.clone(), &limits);
        let (retainer, retaining) = Retainer::new(storage.clone(), Arc::clone(&audit));
        let logins = Logins { passwords: Arc::clone(&passwords), metadata: metadata.clone() };
        let observer = Arc::new(Observer::new(&data_dir, metadata.clone()));
        let admin_api = Arc::new(AdminApi {
            observer: Arc::clone(&observer),
            audit: Arc::clone(&audit),
            storage: storage.clone(),
            collector: collecting,
            retention: RetentionEndpoints {
                storage: storage.clone(),
                retainer: retaining,
                grace: limits.retain_grace,
            },
            scrubber: scrubbing,
            scrub_bytes_per_second: limits.scrub_bytes_per_second,
            collect_grace: limits.collect_grace,
            passwords,
            upstreams: UpstreamEndpoints { metadata: metadata.clone() },
            replications: ReplicationEndpoints { metadata: metadata.clone() },
            webhooks: WebhookEndpoints { metadata: metadata.clone(), postman },
            images: ImageEndpoints::new(storage.clone(), surveyor.clone()),
            scans: ScanEndpoints::new(storage.clone(), scanner.clone()),
            data_dir: data_dir.clone(),
            idle_time_max: limits.idle_time_max,
        });
        Ok(Self {
            admin_api: Arc::clone(&admin_api),
            admin_listener: admin::listen(&data_dir)?,
            api: Arc::new(Api::new(
                audit,
                storage.clone(),
                Authenticator { tokens, metadata: metadata.clone(), logins, realm },
                (admin_api, observer),
                (pushes, scanner, pull_through),
                &limits,
            )),
            storage,
            collector,
            scrubber,
            retainer,
            pushed_images,
            courier,
            fetches,
            front: Front {
                acceptor: tls.map(Into::into),
                plain_http,
                proxies,
                http: http_limits(&limits),
            },
            limits,
        })
    }

    /// Answers on `listener`, in HTTP/1.1 with TLS or without, until `shutdown`; then requests in
    /// progress may finish for a while.
    ///
    /// # Errors
    /// [`Error::Metadata`] when the database accepts no more writes: only a new process can open it
    /// again. A failed accept is retried.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self {
            api,
            admin_api,
            admin_listener,
            storage,
            collector,
            scrubber,
            retainer,
            pushed_images,
            courier,
            fetches,
            front,
            limits,
        } = self;
        let connections = Connections::new();
        let (http, front) = (front.http, Arc::new(front));
        let descriptors = Descriptors::raise();
        let share = |limit| descriptors.share(limit, DESCRIPTORS_WANTED);
        let clients = ConnectionLimits::new(
            share(limits.connections_max),
            share(limits.connections_of_one_address_max),
        )
        .without_share_of(front.proxies.clone());
        let admins = ConnectionLimits::in_all(ADMIN_CONNECTIONS_MAX);
        let serving = accept_clients(&connections, &listener, &clients, &front, &api);
        let administering = accept_admins(&connections, &admin_listener, &admins, http, &admin_api);
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            error = storage.metadata.broken() => Err(error),
            never = serving => match never {},
            never = administering => match never {},
            () = expire_uploads(&storage.uploads, limits.upload_idle_time_max) => Ok(()),
            () = collector.run(limits.collect_interval, limits.collect_grace) => Ok(()),
            () = scrubber.run(limits.scrub_interval, limits.scrub_bytes_per_second) => Ok(()),
            () = retainer.run(limits.retain_interval, limits.retain_grace) => Ok(()),
            () = pushed_images.run() => Ok(()),
            () = courier.run() => Ok(()),
            () = fetches.run() => Ok(()),
            () = keep_reserve(&storage.metadata) => Ok(()),
        };
        drop(listener);
        connections.drain(limits.drain_time_max).await;
        if !storage.metadata.is_broken() {
            storage.note_pulls().await?;
        }
        ended
    }
}

fn open_storage(metadata: Metadata, data_dir: &Path) -> Result<Storage, Error> {
    let blobs = Arc::new(FileBlobStore::sharded(data_dir)?);
    let uploads = Arc::new(Uploads::open(blobs.clone())?);
    Ok(Storage {
        metadata,
        blobs,
        uploads,
        locks: RepositoryLocks::default(),
        unused: Arc::default(),
        pulls: Arc::default(),
        manifests: Arc::default(),
    })
}

fn open_audit_log(path: PathBuf) -> Result<AuditLog, Error> {
    let opened = AuditLog::open(&path);
    opened.map_err(|source| Error::File { action: "open the audit log in", path, source })
}

fn http_limits(limits: &Limits) -> HttpLimits {
    HttpLimits::with_times(limits.header_time_max, limits.idle_time_max)
}

async fn accept_clients(
    connections: &Connections,
    listener: &TcpListener,
    limits: &ConnectionLimits,
    front: &Arc<Front>,
    api: &Arc<Api>,
) -> Infallible {
    let accepted = |stream, from: Option<IpAddr>, permit| {
        let (api, connections, front) = (api.clone(), connections.clone(), front.clone());
        async move {
            let Some(peer) = from else { return };
            front.answer(&connections, &api, stream, peer, permit).await;
        }
    };
    connections.accept(listener, limits, accepted).await
}

async fn accept_admins(
    connections: &Connections,
    listener: &PrivateListener,
    limits: &ConnectionLimits,
    http: HttpLimits,
    api: &Arc<AdminApi>,
) -> Infallible {
    let accepted = |stream, _, permit| {
        let (api, connections) = (api.clone(), connections.clone());
        async move {
            let service = service_fn(|request| {
                let response = api.clone().answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            connections.serve_http(stream, http, service).await;
            drop(permit);
        }
    };
    connections.accept(listener, limits, accepted).await
}

/// Discards abandoned uploads, until it is dropped.
async fn expire_uploads(uploads: &Arc<Uploads>, idle_time_max: Duration) {
    let mut ticks = interval(UPLOAD_SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let uploads = Arc::clone(uploads);
        blocking(move || uploads.expire(idle_time_max)).await;
    }
}

/// Takes the reserve again when it was given back and there is space, until it is dropped.
async fn keep_reserve(metadata: &Metadata) {
    let Some(reserve) = metadata.reserve() else { return std::future::pending().await };
    let mut ticks = interval(RESERVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let reserve = Arc::clone(reserve);
        blocking(move || reserve.take()).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use store::{Committed, MemoryStore, Query, Range, Ranged, Rev, Status, Store, Txn, Watch};

    use super::*;

    /// A database whose disk is gone.
    struct Broken(MemoryStore);

    impl Store for Broken {
        fn range(&self, query: Query) -> BoxFuture<'_, Result<Ranged, store::Error>> {
            self.0.range(query)
        }
        fn txn(&self, _: Txn) -> BoxFuture<'_, Result<Committed, store::Error>> {
            Box::pin(async { Err(store::Error::Broken) })
        }
        fn watch(&self, range: Range, after: Rev) -> BoxFuture<'_, Result<Watch, store::Error>> {
            self.0.watch(range, after)
        }
        fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), store::Error>> {
            self.0.compact(rev)
        }
        fn status(&self) -> BoxFuture<'_, Result<Status, store::Error>> {
            self.0.status()
        }
    }

    #[tokio::test]
    async fn a_registry_with_a_broken_database_ends_so_that_another_can_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = Metadata::on(Arc::new(Broken(MemoryStore::new())));
        let server = Server::with_metadata(metadata.clone(), Config::new(dir.path())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = tokio::spawn(server.serve(listener, std::future::pending()));
        assert!(!metadata.is_broken(), "no commit has been tried");
        metadata.set_public(&"ann/cats".parse().unwrap(), true).await.unwrap_err();
        assert!(metadata.is_broken());
        let served = tokio::time::timeout(Duration::from_secs(30), serving).await;
        let error = served.expect("it ends").unwrap().unwrap_err();
        assert!(matches!(error, Error::Metadata { .. }), "{error}");
    }
}
