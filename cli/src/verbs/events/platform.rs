use std::time::Duration;

use orchestrator::Client;
use spec::{ObjectEvent, Timestamp};
use tokio::time::sleep;

use crate::output::{Output, line, now, printable};

/// How often new events are asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Prints events of a platform: those that there are since then, and what comes until then.
pub async fn watch(
    client: &Client,
    mut keys: Vec<(&'static str, String)>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    output: Output,
) -> anyhow::Result<()> {
    let mut seen: Vec<ObjectEvent> = Vec::new();
    // As for this machine: without --since only what comes, unless an end is asked for.
    let mut since = since.unwrap_or(if until.is_some() { Timestamp::default() } else { now() });
    loop {
        keys.retain(|(key, _)| *key != "since");
        keys.push(("since", since.to_string()));
        let events = client.events(&keys).await?;
        for event in events.iter().filter(|event| !seen.contains(event)) {
            if until.is_none_or(|until| event.at <= until) {
                print(event, output)?;
            }
        }
        // Others may have happened in the same millisecond.
        since = events.last().map_or(since, |last| last.at);
        seen = events;
        if until.is_some_and(|until| now() >= until) {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

fn print(event: &ObjectEvent, output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        line(format_args!("{}", serde_json::to_string(event)?));
        return Ok(());
    }
    let ObjectEvent { at, subject, object, message, .. } = event;
    let text = format!("{at} {} {object} {message}", crate::verbs::word(subject));
    line(format_args!("{}", printable(&text)));
    Ok(())
}
