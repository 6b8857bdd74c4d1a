//! The distribution API as a registry offers it.

mod limits; // how much of everything
mod query; // what stands in a request beside its path
mod route; // what a request asks for
mod reply; // answers and refusals
mod request_body; // the body of a request, with limits
mod app; // who asks, may they, and which function answers

mod token; // tokens for passwords
mod pull; // blobs and manifests on their way out
mod uploads; // blobs on their way in
mod manifests; // manifests on their way in, and away
mod lists; // tags, repositories, referrers
mod admin; // users and visibility, for the owner of the data folder

use std::{convert::Infallible, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, service::service_fn};
use net::{ConnectionLimits, Connections, HttpLimits, Listener, PrivateListener};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval},
};

pub(crate) use admin::{PasswordBody, VisibilityBody, socket_path};
pub use {
    admin::{RepositoryInfo, Visibility},
    limits::Limits,
};

use crate::{
    Error, Tokens,
    access::{Cost, Passwords},
    blocking,
    storage::{FileBlobs, Metadata, Uploads, make_folder},
};
use {app::App, limits::ADMIN_CONNECTIONS_MAX, reply::Reply};

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
    admin: PrivateListener,
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
        let (limits, connections) = (app.limits.clone(), Connections::new());
        let clients =
            ConnectionLimits::new(limits.connections_max, limits.connections_of_one_address_max);
        let admins = ConnectionLimits::in_all(ADMIN_CONNECTIONS_MAX);
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            error = app.metadata.broken() => Err(error),
            never = accept(&connections, &listener, &clients, &app, App::answer) => match never {},
            never = accept(&connections, &admin, &admins, &app, App::administer) => match never {},
            () = sweep(&app) => Ok(()),
        };
        drop(listener);
        connections.drain(limits.drain_time_max).await;
        ended
    }
}

/// Accepts connections of one class, and has `answer` answer their requests.
async fn accept<L: Listener, F>(
    connections: &Connections,
    listener: &L,
    limits: &ConnectionLimits,
    app: &Arc<App>,
    answer: fn(Arc<App>, Request<Incoming>, From) -> F,
) -> Infallible
where
    F: Future<Output = Reply> + Send + 'static,
{
    let http = HttpLimits {
        head_time_max: app.limits.header_time_max,
        write_time_max: app.limits.quiet_time_max,
    };
    let accepted = |stream, from, permit| {
        let (app, connections) = (Arc::clone(app), connections.clone());
        async move {
            let service = service_fn(|request| {
                let reply = answer(Arc::clone(&app), request, from);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            connections.serve_http(stream, http, service).await;
            drop(permit);
        }
    };
    connections.accept(listener, limits, accepted).await
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

/// The address of a client, for counting wrong passwords; nothing through the admin socket.
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
        let error = tokio::time::timeout(Duration::from_secs(30), serving)
            .await
            .expect("it ends")
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, Error::Metadata { .. }), "{error}");
    }
}
