//! What a guest of this node reaches by the ingress: services of its own tenant, by their names
//! inside, and nothing else.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{
    inside_preface,
    tests::{HOST, Site, backend},
};

async fn ask_inside(site: &Site, preface: &[u8], host: &str) -> String {
    let mut stream = UnixStream::connect(site.folder.inside()).await.unwrap();
    stream.write_all(preface).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    // A connection that is refused is closed under this.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn a_guest_reaches_its_own_tenants_services_by_their_names_inside_and_no_other_host() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _replica = site.replica("a");
    site.get_until(http::StatusCode::OK).await;
    let (me, ann) = (inside_preface("me"), inside_preface("ann"));
    for (preface, host, want) in [
        (&me[..], "cats.main.internal", "HTTP/1.1 200"),
        (&me, "Cats.Main.internal.:80", "HTTP/1.1 200"),
        (&ann, "cats.main.internal", "HTTP/1.1 404"),
        (&me, HOST, "HTTP/1.1 404"),
        (&me, "dogs.main.internal", "HTTP/1.1 404"),
        (&me, "cats.internal", "HTTP/1.1 404"),
        (b"GET / HTTP/1.1\r\n", "cats.main.internal", ""),
    ] {
        let got = ask_inside(&site, preface, host).await;
        assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{host}: {got}");
    }
    // A client of the outside has no names of the inside.
    let (status, _) = site.get("cats.main.internal").await;
    assert_eq!(status, http::StatusCode::NOT_FOUND);
}
