use std::{
    collections::BTreeMap,
    future::Future,
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use net::{ApiClient, tls};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use spec::{
    ContainerPhase, ContainerStatus, Digest, LaunchType, NodeId, NodeSpec, PublishedPort,
    Resources, TaskId, TaskPhase, TaskStatus, Tenant, Usage,
    wire::{DesiredSet, Fault, JoinResponse, JoinToken, NodeReport, ReportedTask, WaitingRequests},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Client, Config, CreateCredential, CreateJoinToken, Credential, CredentialScope, ImageResolver,
    ResolvedImage, RunTask, Runs, serve, state::tokens,
};

/// Knows images by what their names say: `cats`, `wants-net`, `native`, `nowhere`.
pub struct TestImages;

impl ImageResolver for TestImages {
    fn resolve<'a>(
        &'a self,
        _: &'a Tenant,
        image: &'a str,
    ) -> BoxFuture<'a, Result<ResolvedImage, Fault>> {
        async move {
            let fault = |message: String| Fault {
                code: "image".to_owned(),
                message,
                hint: Some("push it".to_owned()),
            };
            if image == "nowhere" {
                return Err(fault("there is no image `nowhere`".to_owned()));
            }
            let wants = match image {
                "wants-net" => vec!["net.out:https://api.example.com".parse().unwrap()],
                _ => Vec::new(),
            };
            let runs =
                if image == "native" { Runs::Native(vec!["amd64".to_owned()]) } else { Runs::Wasm };
            let reference =
                image.parse().map_err(|error: spec::ParseError| fault(error.to_string()))?;
            Ok(ResolvedImage { reference, digest: Digest::of(image.as_bytes()), wants, runs })
        }
        .boxed()
    }

    fn forget_node<'a>(&'a self, _: &'a NodeId) -> BoxFuture<'a, Result<(), Fault>> {
        async { Ok(()) }.boxed()
    }

    fn pull_token(&self, _: &NodeId, tenant: &Tenant, images: &[&str]) -> Option<String> {
        Some(format!("{tenant} may pull {}", images.join(" and ")))
    }
}

