//! Requests for a service without a replica, which a request brings back.

use spec::{RouteSettings, ServiceRef, wire::Backend};

use super::*;
use crate::ingress::waiting_requests;

/// A table whose service has these replicas, and is brought back by requests.
fn waking(backends: &[Backend]) -> RouteTable {
    let mut table = routes(backends, &[]);
    let wakes = ServiceRef {
        tenant: "me".parse().unwrap(),
        cluster: "main".parse().unwrap(),
        service: "cats".parse().unwrap(),
    };
    let settings = RouteSettings { wakes: Some(wakes), counted: true, ..RouteSettings::default() };
    table.settings.insert(HOST.to_owned(), settings);
    table
}

/// Waits until the agent is told of so many requests.
async fn until_told(site: &Site, want: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let told = waiting_requests(&site.folder);
        let sum = told.map(|all| all.iter().map(|one| one.requests).sum::<u32>());
        if sum == Some(want) {
            return;
        }
        assert!(Instant::now() < deadline, "{want} requests wait, and {sum:?} are told");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_wait_for_the_first_replica_and_the_agent_is_told_so() {
    let site = Site::open("n2", &[], None).await;
    site.share(waking(&[]), &[]);
    until_told(&site, 0).await;
    let post = format!(
        "POST /x HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    );
    let get = format!("GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let waiting = [&post, &get, &post].map(|text| {
        let (address, text) = (site.address, text.clone());
        tokio::spawn(async move { ask(address, &text).await })
    });
    until_told(&site, 3).await;
    // One that goes away leaves its place.
    let mut gone = TcpStream::connect(site.address).await.unwrap();
    gone.write_all(get.as_bytes()).await.unwrap();
    until_told(&site, 4).await;
    drop(gone);
    until_told(&site, 3).await;
    let _a = site.replica("a");
    site.share(waking(&[backend("n2", "a")]), &[]);
    for (answer, want) in waiting.into_iter().zip(["POST /x 5", "GET /x 0", "POST /x 5"]) {
        let (status, text) = answer.await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        assert!(text.contains(want), "{text}");
    }
    until_told(&site, 0).await;
}

#[tokio::test]
async fn a_request_that_no_replica_comes_for_is_refused_in_time_and_may_come_again() {
    let site = Site::open("n2", &[], None).await;
    site.share(waking(&[]), &[]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut text = site.get_until(StatusCode::SERVICE_UNAVAILABLE).await;
    while !text.contains("became ready within 2 s") {
        assert!(Instant::now() < deadline, "{text}");
        text = site.get(HOST).await.1;
    }
    until_told(&site, 0).await;
}
