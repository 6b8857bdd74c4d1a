//! Certificates of hosts by ACME, from Pebble of Debian, which asks the ingress of the platform.
//! `tests/run` fetches it; without, a journey says that it did not run.

use std::{
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    certificates::certificate_at,
    stage::{Stage, eventually},
    up::{Up, serve_cats},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];

fn programs() -> Option<PathBuf> {
    let root = std::env::var_os("MARGAY_TEST_AUTHORITY").map(PathBuf::from)?;
    let found = root.join("usr/bin/pebble").exists().then(|| root.join("usr/bin"));
    if found.is_none() {
        println!("SKIPPED: no authority was run: as root, tests/run fetches it");
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// For connections and for datagrams: a DNS server takes both, and ends where it gets one alone.
fn port_of_both_kinds() -> u16 {
    let ports = std::iter::repeat_with(free_port).take(50);
    let mut both = ports.filter(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok());
    both.next().expect("a port")
}

/// A certificate for this machine that is no authority's, and so can be trusted as a server's.
fn server_certificate(stage: &Stage, name: &str) -> Option<(String, String)> {
    let file = |ending: &str| stage.path(&format!("{name}.{ending}")).display().to_string();
    let (chain, key) = (file("crt"), file("key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", &key, "-out", &chain])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .output();
    made.ok().filter(|made| made.status.success()).map(|_| (chain, key))
}

/// A process that runs until it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// An authority at ports of its own, which is started and stopped.
struct Authority<'a> {
    stage: &'a Stage,
    programs: PathBuf,
    port: u16,
    management: u16,
    dns_port: u16,
    /// Leads every name to this machine.
    _dns: Server,
    /// By which its own server is trusted.
    chain: String,
    key: String,
    running: Option<Server>,
}

impl<'a> Authority<'a> {
    fn new(stage: &'a Stage) -> Option<Self> {
        let programs = programs()?;
        let (chain, key) = server_certificate(stage, "authority")?;
        let dns_port = port_of_both_kinds();
        let mut dns = Command::new(programs.join("pebble-challtestsrv"));
        dns.args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-defaultIPv6", ""]);
        dns.args(["-management", &format!("127.0.0.1:{}", free_port())]);
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        dns.current_dir(stage.path("")).stdin(Stdio::null());
        dns.stdout(Stdio::null()).stderr(Stdio::null());
        let dns = Server(dns.spawn().expect("a DNS server"));
        eventually("the DNS server listens", || TcpStream::connect(("127.0.0.1", dns_port)).ok());
        let (port, management, running) = (free_port(), free_port(), None);
        Some(Self { stage, programs, port, management, dns_port, _dns: dns, chain, key, running })
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// Starts it without anything that it knew before. It looks for hosts at `http_port`.
    fn start(&mut self, http_port: &str, external_accounts: bool) {
        self.running = None;
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.chain,
            "privateKey": self.key,
            "httpPort": http_port.parse::<u16>().expect("a port"),
            "tlsPort": 1,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": external_accounts,
            "externalAccountMACKeys": { "customer-1": EXTERNAL_KEY },
        }});
        let config = self.stage.write("pebble.json", config.to_string());
        let mut pebble = Command::new(self.programs.join("pebble"));
        pebble.arg("-config").arg(config);
        pebble.args(["-dnsserver", &format!("127.0.0.1:{}", self.dns_port)]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let log = fs::File::create(self.stage.path("pebble.log")).expect("a log");
        pebble.current_dir(self.stage.path("")).stdin(Stdio::null());
        pebble.stdout(log).stderr(Stdio::null());
        let mut server = Server(pebble.spawn().expect("an authority"));
        eventually("the authority listens", || {
            let ended = server.0.try_wait().expect("an authority");
            assert!(ended.is_none(), "{:?}", fs::read_to_string(self.stage.path("pebble.log")));
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        self.running = Some(server);
    }

    fn stop(&mut self) {
        self.running = None;
    }

    /// The root that signs what it issues, as a file.
    fn root(&self) -> String {
        let url = format!("https://localhost:{}/roots/0", self.management);
        let root = Command::new("curl").args(["-sS", "--cacert", &self.chain, &url]).output();
        let root = root.expect("curl");
        assert!(root.status.success(), "{root:?}");
        self.stage.write("root.pem", root.stdout).display().to_string()
    }
}

/// In base64, as authorities show it.
const EXTERNAL_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

fn port_of(address: &str) -> &str {
    address.rsplit(':').next().expect("a port")
}

fn json(stage: &Stage, words: &[&str]) -> Vec<Value> {
    let out = stage.margay([words, &["--output", "json"]].concat()).ok();
    serde_json::from_str(&out).expect("a list")
}

/// What is said of the order for `host`, if there is one.
fn order(stage: &Stage, host: &str) -> Option<Value> {
    json(stage, &["certificate", "orders"]).into_iter().find(|order| order["host"] == host)
}

/// What an order has failed with, as soon as that has `want` in it.
fn fails_with(stage: &Stage, host: &str, want: &str) -> Value {
    let mut last = None;
    let failed = || {
        let order = order(stage, host)?;
        if last.as_ref() != Some(&order) {
            println!("{order}"); // shown when it fails otherwise
            last = Some(order.clone());
        }
        order["error"].as_str().is_some_and(|error| error.contains(want)).then_some(order)
    };
    eventually(want, failed)
}

/// The certificate of this name, as soon as there is one with another fingerprint than `before`.
fn issued(stage: &Stage, name: &str, before: Option<&Value>) -> Value {
    let found = || {
        let mut all = json(stage, &["certificate", "ls"]).into_iter();
        let own = all.find(|one| one["name"] == name)?;
        let is_new = before.is_none_or(|before| before["fingerprint"] != own["fingerprint"]);
        is_new.then_some(own)
    };
    eventually("a certificate", found)
}

/// Whether a client that trusts `root` alone gets a page of `host`.
fn is_served(up: &Up, root: &str, host: &str) -> Option<()> {
    let to = format!("{host}:443:{}", up.ingress);
    let page = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--cacert", root, "--connect-to", &to])
        .args(["-o", "/dev/null", "-w", "%{http_code}", &format!("https://{host}/")])
        .output()
        .expect("curl");
    (page.stdout == b"200").then_some(())
}

#[test]
fn a_host_gets_a_certificate_by_acme_keeps_it_and_is_told_why_there_is_none() {
    let stage = Stage::new();
    let Some(mut authority) = Authority::new(&stage) else { return };
    let (url, ca) = (authority.url(), authority.chain.clone());
    let flags = ["--acme", &url, "--acme-ca", &ca, "--acme-agree", "--acme-email", "ops@a.example"];
    let up = Up::start_with(&stage, &flags);
    serve_cats(&stage, &up, 1);
    let (host, name) = ("shop.example", "acme-shop-example");
    let update = |more: &[&str]| {
        stage.margay([&["service", "update", "cats"], &CLUSTER[..], more].concat()).ok()
    };
    // The authority cannot be reached; a host of this machine is not asked for.
    update(&["--host", host, "--host", "cats.corp.internal", "--host", "*.shop.example"]);
    let failed = fails_with(&stage, host, &format!("cannot reach `localhost:{}`", authority.port));
    assert!(failed["hint"].as_str().is_some_and(|hint| hint.contains("--acme")), "{failed}");
    assert_eq!(json(&stage, &["certificate", "orders"]).len(), 1);
    let explained = stage.margay(["explain", "route", host]).ok();
    assert!(explained.contains("no certificate was issued for `shop.example`"), "{explained}");
    assert!(explained.contains("margay certificate renew acme-shop-example"), "{explained}");
    let events = said_of(&stage, name);
    assert!(events.contains("it could not be ordered for `shop.example`"), "{events}");

    // It finds something else in the place of the host.
    authority.start(&free_port().to_string(), false);
    stage.margay(["certificate", "renew", name]).ok();
    let failed = fails_with(&stage, host, "the authority did not find `shop.example` here");
    assert!(failed["hint"].as_str().is_some_and(|hint| hint.contains("port 80")), "{failed}");
    assert_eq!(failed["failures"], 2);

    // It finds the host, and has forgotten the account meanwhile.
    authority.start(port_of(&up.ingress), false);
    stage.margay(["certificate", "renew", name]).ok();
    let first = issued(&stage, name, None);
    assert_eq!((&first["acme"], &first["hosts"][0]), (&true.into(), &host.into()));
    let root = authority.root();
    eventually("it is shown", || is_served(&up, &root, host));
    assert_eq!(order(&stage, host), None, "the order has ended");
    let listed = stage.margay(["certificate", "ls"]).ok();
    assert!(listed.contains("ACME") && !listed.contains("corp"), "{listed}");
    assert!(said_of(&stage, name).contains("it was issued by ACME, for `shop.example`"));
    let account = stage.home().join("server/acme.json");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(account).expect("an account").permissions().mode() & 0o777, 0o600);

    // Another one in its place, and none where that fails.
    stage.margay(["certificate", "renew", name]).ok();
    let second = issued(&stage, name, Some(&first));
    authority.stop();
    stage.margay(["certificate", "renew", name]).ok();
    fails_with(&stage, host, "cannot reach");
    let listed = stage.margay(["certificate", "ls"]).ok();
    assert!(listed.contains("failed, again in"), "{listed}");
    assert_eq!(issued(&stage, name, None)["fingerprint"], second["fingerprint"]);
    assert!(is_served(&up, &root, host).is_some(), "the one before is shown");

    // One that is uploaded takes its place, and is not ordered.
    let (chain, key) = (stage.path("own.crt"), stage.path("own.key"));
    let Some((chain, key)) = certificate_at(&chain, &key, "DNS:own.example") else { return };
    stage.margay(["certificate", "create", "own", "--cert", &chain, "--key", &key]).ok();
    let err = stage.margay(["certificate", "renew", "own"]).fails(1);
    assert!(err.contains("certificate `own` was uploaded, not ordered"), "{err}");
    let err = stage.margay(["certificate", "renew", "none"]).fails(1);
    assert!(err.contains("margay certificate orders"), "{err}");
    // The order goes with the host.
    update(&["--no-hosts"]);
    eventually("the order is gone", || order(&stage, host).is_none().then_some(()));
    up.end();
    drop(authority);
    stage.is_empty();
}

/// The events of a certificate, as a record of each.
fn said_of(stage: &Stage, name: &str) -> String {
    let filter = format!("certificate={name}");
    stage.margay(["events", "--since", "1h", "--until", "0s", "--filter", &filter]).ok()
}

#[test]
fn an_authority_is_asked_as_its_customer_and_trusted_by_its_certificate_alone() {
    let stage = Stage::new();
    let Some(mut authority) = Authority::new(&stage) else { return };
    let url = authority.url();
    let (other, _) = server_certificate(&stage, "other").expect("a certificate");
    let eab = stage.write("eab", EXTERNAL_KEY).display().to_string();
    let ca = authority.chain.clone();
    let trusted = ["--acme", &url, "--acme-agree", "--acme-ca", &ca];
    let customer = ["--acme-eab-key-id", "customer-1", "--acme-eab-key", &eab];
    let mut cats = false;
    for (flags, want) in [
        (vec!["--acme", &url, "--acme-agree", "--acme-ca", &other], Some("is not trusted")),
        (trusted.to_vec(), Some("(externalAccountRequired)")),
        ([&trusted[..], &customer].concat(), None),
    ] {
        let up = Up::start_with(&stage, &flags);
        authority.start(port_of(&up.ingress), true);
        if !std::mem::replace(&mut cats, true) {
            serve_cats(&stage, &up, 1);
            let update = ["service", "update", "cats", "--host", "shop.example"];
            stage.margay([&update[..], &CLUSTER].concat()).ok();
        } else {
            stage.margay(["certificate", "renew", "acme-shop-example"]).ok();
        }
        match want {
            Some(want) => {
                let failed = fails_with(&stage, "shop.example", want);
                let hint = failed["hint"].as_str().unwrap_or_default();
                assert!(hint.contains("--acme-"), "{failed}");
            }
            None => drop(issued(&stage, "acme-shop-example", None)),
        }
        up.end();
    }
    drop(authority);
    stage.is_empty();
}

#[test]
fn what_is_wrong_with_the_flags_of_an_authority_is_said_before_anything_starts() {
    let stage = Stage::new();
    let text = stage.write("text", "no certificate").display().to_string();
    for (flags, code, want) in [
        (&["--acme", "letsencrypt"][..], 2, "--acme-agree"),
        (&["--acme", "http://a.example/dir", "--acme-agree"], 2, "use a URL of https"),
        (&["--acme-agree"], 2, "--acme <URL>"),
        (&["--acme", "letsencrypt", "--acme-agree", "--acme-email", "ops"], 2, "use one address"),
        (&["--acme", "letsencrypt", "--acme-agree", "--acme-ca", &text], 1, "no certificate in `"),
        (
            &[
                "--acme",
                "letsencrypt",
                "--acme-agree",
                "--acme-eab-key-id",
                "x",
                "--acme-eab-key",
                &text,
            ],
            1,
            "no key in base64 in `",
        ),
    ] {
        for verb in ["up", "server"] {
            let err = stage.margay([&[verb], flags].concat()).fails(code);
            assert!(err.contains(want), "{verb} {flags:?}: {err}");
        }
    }
    stage.is_empty();
}
