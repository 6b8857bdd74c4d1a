//! How a replica of a service is asked whether it is ready: as its definition says, or its image,
//! or by its first port.

use std::time::Duration;

use spec::{
    ContainerDefinition, HealthCheck, HealthProbe, LaunchType, Protocol, wire::DesiredTask,
};

use crate::{
    launch::Launch,
    tasks::{Check, Kind, Reach},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// Without a probe of its own a replica is asked until it is ready, and no more.
const UNTIL_READY_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);
/// A Java server on a busy machine takes this long. A Wasm program has nothing to start.
const NATIVE_START_PERIOD: Duration = Duration::from_secs(30);
const WASM_START_PERIOD: Duration = Duration::from_secs(3);
/// Until it is ready: a deployment waits for it.
const START_INTERVAL: Duration = Duration::from_millis(250);
/// The same of a program that runs in the container.
const COMMAND_START_INTERVAL: Duration = Duration::from_secs(1);
const RETRIES: u32 = 3;
/// Of a program without a port: one that ends at its start ends sooner.
const RUNS_FOR: Duration = Duration::from_secs(1);
/// Below these an answer counts as well: where a path was named to ask, and where none was.
const BELOW_ERRORS: u16 = 400;
const BELOW_SERVER_ERRORS: u16 = 500;

/// What is known of a container when it is decided how it is asked.
struct Known<'a> {
    definition: &'a ContainerDefinition,
    kind: Kind,
    launch_type: LaunchType,
    /// The check of its image.
    image: Option<Check>,
    /// The ports that the ingress reaches.
    ingress_ports: &'a [u16],
}

/// The check of a container of `task`. One that is no replica is asked what its image says.
pub(super) fn check_of(
    task: &DesiredTask,
    definition: &ContainerDefinition,
    launch: &Launch,
) -> Option<Check> {
    if task.service.is_none() {
        return launch.health_check();
    }
    let known = Known {
        definition,
        kind: launch.kind,
        launch_type: task.launch_type,
        image: launch.image_health_check(),
        ingress_ports: &launch.ingress_ports(),
    };
    check(&known)
}

fn check(known: &Known<'_>) -> Option<Check> {
    let usual = HealthProbe::default();
    let probe = known.definition.health.as_ref().unwrap_or(&usual);
    if probe.none {
        return None;
    }
    let check = explicit(probe, known).or_else(|| known.image.clone().map(of_image));
    let check = check.unwrap_or_else(|| implied(known));
    // A probe is a run like any other: in the pool a copy that is asked would never be idle.
    let sleeps = known.kind == Kind::Wasm && known.launch_type == LaunchType::Pool;
    Some(Check { until_healthy: check.until_healthy || sleeps, ..timed(check, probe) })
}

/// As its definition says.
fn explicit(probe: &HealthProbe, known: &Known<'_>) -> Option<Check> {
    if let Some(path) = &probe.http {
        let port = probe.port.or_else(|| first_port(known, Protocol::Http))?;
        return Some(reaching(known.kind, http(port, path, BELOW_ERRORS)));
    }
    if let Some(port) = probe.tcp {
        return Some(reaching(known.kind, Reach::Tcp { port }));
    }
    let words = probe.command.clone()?;
    let test = ["CMD".to_owned()].into_iter().chain(words).collect();
    let check = Check::of(&HealthCheck { test, ..HealthCheck::default() }, None)?;
    let start_interval = COMMAND_START_INTERVAL;
    Some(Check { start_interval, ..timed_as(check, &reaching(known.kind, Reach::Runs)) })
}

/// The image's check, which its replicas are asked from their start on: Docker would ask for the
/// first time after an interval, and a failure before that does not count here either.
fn of_image(check: Check) -> Check {
    Check {
        start_period: check.start_period.max(check.interval),
        start_interval: check.start_interval.min(COMMAND_START_INTERVAL),
        ..check
    }
}

fn implied(known: &Known<'_>) -> Check {
    let first = known.definition.ports.first();
    let reach = match first.map(|port| (port.protocol, port.container_port)) {
        Some((Protocol::Http, port)) if known.ingress_ports.contains(&port) => {
            http(port, "/", BELOW_SERVER_ERRORS)
        }
        // What answers over HTTP/2 may have no page to ask for.
        Some((Protocol::Tcp | Protocol::Http2, port)) if known.kind == Kind::Native => {
            Reach::Tcp { port }
        }
        Some(_) | None => Reach::Runs,
    };
    let interval = if reach == Reach::Runs { RUNS_FOR } else { UNTIL_READY_INTERVAL };
    let start_period = match reach {
        Reach::Runs => Duration::ZERO,
        Reach::Http { .. } | Reach::Tcp { .. } => reaching(known.kind, Reach::Runs).start_period,
    };
    Check { interval, start_period, until_healthy: true, ..reaching(known.kind, reach) }
}

fn http(port: u16, path: &str, below: u16) -> Reach {
    Reach::Http { port, path: path.to_owned(), below }
}

fn first_port(known: &Known<'_>, protocol: Protocol) -> Option<u16> {
    let mut ports = known.definition.ports.iter();
    ports.find(|port| port.protocol == protocol).map(|port| port.container_port)
}

