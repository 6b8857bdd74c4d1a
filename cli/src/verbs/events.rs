mod platform; // events of services, tasks and nodes of a platform

use std::ops::ControlFlow;

use node::events::{self, Event, Period, Subject};
use serde_json::{Value, json};

use crate::{
    control::Control,
    filter::{Filter, Filters},
    flags::point_in_time,
    home::Home,
    listing::{Lines, lenient},
    output::{Output, line, now, printable},
    serve::block_on,
};

/// Show what happens to tasks, images, volumes and services, as it happens
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --until it goes on until it is interrupted. The log of a home keeps
some ten thousand events. With a filter by service, node, cluster or certificate, or for a task that is not of
this machine, the events are those of a platform: they are kept with their objects.

Filters: type (task, image, volume), event, task, image, volume, label, service, node, cluster, certificate
Fields:  .Type .Action .Actor.ID .Actor.Attributes .Time .TimeNano .ID .From .Status .Scope

Example:
  margay events --since 10m --until 0s --filter event=die --format '{{.Actor.Attributes.name}}'"
)]
pub struct Args {
    /// Begin with what happened since: 10m, 2026-11-27T10:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End with what happened until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show only events like this: event=die, type=task, task=web
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// Print each event as a Go template says, or as `json`
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

const KEYS: [&str; 12] = [
    "type",
    "event",
    "task",
    "container",
    "image",
    "volume",
    "label",
    "scope",
    "service",
    "node",
    "cluster",
    "certificate",
];

/// Those of what only a platform has.
const PLATFORM_KEYS: [&str; 4] = ["service", "node", "cluster", "certificate"];

fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &KEYS)
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let template = lenient(self.format.as_deref())?;
        let filters = Filters(&self.filter);
        filters.check("type", &["task", "container", "image", "volume"])?;
        let now = now();
        let time = |text: &Option<String>| match text {
            Some(text) => point_in_time(text, now).map(Some),
            None => Ok(None),
        };
        let (since, until) = (time(&self.since)?, time(&self.until)?);
        if let Some(keys) = self.of_platform(home) {
            let client = self.control.client(home)?;
            return block_on(platform::watch(&client, keys, since, until, self.output));
        }
        // As with Docker: without --since only what comes, unless an end is asked for.
        let since = since.or((until.is_none()).then_some(now));
        let mut failed = None;
        let period = Period { since, until, follow: true };
        events::read(home.node(), period, |event| {
            if !is_wanted(&event, filters) {
                return ControlFlow::Continue(());
            }
            match self.print(&event, template.as_ref()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The keys of a platform's events, where those are meant.
    fn of_platform(&self, home: &Home) -> Option<Vec<(&'static str, String)>> {
        let filters = Filters(&self.filter);
        let of = |key: &'static str| filters.values(key).map(move |value| (key, value.to_owned()));
        let mut keys: Vec<_> = PLATFORM_KEYS.into_iter().flat_map(of).collect();
        let is_elsewhere = |task: &str| {
            node::tasks::find(home.node(), task).is_err()
                && matches!(self.control.reachable(home), Ok(Some(_)))
        };
        let are_all = !keys.is_empty();
        keys.extend(of("task").filter(|(_, task)| are_all || is_elsewhere(task)));
        (!keys.is_empty()).then_some(keys)
    }

    fn print(&self, event: &Event, template: Option<&Lines>) -> anyhow::Result<()> {
        if let Some(template) = template {
            return template.print(&docker(event));
        }
        if self.output.is_json() {
            line(format_args!("{}", serde_json::to_string(event)?));
            return Ok(());
        }
        let Event { time, action, id, attributes, .. } = event;
        let pairs: Vec<String> =
            attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let more =
            if pairs.is_empty() { String::new() } else { format!(" ({})", pairs.join(", ")) };
        let text = format!("{time} {} {action} {id}{more}", word(event.subject));
        line(format_args!("{}", printable(&text)));
        Ok(())
    }
}

fn word(subject: Subject) -> &'static str {
    match subject {
        Subject::Task => "task",
        Subject::Image => "image",
        Subject::Volume => "volume",
    }
}

fn is_wanted(event: &Event, filters: Filters<'_>) -> bool {
    let subject = word(event.subject);
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let is_named = |subject: Subject, text: &str| {
        event.subject == subject
            && (event.id.starts_with(text)
                || attribute("name") == Some(text)
                || attribute("name").is_some_and(|name| name.strip_suffix(":latest") == Some(text)))
    };
    let is_image = |text: &str| {
        is_named(Subject::Image, text)
            || (event.subject == Subject::Task && attribute("image") == Some(text))
    };
    let is_event = |text: &str| {
        // `health_status` is asked for without the state that follows it.
        event.action == text || event.action.split(':').next() == Some(text)
    };
    filters.any("type", |text| text == subject || (text == "container" && subject == "task"))
        && filters.any("event", is_event)
        && filters.any("task", |text| is_named(Subject::Task, text))
        && filters.any("container", |text| is_named(Subject::Task, text))
        && filters.any("volume", |text| is_named(Subject::Volume, text))
        && filters.any("image", is_image)
        && filters.any("scope", |text| text == "local")
        && filters.labels("label", attribute)
}

/// The structure of Docker's events.
fn docker(event: &Event) -> Value {
    let millis = event.time.millis();
    let kind = match event.subject {
        Subject::Task => "container",
        Subject::Image => "image",
        Subject::Volume => "volume",
    };
    let from = event.attributes.get("image").cloned().unwrap_or_default();
    json!({
        "Type": kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "Scope": "local",
        "time": millis / 1000,
        "Time": millis / 1000,
        "timeNano": millis.saturating_mul(1_000_000),
        "TimeNano": millis.saturating_mul(1_000_000),
        "status": event.action,
        "Status": event.action,
        "id": event.id,
        "ID": event.id,
        "from": from,
        "From": from,
    })
}
