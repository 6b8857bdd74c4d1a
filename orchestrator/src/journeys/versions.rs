//! Agents of other versions.

use http::StatusCode;
use serde_json::json;

use super::fixture::{TestControlPlane, node_spec};

#[tokio::test]
async fn an_agent_that_is_too_new_is_told_to_wait_for_its_control_plane() {
    let plane = TestControlPlane::start().await;
    let spec = |version: &str| {
        let mut spec = serde_json::to_value(node_spec()).unwrap();
        spec["version"] = version.into();
        spec
    };
    let own = env!("CARGO_PKG_VERSION");
    for (body, newer) in [
        (json!({ "version": 2, "spec": spec("9.0.0"), "more": 1 }), "9.0.0"),
        (json!({ "version": 1, "spec": spec("9.0.0"), "more": 1 }), "9.0.0"),
        (json!({ "version": 2 }), "a later version"),
        (json!({ "version": 1, "spec": spec(own), "more": 1 }), ""),
        (json!([]), ""),
    ] {
        let text = body.to_string();
        let answer = plane.raw_tls("POST", "/v1/node/join", None, text.as_bytes()).await;
        let (message, hint) = (answer.1["message"].to_string(), answer.1["hint"].to_string());
        assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{answer:?}");
        let want = format!("this agent is of margay {newer}, and its control plane of {own}");
        assert_eq!(message.contains(&want), !newer.is_empty(), "{message}");
        assert_eq!(hint.contains("upgrade the control plane first"), !newer.is_empty(), "{hint}");
    }
}
