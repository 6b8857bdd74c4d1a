//! The distribution API as a registry offers it.

mod limits; // how much of everything
mod query; // what stands in a request beside its path
mod route; // what a request asks for
mod reply; // answers and refusals
mod intake; // the body of a request, with limits
mod patience; // connections whose other end has stopped reading
mod app; // who asks, may they, and which function answers

mod token; // tokens for passwords
mod pull; // blobs and manifests on their way out
mod uploads; // blobs on their way in
mod manifests; // manifests on their way in, and away
mod lists; // tags, repositories, referrers
mod admin; // users and visibility, for the owner of the data folder

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use admin::{PasswordBody, VisibilityBody, socket_path};
pub use {
    admin::{RepositoryInfo, Visibility},
    limits::Limits,
};

use crate::{
    Error, Tokens,
    access::{Cost, Passwords},
    blocking,
    shares::Shares,
    storage::{FileBlobs, Metadata, Uploads, make_folder},
};
use {app::App, patience::Patient, reply::Reply};

/// On the admin socket: its owner and their scripts, whom no stranger may keep out.
const ADMIN_CONNECTIONS_MAX: usize = 8;

/// Where a registry keeps its things, and how it behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything it knows: blobs, database, token key, admin socket. Made if absent, 0700.
    pub data_dir: PathBuf,
    /// The address of the token endpoint as clients must call it, when that is not
    /// `http://HOST/token` with the `Host` they asked for: behind a proxy that speaks TLS.
    pub realm: Option<String>,
    /// How much of everything.
    pub limits: Limits,
    /// What a password costs to check.
    pub cost: Cost,
}

impl Config {
    /// Everything as usual, in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            realm: None,
            limits: Limits::default(),
            cost: Cost::Recommended,
        }
    }
}

/// A registry that has its data folder open, and has not answered anybody yet.
pub struct Server {
    app: Arc<App>,
    admin: UnixListener,
}

impl Server {
    /// Opens the data folder: takes up what an earlier process left, makes the token key at the
    /// first start, and listens on the admin socket inside.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Key`], and [`Error::Metadata`] when another registry has it open.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let data_dir = config.data_dir.clone();
        let (limits, cost) = (config.limits.clone(), config.cost);
        let app = blocking(move || {
            make_folder(&data_dir)?;
            Ok::<_, Error>(App::new(
                // First, because it is also the lock that keeps a second registry out.
                Metadata::open(&data_dir)?,
                FileBlobs::open(&data_dir)?,
                Uploads::open(&data_dir, limits.uploads_per_user_max)?,
                Passwords::new(cost),
                Tokens::open(&data_dir)?,
                config.realm,
                limits,
            ))
        })
        .await?;
        let admin = admin::listen(&config.data_dir)?;
        Ok(Self { app: Arc::new(app), admin })
    }

    /// Answers on `listener`, in plain HTTP/1.1, until `shutdown`; then lets what is under way
    /// finish for a while.
    ///
    /// TLS is absent on purpose: on loopback there is nobody to hide from, and elsewhere the
    /// ingress or a proxy ends it.
    ///
    /// # Errors
    /// [`Error::Metadata`] when the database takes nothing any more: only a new process opens it
    /// again. A failed accept is waited out.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self { app, admin } = self;
        let house = House {
            limits: app.limits.clone(),
            connections: Arc::new(Semaphore::new(app.limits.connections_max)),
            of_one_address: Shares::new(app.limits.connections_of_one_address_max),
            of_admins: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            too_late: CancellationToken::new(),
        };
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            error = app.metadata.broken() => Err(error),
            () = house.welcome(&listener, &app) => Ok(()),
            () = house.welcome_admins(&admin, &app) => Ok(()),
            () = sweep(&app) => Ok(()),
        };
        drop(listener);
        house.close().await;
        ended
    }
}

/// Connections, and the end of them.
struct House {
    limits: Limits,
    connections: Arc<Semaphore>,
    of_one_address: Shares,
    of_admins: Arc<Semaphore>,
    tasks: TaskTracker,
    /// No further request on any connection.
    closing: CancellationToken,
    /// Not even the end of this one.
    too_late: CancellationToken,
}

impl House {
    async fn welcome(&self, listener: &TcpListener, app: &Arc<App>) {
        loop {
            let Ok(place) = Arc::clone(&self.connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    // Nobody waits for a share: a client that is sent away comes again.
                    let Ok(share) = self.of_one_address.of(from.ip()).try_acquire_owned() else {
                        tracing::debug!(from = %from.ip(), "sent away: it has enough connections");
                        continue;
                    };
                    let place = (place, share);
                    stream.set_nodelay(true).ok();
                    let app = Arc::clone(app);
                    let answer = move |request| Arc::clone(&app).answer(request, Some(from.ip()));
                    self.host(Patient::new(stream, self.limits.quiet_time_max), place, answer);
                }
                Err(error) => rest(&error).await,
            }
        }
    }

    async fn welcome_admins(&self, listener: &UnixListener, app: &Arc<App>) {
        loop {
            let Ok(place) = Arc::clone(&self.of_admins).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let app = Arc::clone(app);
                    let answer = move |request| Arc::clone(&app).administer(request);
                    self.host(Patient::new(stream, self.limits.quiet_time_max), place, answer);
                }
                Err(error) => rest(&error).await,
            }
        }
    }

    fn host<F>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: impl Send + 'static,
        answer: impl Fn(hyper::Request<Incoming>) -> F + Send + 'static,
    ) where
        F: Future<Output = Reply> + Send + 'static,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_time_max)
            .max_headers(64)
            .max_buf_size(64 << 10)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| {
                    let reply = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(reply.await) }
                }),
            );
        let (closing, too_late) = (self.closing.clone(), self.too_late.clone());
        self.tasks.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = &mut connection => ended,
                        () = too_late.cancelled() => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }

    async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(self.limits.drain_time_max, self.tasks.wait()).await.is_err() {
            self.too_late.cancel();
        }
        self.tasks.wait().await;
    }
}

/// After a failed accept: usually there are no descriptors left, and some will be free soon.
async fn rest(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    sleep(Duration::from_millis(100)).await;
}

/// Forgets abandoned uploads, for ever.
async fn sweep(app: &Arc<App>) {
    let mut ticks = interval(Duration::from_secs(60));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let app = Arc::clone(app);
        blocking(move || app.uploads.expire(app.limits.upload_idle_time_max)).await;
    }
}

/// Where a request came from, for counting wrong passwords.
type From = Option<IpAddr>;

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
    async fn a_registry_whose_database_broke_ends_so_that_another_can_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let app = Arc::new(App::new(
            Metadata::on(Arc::new(Broken(MemoryStore::new()))),
            FileBlobs::open(dir.path()).unwrap(),
            Uploads::open(dir.path(), 1).unwrap(),
            Passwords::new(Cost::Lowest),
            Tokens::open(dir.path()).unwrap(),
            None,
            Limits::default(),
        ));
        let server = Server { app: Arc::clone(&app), admin: admin::listen(dir.path()).unwrap() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = tokio::spawn(server.serve(listener, std::future::pending()));
        assert!(!app.metadata.is_broken(), "nobody has tried yet");
        app.metadata.set_public(&"ann/cats".parse().unwrap(), true).await.unwrap_err();
        assert!(app.metadata.is_broken());
        let error =
            timeout(Duration::from_secs(30), serving).await.expect("it ends").unwrap().unwrap_err();
        assert!(matches!(error, Error::Metadata { .. }), "{error}");
    }
}
