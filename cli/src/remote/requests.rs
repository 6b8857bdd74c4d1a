use orchestrator::Client;
use serde::Deserialize;
use spec::{ClusterName, LogQuery, ServiceName};

use super::logs::{Format, Shown, Source, show_all};

/// What is told of a request.
#[derive(Deserialize)]
struct Request {
    time: String,
    client: String,
    method: String,
    scheme: String,
    host: String,
    path: String,
    status: u16,
    bytes: u64,
    #[serde(default)]
    complete: bool,
    duration: f64,
    id: String,
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// Prints the requests that clients made of a service, as the ingresses have logged them.
///
/// # Errors
/// When no ingress can be asked, or none has a log.
pub async fn requests(
    client: &Client,
    (cluster, service): (&ClusterName, &ServiceName),
    query: &LogQuery,
    json: bool,
) -> anyhow::Result<()> {
    let ingresses = client.service_ingresses((cluster, service)).await?;
    let source =
        |node| Source::Ingress { cluster: cluster.clone(), service: service.clone(), node };
    let sources = ingresses.into_iter().map(|one| source(one.node)).collect();
    let format = if json { Format::Lines } else { Format::Request(words) };
    show_all(client, sources, query, Shown { timestamps: false, labels: false, format }).await
}

/// One request in one line; nothing for what is none.
fn words(line: &[u8]) -> Option<String> {
    let request: Request = serde_json::from_slice(line).ok()?;
    let Request { time, client, method, scheme, host, path, status, bytes, duration, .. } =
        &request;
    let mut words = format!(
        "{time} {client} {method} {scheme}://{host}{path} {status} {bytes} {duration:.1}ms {}",
        request.task.as_deref().unwrap_or("-"),
    );
    if !request.complete {
        words.push_str(" incomplete");
    }
    words.extend(request.error.iter().map(|error| format!(" {error}")).collect::<Vec<_>>());
    words.push_str(&format!(" id={}", request.id));
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line() {
        let mut line = serde_json::json!({
            "time": "2026-11-28T07:00:00.000Z", "id": "41fc", "trace": "41fc", "client": "10.0.0.7",
            "scheme": "https", "method": "GET", "host": "shop.example", "path": "/a",
            "protocol": "HTTP/1.1", "status": 200, "bytes": 12, "complete": true, "duration": 1.25,
            "task": "cats-0", "retries": 0, "ejected": 0, "user_agent": "curl",
        });
        let said = words(line.to_string().as_bytes());
        assert_eq!(
            said.as_deref(),
            Some(
                "2026-11-28T07:00:00.000Z 10.0.0.7 GET https://shop.example/a 200 12 1.2ms cats-0 \
                 id=41fc"
            )
        );
        (line["complete"], line["error"]) = (false.into(), "E_TOO_SLOW".into());
        line.as_object_mut().unwrap().remove("task");
        let said = words(line.to_string().as_bytes()).unwrap();
        assert!(said.ends_with(" - incomplete E_TOO_SLOW id=41fc"), "{said}");
        assert_eq!(words(b"no request"), None);
    }
}
