//! Proxies in front of registry and ingress: nginx, haproxy and Caddy of Debian, with the lines of
//! `docs/guide-tls.md`. `tests/run` fetches them; without, a journey says that it did not run.

use std::{
    fs,
    net::{IpAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    certificates::{certificate_for, curl_with},
    http::{exchange, outside},
    images::build,
    stage::{Stage, eventually, get, samples},
    up::{HOST, Up, page_is_served, serve_cats},
};

fn root() -> Option<PathBuf> {
    let root = std::env::var_os("MARGAY_TEST_PROXIES").map(PathBuf::from)?;
    let found = root.join("usr/sbin/nginx").exists().then_some(root);
    if found.is_none() {
        println!("SKIPPED: no proxy was run: as root, tests/run fetches them");
    }
    found
}

/// A port of `address` that is free now.
fn free(address: IpAddr) -> u16 {
    TcpListener::bind((address, 0)).expect("a port").local_addr().expect("an address").port()
}

/// The first block of the guide that has `line` in it.
fn block(line: &str) -> String {
    let guide = samples().join("../docs/guide-tls.md");
    let guide = fs::read_to_string(guide).expect("the guide");
    let blocks = guide.split("```").skip(1).step_by(2);
    let found =
        blocks.into_iter().find(|block| block.contains(line)).expect("a block of the guide");
    found.split_once('\n').expect("a language").1.to_owned()
}

/// A proxy that runs until it is dropped.
struct Proxy(Child);

impl Proxy {
    fn start(stage: &Stage, root: &Path, program: &str, arguments: &[&str], at: &str) -> Self {
        let mut command = Command::new(root.join(program));
        command.args(arguments).current_dir(stage.path("")).env_clear();
        command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
        command.env("HOME", stage.path("")).env("XDG_DATA_HOME", stage.path("caddy"));
        let log = fs::File::create(stage.path("proxy.log")).expect("a log");
        let errors = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut proxy = Self(command.spawn().expect("a proxy"));
        eventually("the proxy listens", || {
            let ended = proxy.0.try_wait().expect("a proxy");
            let log = || fs::read_to_string(stage.path("proxy.log"));
            assert!(ended.is_none(), "{program}: {:?}", log());
            TcpStream::connect(at).ok()
        });
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Where a proxy speaks TLS, and with which certificate.
struct Front {
    address: IpAddr,
    registry: u16,
    ingress: u16,
    authority: String,
    chain: String,
    key: String,
}

/// An authority, a certificate of it for `names`, and the key of that.
fn issued(stage: &Stage, names: &str) -> Option<(String, String, String)> {
    let file = |name: &str| stage.path(name).display().to_string();
    let (authority, own_key) = certificate_for(stage, "DNS:authority")?;
    let (request, chain, key) = (file("leaf.csr"), file("leaf.crt"), file("leaf.key"));
    let extensions = stage.write("extensions", format!("subjectAltName={names}\n"));
    let extensions = extensions.display().to_string();
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let requested = ["req", "-subj", "/CN=proxy", "-keyout", &key, "-out", &request];
    let signed = ["x509", "-req", "-days", "2", "-CA", &authority, "-CAkey", &own_key];
    let more = ["-CAcreateserial", "-extfile", &extensions, "-in", &request, "-out", &chain];
    for arguments in [[&requested[..], &new].concat(), [&signed[..], &more].concat()] {
        let output = Command::new("openssl").args(&arguments).output().expect("openssl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    Some((authority, chain, key))
}

impl Front {
    fn new(stage: &Stage) -> Option<Self> {
        let address = outside()?;
        let names = format!("DNS:registry.example.com,DNS:{HOST},IP:{address}");
        let (authority, chain, key) = issued(stage, &names)?;
        let (registry, ingress) = (free(address), free(address));
        Some(Self { address, registry, ingress, authority, chain, key })
    }

    fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    fn nginx(&self, stage: &Stage, root: &Path, up: &Up) -> Proxy {
        let server = block("proxy_set_header X-Forwarded-For");
        let server = |port: u16, to: &str| {
            let (chain, key) = (&self.chain, &self.key);
            let listen = format!(
                "listen {}:{port} ssl; ssl_certificate {chain}; ssl_certificate_key {key};",
                self.address
            );
            server.replace("listen 443 ssl;", &listen).replace("127.0.0.1:5000", to)
        };
        let registry = server(self.registry, &up.registry.replace("localhost", "127.0.0.1"));
        let ingress = server(self.ingress, &up.ingress);
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = paths.iter().map(|name| format!("{name}_temp_path tmp;\n")).collect();
        stage.write(
            "nginx.conf",
            format!(
                "daemon off; pid nginx.pid; error_log stderr; user root;\nevents {{}}\n\
                 http {{ access_log off;\n{paths}{registry}{ingress}}}\n"
            ),
        );
        let folder = stage.path("").display().to_string();
        let arguments = ["-p", folder.as_str(), "-c", "nginx.conf"];
        Proxy::start(stage, root, "usr/sbin/nginx", &arguments, &self.at(self.registry))
    }

    fn caddy(&self, stage: &Stage, root: &Path, up: &Up) -> Proxy {
        let tls = format!(" {{\n    tls {} {}\n", self.chain, self.key);
        let sites = block("reverse_proxy 127.0.0.1:8000");
        let sites = sites
            .replace(" {\n", &tls)
            .replace("registry.example.com", &format!("https://{}", self.at(self.registry)))
            .replace("*.example.com", &format!("https://{HOST}:{}", self.ingress))
            .replace("127.0.0.1:5000", &up.registry.replace("localhost", "127.0.0.1"))
            .replace("127.0.0.1:8000", &up.ingress);
        stage.write(
            "Caddyfile",
            format!("{{\n    admin off\n    auto_https disable_redirects\n}}\n{sites}"),
        );
        let arguments = ["run", "--adapter", "caddyfile", "--config", "Caddyfile"];
        Proxy::start(stage, root, "usr/bin/caddy", &arguments, &self.at(self.registry))
    }

    fn haproxy(&self, stage: &Stage, root: &Path, up: &Up) -> Proxy {
        let pair = [&self.chain, &self.key].map(|path| fs::read_to_string(path).expect("PEM"));
        let pem = stage.write("haproxy.pem", pair.concat()).display().to_string();
        let config = block("option forwardfor");
        let config = config
            .replace("bind :443 ssl crt /etc/haproxy/example.com.pem", "BIND")
            .replace("127.0.0.1:5000", &up.registry.replace("localhost", "127.0.0.1"))
            .replace("127.0.0.1:8000", &up.ingress);
        let binds = format!(
            "bind {} ssl crt {pem}\n    bind {} ssl crt {pem}",
            self.at(self.registry),
            self.at(self.ingress)
        );
        let config = config
            .replace("BIND", &binds)
            .replace("registry.example.com", &format!("registry.example.com {}", self.address));
        stage.write("haproxy.cfg", config);
        let arguments = ["-f", "haproxy.cfg", "-db"];
        Proxy::start(stage, root, "usr/sbin/haproxy", &arguments, &self.at(self.registry))
    }

    /// What a client on another machine does through the proxy.
    fn carries_clients(&self, name: &str, stage: &Stage) {
        let at = self.at(self.registry);
        let forged = ["-H", "X-Forwarded-For: 198.51.100.6", "-H", "X-Real-IP: 198.51.100.6"];
        let challenge = curl_with(&self.authority, &format!("https://{at}/v2/"), &forged);
        let realm = format!("realm=\"https://{at}/token\"");
        assert!(challenge.starts_with("HTTP/1.1 401") || challenge.starts_with("HTTP/2 401"));
        assert!(challenge.contains(&realm), "{name}: {challenge}");

        let other = Stage::new();
        build(&other, "hello").ok();
        let password = fs::read_to_string(stage.home().join("registry/password")).expect("text");
        let login = ["login", "-u", "me", "--password-stdin", "--ca", &self.authority, &at];
        assert_eq!(other.margay_fed(login, &password).ok(), "Login Succeeded\n", "{name}");
        let image = format!("{at}/me/{name}:v1");
        other.margay(["tag", "hello", &image]).ok();
        other.margay(["push", &image]).ok();
        other.margay(["rmi", "--force", &image]).ok();
        other.margay(["pull", &image]).ok();
        // The registry knows the client by its own address, whatever that has claimed.
        let log = |address: &str| {
            stage.margay(["audit", "--server", "registry", "--address", address]).ok()
        };
        let own = log(&self.address.to_string());
        assert!(own.contains(&format!("/v2/me/{name}/manifests/v1")), "{name}: {own}");
        let forged = log("198.51.100.6");
        assert!(!forged.contains("/v2/"), "{name}: {forged}");

        let to = format!("{HOST}:{}:{}", self.ingress, self.at(self.ingress));
        let url = format!("https://{HOST}:{}/", self.ingress);
        let page = curl_with(&self.authority, &url, &["--connect-to", &to]);
        assert!(page.contains(" 200") && page.contains("<html"), "{name}: {page}");
    }
}

#[test]
fn images_and_pages_go_through_the_proxies_of_the_guide() {
    let Some(root) = root() else { return };
    let stage = Stage::new();
    let Some(front) = Front::new(&stage) else { return };
    let up = Up::start_with(&stage, &["--trusted-proxy", "127.0.0.1"]);
    serve_cats(&stage, &up, 1);
    eventually("the page", || page_is_served(&up));
    type Start = fn(&Front, &Stage, &Path, &Up) -> Proxy;
    let proxies: [(&str, Start); 3] =
        [("nginx", Front::nginx), ("caddy", Front::caddy), ("haproxy", Front::haproxy)];
    for (name, start) in proxies {
        let proxy = start(&front, &stage, &root, &up);
        front.carries_clients(name, &stage);
        drop(proxy);
    }
    up.end();
    stage.is_empty();
}

#[test]
fn haproxy_names_the_client_to_the_ingress_in_both_versions_of_its_protocol() {
    let Some(root) = root() else { return };
    let stage = Stage::new();
    let up = Up::start_with(&stage, &["--trusted-proxy", "127.0.0.1", "--proxy-protocol"]);
    serve_cats(&stage, &up, 1);
    let loopback = IpAddr::from([127, 0, 0, 1]);
    for version in ["send-proxy", "send-proxy-v2"] {
        let at = format!("127.0.0.1:{}", free(loopback));
        stage.write(
            "haproxy.cfg",
            format!(
                "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 30s\n    \
                 timeout server 30s\nlisten pages\n    bind {at}\n    server ingress {} {version}\n",
                up.ingress
            ),
        );
        let arguments = ["-f", "haproxy.cfg", "-db"];
        let proxy = Proxy::start(&stage, &root, "usr/sbin/haproxy", &arguments, &at);
        eventually("the page through the proxy", || {
            get(&at, HOST, "/").filter(|answer| answer.status == 200)
        });
        drop(proxy);
    }
    // A connection of the proxy's machine without its header is not served.
    let plain = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    assert_eq!(exchange(&up.ingress, plain.as_bytes()), "");
    up.end();
    stage.is_empty();
}