fn reaching(kind: Kind, reach: Reach) -> Check {
    let test = match &reach {
        Reach::Http { port, path, .. } => {
            vec!["HTTP".to_owned(), port.to_string(), path.clone()]
        }
        Reach::Tcp { port } => vec!["TCP".to_owned(), port.to_string()],
        Reach::Runs => vec!["RUNS".to_owned()],
    };
    Check {
        test,
        command: Vec::new(),
        interval: INTERVAL,
        timeout: TIMEOUT,
        start_period: match kind {
            Kind::Wasm => WASM_START_PERIOD,
            Kind::Native => NATIVE_START_PERIOD,
        },
        start_interval: START_INTERVAL,
        retries: RETRIES,
        reach: Some(reach),
        until_healthy: false,
    }
}

/// `check` at the times of another.
fn timed_as(check: Check, times: &Check) -> Check {
    let Check { interval, timeout, start_period, start_interval, retries, .. } = *times;
    Check { interval, timeout, start_period, start_interval, retries, ..check }
}

/// With the times that its definition gives.
fn timed(check: Check, probe: &HealthProbe) -> Check {
    let time = |ms: Option<u64>, usual| ms.map_or(usual, Duration::from_millis);
    Check {
        interval: time(probe.interval_ms, check.interval),
        timeout: time(probe.timeout_ms, check.timeout),
        start_period: time(probe.start_period_ms, check.start_period),
        retries: probe.retries.unwrap_or(check.retries),
        ..check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(check: Option<Check>) -> String {
        let Some(check) = check else { return "none".to_owned() };
        let ms = |time: Duration| time.as_millis();
        format!(
            "{} every {} within {} after {} x{}{}",
            check.test.join(" "),
            ms(check.interval),
            ms(check.timeout),
            ms(check.start_period),
            check.retries,
            if check.until_healthy { " until healthy" } else { "" }
        )
    }

    #[test]
    fn a_replica_is_asked_what_was_said_then_what_its_image_says_then_at_its_port() {
        let image = HealthCheck {
            test: vec!["CMD".to_owned(), "/check".to_owned()],
            ..HealthCheck::default()
        };
        let image = || Check::of(&image, None);
        let (http, tcp) =
            (r#"[{ "container_port": 80 }]"#, r#"[{ "container_port": 25, "protocol": "tcp" }]"#);
        for (ports, health, kind, pool, image, want) in [
            (
                http,
                "null",
                Kind::Wasm,
                false,
                None,
                "HTTP 80 / every 1000 within 2000 after 3000 x3 until healthy",
            ),
            (
                http,
                "null",
                Kind::Native,
                false,
                None,
                "HTTP 80 / every 1000 within 2000 after 30000 x3 until healthy",
            ),
            (
                tcp,
                "null",
                Kind::Native,
                false,
                None,
                "TCP 25 every 1000 within 2000 after 30000 x3 until healthy",
            ),
            (
                r#"[{ "container_port": 25, "protocol": "http2" }]"#,
                "null",
                Kind::Native,
                false,
                None,
                "TCP 25 every 1000 within 2000 after 30000 x3 until healthy",
            ),
            (
                tcp,
                "null",
                Kind::Wasm,
                false,
                None,
                "RUNS every 1000 within 2000 after 0 x3 until healthy",
            ),
            (
                "[]",
                "null",
                Kind::Native,
                false,
                None,
                "RUNS every 1000 within 2000 after 0 x3 until healthy",
            ),
            (
                http,
                "null",
                Kind::Native,
                false,
                image(),
                "CMD /check every 30000 within 30000 after 30000 x3",
            ),
            (
                http,
                "null",
                Kind::Wasm,
                true,
                image(),
                "CMD /check every 30000 within 30000 after 30000 x3 until healthy",
            ),
            (http, r#"{ "none": true }"#, Kind::Native, false, image(), "none"),
            (
                http,
                r#"{ "http": "/up" }"#,
                Kind::Wasm,
                false,
                image(),
                "HTTP 80 /up every 5000 within 2000 after 3000 x3",
            ),
            (
                http,
                r#"{ "http": "/up" }"#,
                Kind::Wasm,
                true,
                None,
                "HTTP 80 /up every 5000 within 2000 after 3000 x3 until healthy",
            ),
            (
                http,
                r#"{ "command": ["/c", "a"], "interval_ms": 100, "start_period_ms": 0, "retries": 1 }"#,
                Kind::Native,
                false,
                None,
                "CMD /c a every 100 within 2000 after 0 x1",
            ),
            (
                http,
                r#"{ "start_period_ms": 60000 }"#,
                Kind::Wasm,
                false,
                None,
                "HTTP 80 / every 1000 within 2000 after 60000 x3 until healthy",
            ),
        ] {
            let definition: ContainerDefinition = serde_json::from_str(&format!(
                r#"{{ "name": "app", "image": "app", "ports": {ports}, "health": {health} }}"#
            ))
            .unwrap();
            let known = Known {
                definition: &definition,
                kind,
                launch_type: if pool { LaunchType::Pool } else { LaunchType::Node },
                image,
                ingress_ports: &[80],
            };
            assert_eq!(shown(check(&known)), want, "{ports} {health} {kind:?}");
        }
    }

    #[test]
    fn a_port_that_the_program_was_not_granted_is_not_asked() {
        let definition: ContainerDefinition = serde_json::from_str(
            r#"{ "name": "app", "image": "app", "ports": [{ "container_port": 80 }] }"#,
        )
        .unwrap();
        let known = Known {
            definition: &definition,
            kind: Kind::Wasm,
            launch_type: LaunchType::Node,
            image: None,
            ingress_ports: &[],
        };
        assert_eq!(check(&known).unwrap().reach, Some(Reach::Runs));
    }
}
