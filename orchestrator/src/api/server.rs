use std::{
    convert::Infallible,
    fs,
    future::Future,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::hmac;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spec::NodeCondition;
use store::{Compare, Query, SqliteStore, Store, Txn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Error,
    api::Credential,
    app::{App, Epoch, Shared, now},
    ca::Ca,
    call::{Call, Reply},
    error::Refusal,
    files, keys,
    live::Live,
    model::Model,
    principal::{Peer, Principal, authorize},
    reconcile,
    records::{CredentialRecord, encode},
    routes::{self, Access},
    seal::Seal,
    seats::{DESCRIPTORS_MIN, Seat, Seats, Turns},
    secret,
    sets::Sets,
    tls,
};

/// Head of a request, TLS handshake: whoever is slower is not one of ours.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long requests may take to finish once the end was asked for.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Is the control plane until `shutdown`: opens its store, listens, and reconciles.
///
/// Before it listens it writes `credential.json` (0600) into its folder: the operator's way in over
/// TCP.
///
/// # Errors
/// When the store, a key or a listener cannot be had; and when the store stops writing after a
/// failure of the disk: then only a new start can find out what is on it.
pub async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    files::private_folder(&config.data_dir)?;
    let path = config.data_dir.join("store.db");
    let store =
        tokio::task::spawn_blocking(move || SqliteStore::open(&path)).await.map_err(|join| {
            Error::Io { path: config.data_dir.clone(), source: std::io::Error::other(join) }
        })??;
    let listener = config.listener.as_ref().map(|listener| listener.try_clone());
    let at = |source| Error::Io { path: config.data_dir.clone(), source };
    let listener = listener.transpose().map_err(at)?;
    let tcp = listener.map(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let tcp = tcp.transpose().map_err(at)?;
    let address = tcp.as_ref().map(TcpListener::local_addr).transpose().map_err(at)?;
    let unix = listen(&config.socket)?;
    let app = Arc::new(App::start(config, Arc::new(store), address).await?);
    let acceptor = app.acceptor()?;
    have_descriptors();
    let server = Server::new(app.clone());
    server.tasks.spawn(reconcile::sweep(app.clone(), server.end.clone()));
    let result = tokio::select! {
        () = shutdown => Ok(()),
        broken = reconcile::reconcile(app) => Err(broken.into()),
        never = server.accept_sockets(&unix) => match never {},
        never = server.accept_tls(tcp.as_ref(), &acceptor) => match never {},
    };
    server.finish().await;
    result
}

/// Where a limit of 1024 descriptors is the custom, strangers would use them up long before their
/// seats.
fn have_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let enough = |have: Option<u64>| have.is_none_or(|have| have >= DESCRIPTORS_MIN);
    if !enough(limit.current)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, "the limit of open descriptors cannot be raised");
    }
    if !enough(limit.maximum) {
        tracing::warn!(need = DESCRIPTORS_MIN, have = ?limit.maximum, "few descriptors: raise `ulimit -Hn`");
    }
}

/// The socket of the operator. Its folder was closed to everybody else before it is there.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    let at = |source| Error::Io { path: path.to_owned(), source };
    // The store's lock says that no other control plane is alive, so this one is a dead one's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(error)),
        Ok(()) | Err(_) => {}
    }
    let (_folder, short) = files::short_socket(path).map_err(at)?;
    let listener = UnixListener::bind(short).map_err(at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(at)?;
    Ok(listener)
}

impl App {
    /// Begins the next epoch on `store`.
    pub(crate) async fn start(
        config: Config,
        store: Arc<dyn Store>,
        address: Option<SocketAddr>,
    ) -> Result<Self, Error> {
        let Config { data_dir, advertise, tenant, domain, registry, resolver, .. } = config;
        files::private_folder(&data_dir)?;
        let ca = Ca::open(&data_dir, now())?;
        let key = files::private_file(&data_dir.join("secret.key"), || {
            Ok(secret::random_hex().into_bytes())
        })?;
        let epoch = Epoch::begin(&*store).await?;
        // Before anybody can ask: whoever was told that nothing should run would stop everything
        // that does.
        let model = Model::of(&store.range(Query::prefix("")).await?);
        let app = Self {
            epoch,
            store,
            tenant,
            domain,
            registry,
            address: advertise.or_else(|| address.map(|address| address.to_string())),
            resolver,
            resolving: Turns::new(),
            ca,
            seal: Seal::from(&key),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            model: Shared::of(model),
            changed: watch::Sender::new(0),
            live: Live::new(),
            waiting: Shared::default(),
            sets: Sets::default(),
            clusters: tokio::sync::RwLock::default(),
        };
        app.mint(&data_dir).await?;
        Ok(app)
    }

    /// The operator's credential. It is the same at each start, because we can make its token
    /// again.
    async fn mint(&self, folder: &Path) -> Result<(), Error> {
        let Some(address) = self.address.clone() else { return Ok(()) };
        let token = secret::derived(&self.key, "credential of the operator");
        let key = keys::credential(&secret::hashed(&token));
        let record = CredentialRecord { tenant: self.tenant.clone(), created: now() };
        self.store
            .txn(Txn::new().when(Compare::Absent(key.clone())).put(key, encode(&record)))
            .await?;
        let ca_fingerprint = self.ca.fingerprint.clone();
        let credential = Credential { address, ca_fingerprint, tenant: self.tenant.clone(), token };
        let text = serde_json::to_vec_pretty(&credential).expect("it has string keys");
        files::write_private(&folder.join("credential.json"), &text)
    }

    fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let (leaf, key) = self.ca.server(now())?;
        Ok(tls::server(leaf, key, &self.ca.certificate)?.into())
    }

    /// From a request to its answer. Every request passes here, and so through [`authorize`].
    async fn answer(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let (parts, body) = request.into_parts();
        let (route, params) = routes::find(&parts.method, parts.uri.path())?;
        let principal = self.principal(&peer, &parts.headers).await?;
        authorize(&principal, route.access)?;
        if let Principal::Node { id, .. } = &principal
            && self.live.heard(id) != NodeCondition::Ready
        {
            self.touch(); // it may have work again, whatever becomes of this request
        }
        if parts.method != Method::GET && route.access != Access::Node {
            tracing::info!(?principal, method = %parts.method, path = parts.uri.path(), "asked"); // the audit log: who did what
        }
        (route.handle)(Call::read(self, principal, params, parts, body).await?).await
    }
}

struct Server {
    app: Arc<App>,
    seats: Arc<Seats>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Server {
    fn new(app: Arc<App>) -> Self {
        Self {
            app,
            seats: Arc::new(Seats::new()),
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        }
    }

    async fn accept_sockets(&self, listener: &UnixListener) -> Infallible {
        let me = rustix::process::geteuid().as_raw();
        loop {
            let seat = self.seats.socket().await;
            match listener.accept().await {
                Ok((stream, _)) if is_owner(&stream, me) => self.spawn(stream, Peer::Socket, seat),
                Ok(_) => {} // another user got past the folder: an owner's mistake with permissions
                Err(error) => rest(&error).await,
            }
        }
    }

    async fn accept_tls(
        &self,
        listener: Option<&TcpListener>,
        acceptor: &TlsAcceptor,
    ) -> Infallible {
        let Some(listener) = listener else { return std::future::pending().await };
        loop {
            let permit = self.seats.handshake().await;
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(seat) = self.seats.shake(permit, from.ip()) {
                        self.shake_hands(stream, from.ip(), acceptor.clone(), seat);
                    }
                }
                Err(error) => rest(&error).await,
            }
        }
    }

    fn shake_hands(&self, stream: TcpStream, from: IpAddr, acceptor: TlsAcceptor, shaking: Seat) {
        let (app, end, seats) = (self.app.clone(), self.end.clone(), self.seats.clone());
        self.tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await else {
                return;
            };
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate =
                certificates.and_then(<[_]>::first).map(|leaf| secret::fingerprint(leaf));
            let peer = Peer::Tls { certificate };
            let Some(seat) = seats.sit(app.node_at(&peer).await, from) else {
                tracing::debug!(%from, "sent away: it, or all of its kind, has enough connections");
                return;
            };
            drop(shaking);
            speak(app, stream, peer, end).await;
            drop(seat);
        });
    }

    fn spawn(&self, stream: UnixStream, peer: Peer, seat: Seat) {
        let (app, end) = (self.app.clone(), self.end.clone());
        self.tasks.spawn(async move {
            speak(app, stream, peer, end).await;
            drop(seat);
        });
    }

    /// Lets requests finish for a moment; long polls end with their connections.
    async fn finish(self) {
        self.tasks.close();
        self.end.cancel();
        if timeout(DRAIN_TIME_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("some requests were cut off");
        }
    }
}

fn is_owner(stream: &UnixStream, me: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == me || peer.uid() == 0)
}

/// Out of descriptors, most likely: they come back when connections end.
async fn rest(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn speak<S>(app: Arc<App>, stream: S, peer: Peer, end: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (app, peer, end) = (app.clone(), peer.clone(), end.clone());
        async move {
            let line = format!("{} {}", request.method(), request.uri().path());
            let polls = request.uri().path() == "/v1/node/desired";
            let answer = app.answer(peer, request);
            let result = tokio::select! {
                biased;
                result = answer => result,
                () = end.cancelled(), if polls => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the control plane is ending")),
            };
            Ok::<_, Infallible>(written(&line, result))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(64 << 10);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = end.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await; // its failure is the client's to see
}

/// Two voices: a code and a sentence for the caller, the whole chain for our log.
fn written(line: &str, result: Result<Reply, Refusal>) -> Response<Full<Bytes>> {
    let (status, body) = match result {
        Ok(Reply { status, body }) => (status, body),
        Err(refusal) => {
            let Refusal { status, fault, cause } = refusal;
            match cause {
                Some(cause) => {
                    tracing::error!(request = line, code = %fault.code, ?cause, "refused")
                }
                None => tracing::info!(request = line, %status, code = %fault.code, "refused"),
            }
            (status, serde_json::to_value(&fault).expect("a fault has string keys"))
        }
    };
    let bytes = match body.is_null() {
        true => Bytes::new(),
        false => serde_json::to_vec(&body).expect("it is JSON already").into(),
    };
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    let wait = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some("1"), // we are starting, ending, or the disk was busy
        StatusCode::TOO_MANY_REQUESTS => Some("5"),   // somebody's own requests have to end first
        _ => None,
    };
    if let Some(seconds) = wait {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static(seconds));
    }
    if !body.is_null() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_should_come_again_is_told_when() {
        for (status, want) in [
            (StatusCode::SERVICE_UNAVAILABLE, Some("1")),
            (StatusCode::TOO_MANY_REQUESTS, Some("5")),
            (StatusCode::CONFLICT, None),
        ] {
            let response = written("GET /", Err(Refusal::new(status, "code", "a sentence")));
            let told =
                response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(told, want, "{status}");
        }
    }
}
