use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use blobs::BlobStore;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use spec::{Descriptor, Digest, MediaType, Reference};
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};

use crate::{Action, Admin, Auth, Client, ClientOptions, Config, Cost, Existing, Server, Tokens};

pub const PASSWORD: &str = "correct horse";

/// A registry with the users `ann` and `bob`.
pub struct TestRegistry {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub admin: Admin,
    pub tokens: Tokens,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

pub struct TestResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl TestRegistry {
    pub async fn open() -> Self {
        Self::open_with(|_| ()).await
    }

    pub async fn open_with(change: impl FnOnce(&mut Config)) -> Self {
        let server = Self::open_in(tempfile::tempdir().unwrap(), change).await;
        for name in ["ann", "bob"] {
            server.admin.put_user(&name.parse().unwrap(), PASSWORD, Existing::New).await.unwrap();
        }
        server
    }

    pub async fn open_in(dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(dir.path());
        config.cost = Cost::Lowest;
        change(&mut config);
        let server = Server::open(config).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            server.serve(listener, async { drop(stopped.await) }).await.unwrap()
        });
        let (admin, tokens) = (Admin::new(dir.path()), Tokens::open(dir.path()).unwrap());
        Self { dir, address, admin, tokens, stop: Some(stop), serving }
    }

    /// Shuts it down gracefully, and leaves its data.
    pub async fn close(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.serving.await.unwrap();
        self.dir
    }

    pub fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    pub fn client(&self, user: &str) -> Client {
        client(
            &self.address.to_string(),
            Auth::Password { user: user.to_owned(), password: PASSWORD.to_owned() },
        )
    }

    /// A token for every action in one repository.
    pub fn token(&self, repository: &str) -> String {
        let actions = vec![Action::Pull, Action::Push, Action::Delete];
        self.tokens.mint("test", &[(repository.parse().unwrap(), actions)], Duration::from_secs(60))
    }

    /// `request` is `METHOD PATH`.
    pub async fn request(
        &self,
        request: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> TestResponse {
        send(self.address, request, headers, body).await
    }

    /// The status of a login, and its token.
    pub async fn log_in(&self, login: &str, password: &str, scope: &str) -> (u16, Option<String>) {
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{login}:{password}")));
        let request = format!("GET /token?scope={scope}");
        let answer = self.request(&request, &[("authorization", &basic)], "").await;
        let body: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
        (answer.status.as_u16(), body["token"].as_str().map(|token| format!("Bearer {token}")))
    }

    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let bearer = format!("Bearer {}", self.token(repository));
        let request = format!("POST /v2/{repository}/blobs/uploads/?digest={digest}");
        let response = self.request(&request, &[("authorization", &bearer)], bytes.to_vec()).await;
        assert_eq!(response.status, StatusCode::CREATED, "{:?}", response.bytes);
        digest
    }

    pub async fn push_manifest(&self, repository: &str, tag: &str, manifest: &str) -> Digest {
        let bearer = format!("Bearer {}", self.token(repository));
        let request = format!("PUT /v2/{repository}/manifests/{tag}");
        let response =
            self.request(&request, &[("authorization", &bearer)], manifest.to_owned()).await;
        assert_eq!(response.status, StatusCode::CREATED, "{:?}", response.bytes);
        Digest::of(manifest.as_bytes())
    }
}

pub fn client(registry: &str, auth: Auth) -> Client {
    let mut options = ClientOptions {
        idle_time_max: Duration::from_secs(5),
        retries_max: 3,
        backoff_max: Duration::from_millis(100),
        ..ClientOptions::default()
    };
    options.auth.insert(registry.to_owned(), auth);
    Client::new(options)
}

pub async fn send(
    address: SocketAddr,
    request: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> TestResponse {
    let (method, path) = request.split_once(' ').unwrap();
    let mut request = Request::builder()
        .method(method.parse::<Method>().unwrap())
        .uri(path)
        .header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_str(value).unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response =
        sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    TestResponse { status, headers, bytes }
}

impl TestResponse {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of the error body, if it is one.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub use blobs::MemoryBlobStore as MemoryImages;

/// What tests put into a store without a writer.
pub trait PutBlobs {
    fn put(&self, bytes: impl AsRef<[u8]>) -> Digest;

    fn len(&self) -> usize;

    /// An image of these layers.
    fn image(&self, layers: &[&[u8]]) -> Descriptor;
}

impl PutBlobs for MemoryImages {
    fn put(&self, bytes: impl AsRef<[u8]>) -> Digest {
        blobs::write(self, bytes.as_ref()).unwrap()
    }

    fn len(&self) -> usize {
        self.list().unwrap().len()
    }

    fn image(&self, layers: &[&[u8]]) -> Descriptor {
        let describe = |media_type: &'static str, bytes: &[u8]| {
            self.put(bytes);
            serde_json::to_value(Descriptor::of(media_type, bytes)).unwrap()
        };
        let layers: Vec<_> =
            layers.iter().map(|layer| describe(MediaType::OCI_LAYER_TAR, layer)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": describe(MediaType::OCI_CONFIG, b"{}"),
            "layers": layers,
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        self.put(&bytes);
        Descriptor::of(MediaType::OCI_MANIFEST, &bytes)
    }
}

/// Pseudo-random bytes, the same each time.
pub fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}
