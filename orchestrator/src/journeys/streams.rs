//! Streams whose client or node may not go on.

use std::time::Duration;

use http::Method;
use net::{ApiRequest, FrameSender, FrameStream};
use spec::{Frame, LogQuery, StreamRequests, TaskId};
use tokio::time::timeout;

use super::fixture::{FakeNode, TestControlPlane, client, until};
use crate::{Client, CredentialScope};

/// Of a stream that nothing ends this is the limit of the test.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Takes up the next stream that a client asks for, and begins.
async fn take_up(node: &FakeNode) -> (FrameSender, FrameStream) {
    let (status, asked) = node.ask(Method::GET, "/v1/node/streams", &serde_json::Value::Null).await;
    assert_eq!(status, http::StatusCode::OK, "{asked}");
    let asked: StreamRequests = serde_json::from_value(asked).unwrap();
    let (sender, body) = net::frame_body();
    sender.offer(&Frame::Started).unwrap();
    let path = format!("/v1/node/streams/{}", asked.streams[0].id);
    let request = ApiRequest::new(Method::POST, &path, TIME_MAX);
    (sender, node.api().open(request, Some(body)).await.unwrap())
}

/// Follows the log of `task`, from when its node has begun.
async fn follow(client: &Client, node: &FakeNode, task: &TaskId) -> (FrameStream, FrameSender) {
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let (client_side, node_side) =
        tokio::join!(client.logs(task, None, &query), timeout(TIME_MAX, take_up(node)));
    let (sender, from_client) = node_side.expect("the node is asked");
    // The node reads what comes, as an agent does.
    tokio::spawn(async move {
        let mut from_client = from_client;
        while let Ok(Some(_)) = from_client.next().await {}
    });
    let mut stream = client_side.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(Frame::Started));
    (stream, sender)
}

/// The code and the message with which a stream ends.
async fn end(stream: &mut FrameStream, node: &FrameSender) -> (String, String) {
    let ended = timeout(TIME_MAX, async {
        loop {
            let _ = node.offer(&Frame::Alive);
            match timeout(Duration::from_secs(1), stream.next()).await {
                Ok(Ok(Some(Frame::End(end)))) => return end.fault.expect("with a reason"),
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
    });
    let fault = ended.await.expect("it ends");
    (fault.code, fault.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_credential_of_its_client_and_with_its_node() {
    let plane = TestControlPlane::start().await;
    let node = plane.node("n1").await;
    let agent = node.clone().run();
    let task = plane.run_one(&plane.client, "cats").await;
    until("it is placed", || async { plane.client.task(&task).await.unwrap().spec.node.map(drop) })
        .await;
    let credential = plane.credential_of("acme", CredentialScope::Read).await;
    let (tenant, name) = (credential.tenant.clone(), credential.name.clone().unwrap());
    let other = client(plane.credential_of("acme", CredentialScope::Read).await);
    let (mut first, first_node) = follow(&client(credential), &node, &task).await;
    let (mut second, second_node) = follow(&other, &node, &task).await;

    plane.client.rotate_credential(&tenant, &name).await.unwrap();
    let (code, message) = end(&mut first, &first_node).await;
    assert_eq!(code, "credential-ended");
    assert_eq!(message, format!("credential `{name}` is good no longer: the stream ends"));
    let silent = timeout(Duration::from_millis(100), second.next()).await;
    assert!(silent.is_err(), "another client goes on: {silent:?}");

    agent.abort();
    plane.client.force_remove_node(&node.id).await.unwrap();
    let (code, message) = end(&mut second, &second_node).await;
    assert_eq!(code, "node-removed");
    assert_eq!(message, "node `n1` was removed: the stream ends");
}