/// A control plane that runs until it is dropped.
pub struct TestControlPlane {
    pub folder: TempDir,
    pub client: Client,
    /// Kept over restarts: a port that is given back can be taken by any connection that goes out.
    listener: TcpListener,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl TestControlPlane {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(folder: TempDir) -> Self {
        let client = Client::unix(folder.path().join("run/server.sock"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut plane = Self { folder, client, listener, running: None };
        plane.begin().await;
        plane
    }

    async fn begin(&mut self) {
        let (end, ended) = oneshot::channel::<()>();
        let config = config(self.folder.path(), self.listener.try_clone().unwrap());
        let serving = tokio::spawn(async move {
            serve(config, async { drop(ended.await) }).await.unwrap();
        });
        self.running = Some((end, serving));
        let client = self.client.clone();
        until("the control plane answers", || async { client.health().await.ok() }).await;
    }

    pub async fn restart(&mut self) {
        self.end().await;
        self.begin().await;
    }

    pub async fn end(&mut self) {
        if let Some((end, serving)) = self.running.take() {
            drop(end);
            serving.await.unwrap();
        }
    }

    pub fn credential(&self) -> Credential {
        let text = std::fs::read(self.folder.path().join("server/credential.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// A credential of another tenant.
    pub async fn credential_of(&self, tenant: &str, scope: CredentialScope) -> Credential {
        let wanted = CreateCredential {
            name: tokens::random_name(&format!("{tenant}-{scope}")).parse().unwrap(),
            tenant: Some(tenant.parse().unwrap()),
            scope,
            lifetime_seconds: None,
        };
        self.client.create_credential(&wanted).await.unwrap()
    }

    /// A client over TCP, as a credential of `tenant`.
    pub async fn client_of(&self, tenant: &str) -> Client {
        client(self.credential_of(tenant, CredentialScope::Manage).await)
    }

    /// An access token for a credential.
    pub async fn access_token(&self, credential: &Credential) -> String {
        let body = json!({
            "tenant": credential.tenant, "credential": credential.name, "secret": credential.secret,
        });
        let body = body.to_string();
        let answer = self.raw_tls("POST", "/v1/access-tokens", None, body.as_bytes()).await;
        answer.1["token"].as_str().unwrap().to_owned()
    }

    pub async fn token(&self, wanted: CreateJoinToken) -> JoinToken {
        self.client.create_join_token(wanted).await.unwrap().token.parse().unwrap()
    }

    /// Runs one task of `image` in the pool.
    pub async fn run_one(&self, client: &Client, image: &str) -> TaskId {
        let main = "main".parse().unwrap();
        let _ = client.create_cluster(&main).await; // or it is there
        let mut definition = definition(image, image);
        definition.containers[0].cpu_millis = 10; // many fit on one node
        let registered = client.register(&definition).await.unwrap();
        let run = RunTask {
            task_definition: registered.id,
            launch_type: LaunchType::Pool,
            count: 1,
            overrides: None,
        };
        client.run(&main, &run).await.unwrap().remove(0).id
    }

    /// A node of the operator that also is in the pool.
    pub async fn node(&self, name: &str) -> FakeNode {
        let token = self.token(CreateJoinToken { pool: true, shared: false }).await;
        FakeNode::join(token, name).await.unwrap()
    }

    /// One raw request through the socket.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &[u8],
    ) -> (StatusCode, Value) {
        let stream = UnixStream::connect(self.folder.path().join("run/server.sock")).await.unwrap();
        let mut request =
            Request::builder().method(method).uri(path).header("host", "control.margay");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        exchange(stream, request, body).await
    }

    /// One raw request over TCP, with a bearer token or without.
    pub async fn raw_tls(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> (StatusCode, Value) {
        let credential = self.credential();
        let stream = TcpStream::connect(&credential.address).await.unwrap();
        let stream = connect_pinned(&credential.ca_fingerprint, stream).await;
        let mut request =
            Request::builder().method(method).uri(path).header("host", "control.margay");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        exchange(stream, request, body).await
    }
}

/// A client over TCP whose credential has a name.
pub fn client(credential: Credential) -> Client {
    Client::tls(credential, |_| unreachable!("it is not taken over"))
}

pub fn config(folder: &Path, listener: TcpListener) -> Config {
    Config {
        certificate: None,
        data_dir: folder.join("server"),
        socket: folder.join("run/server.sock"),
        listener: Some(listener),
        advertise: None,
        tenant: "acme".parse().unwrap(),
        acme: None,
        ingress_ports: Some("20000-20009".parse().unwrap()),
        domain: "localhost".to_owned(),
        registry: Some("127.0.0.1:5000".to_owned()),
        resolver: Arc::new(TestImages),
    }
}

/// A control plane in `folder`, for ever.
pub async fn serve_in(folder: &Path) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    serve(config(folder, listener), std::future::pending()).await.unwrap();
}

pub async fn connect_pinned(ca_fingerprint: &str, stream: TcpStream) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(tls::pinned_client(ca_fingerprint));
    connector.connect(tls::control_plane(), stream).await.unwrap()
}

async fn exchange<S>(stream: S, request: http::request::Builder, body: &[u8]) -> (StatusCode, Value)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Polls until `look` finds something, for ten seconds.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: never");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Does what an agent does, without doing anything.
#[derive(Clone)]
pub struct FakeNode {
    pub id: NodeId,
    pub response: JoinResponse,
    pub boot: String,
    pub revision: i64,
    pub seq: u64,
    pub tasks: BTreeMap<(Tenant, TaskId), TaskStatus>,
    pub waiting: Vec<WaitingRequests>,
    address: String,
    key: Vec<u8>,
}

pub fn node_spec() -> NodeSpec {
    NodeSpec {
        capacity: Resources { cpu_millis: 4000, memory_bytes: 4 << 30 },
        zone: "a".to_owned(),
        architecture: "amd64".to_owned(),
        runs_native: false,
        ingress_address: Some("127.0.0.1:8443".to_owned()),
        // It asks for the pool, and has no say in that.
        labels: BTreeMap::from([("pool".to_owned(), "true".to_owned())]),
        version: String::new(),
    }
}

impl FakeNode {
    pub async fn join(token: JoinToken, name: &str) -> Result<Self, (StatusCode, Value)> {
        let key = KeyPair::generate().unwrap();
        let csr_pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({
            "version": 1, "secret": token.secret, "name": name, "csr_pem": csr_pem,
            "spec": node_spec(),
        });
        let stream = TcpStream::connect(&token.address).await.unwrap();
        let stream = connect_pinned(&token.ca_fingerprint, stream).await;
        let request =
            Request::builder().method("POST").uri("/v1/node/join").header("host", "control.margay");
        let (status, answer) = exchange(stream, request, body.to_string().as_bytes()).await;
        if status != StatusCode::CREATED {
            return Err((status, answer));
        }
        let response: JoinResponse = serde_json::from_value(answer).unwrap();
        Ok(Self {
            id: response.node.clone(),
            response,
            boot: "b1".to_owned(),
            revision: 0,
            seq: 0,
            tasks: BTreeMap::new(),
            waiting: Vec::new(),
            address: token.address,
            key: key.serialize_der(),
        })
    }

    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let with = (self.response.certificate_pem.as_str(), self.key.as_slice());
        self.ask_with(with, method, path, body).await
    }

    /// Asks with another certificate of this CA, and its key.
    pub async fn ask_with(
        &self,
        (certificate_pem, key): (&str, &[u8]),
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let config = self.config(certificate_pem, key);
        let name = ServerName::try_from("control.margay").unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        exchange(
            stream,
            Request::builder().method(method).uri(path).header("host", "control.margay"),
            body.as_bytes(),
        )
        .await
    }

    fn config(&self, certificate_pem: &str, key: &[u8]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.response.ca_pem.as_bytes()).unwrap())
            .unwrap();
        let leaf = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
        let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(key.to_vec()).into();
        tls::client(vec![leaf], key, roots).unwrap()
    }

    /// Its side of the API, with its certificate.
    pub fn api(&self) -> ApiClient {
        ApiClient::tls(&self.address, self.config(&self.response.certificate_pem, &self.key))
    }

    /// The certificate of this node's ingress, and its key.
    pub async fn ingress_certificate(&self) -> (String, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let csr_pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({ "version": 1, "csr_pem": csr_pem });
        let (status, answer) = self.ask(Method::POST, "/v1/node/ingress", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let pem = answer["certificate_pem"].as_str().unwrap().to_owned();
        (pem, key.serialize_der())
    }

    pub async fn renew(&mut self) -> (StatusCode, Value) {
        let key = KeyPair::generate().unwrap();
        let csr_pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let (status, answer) = self
            .ask(Method::POST, "/v1/node/renew", &json!({ "version": 1, "csr_pem": csr_pem }))
            .await;
        if status == StatusCode::OK {
            (self.response, self.key) =
                (serde_json::from_value(answer.clone()).unwrap(), key.serialize_der());
        }
        (status, answer)
    }

    pub async fn poll(&mut self) -> DesiredSet {
        let (status, answer) = self
            .ask(Method::GET, &format!("/v1/node/desired?after={}", self.revision), &Value::Null)
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let set: DesiredSet = serde_json::from_value(answer).unwrap();
        self.revision = set.revision;
        set
    }

    /// What an agent would do about `set`, at once.
    pub fn act(&mut self, set: &DesiredSet) {
        self.tasks.retain(|key, _| {
            set.tasks.iter().any(|task| (&task.tenant, &task.id) == (&key.0, &key.1))
        });
        for task in &set.tasks {
            let container = &task.definition.containers[0];
            let status = TaskStatus {
                phase: if task.stop { TaskPhase::Stopped } else { TaskPhase::Running },
                reason: None,
                ready: None,
                host: None,
                containers: vec![ContainerStatus {
                    name: container.name.clone(),
                    image: container.digest.unwrap(),
                    phase: if task.stop { ContainerPhase::Exited } else { ContainerPhase::Running },
                    exit_code: task.stop.then_some(143),
                    reason: None,
                    idle: false,
                    health: None,
                    restarts: 0,
                    ports: vec![PublishedPort {
                        transport: spec::Transport::Tcp,
                        container_port: 80,
                        address: None,
                        host_port: None,
                    }],
                    usage: Usage { runs: self.seq, ..Usage::default() },
                }],
            };
            self.tasks.insert((task.tenant.clone(), task.id.clone()), status);
        }
    }

    pub async fn report(&mut self) -> StatusCode {
        self.seq += 1;
        let tasks = self.tasks.iter().map(|((tenant, id), status)| ReportedTask {
            tenant: tenant.clone(),
            id: id.clone(),
            status: status.clone(),
            requests: None,
        });
        let report = NodeReport {
            version: 1,
            boot: self.boot.clone(),
            seq: self.seq,
            revision: self.revision,
            spec: node_spec(),
            tasks: tasks.collect(),
            time: None,
            problems: Vec::new(),
            waiting: self.waiting.clone(),
        };
        self.ask(Method::POST, "/v1/node/report", &serde_json::to_value(report).unwrap()).await.0
    }

    /// Is an agent until the task is aborted: polls, acts, and reports at least once a second.
    pub fn run(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                if let Ok(set) = tokio::time::timeout(Duration::from_secs(1), self.poll()).await {
                    self.act(&set);
                }
                self.report().await;
            }
        })
    }
}

/// A definition of one container that serves `image` on port 80.
pub fn definition(family: &str, image: &str) -> spec::TaskDefinition {
    let container = json!({ "name": "web", "image": image, "ports": [{ "container_port": 80 }] });
    serde_json::from_value(json!({ "family": family, "containers": [container] })).unwrap()
}

pub fn modes(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o777
}
