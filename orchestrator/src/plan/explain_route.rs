//! Why a host name is answered as it is.

use spec::{ClusterName, Explanation, ExplanationCause, RoutePath, RouteRule};

use super::explain::because;
use crate::state::records::ServiceKey;

/// Why a host name is answered as it is. `service` is the one that has it, with its ready copies.
pub(crate) fn route(
    host: &str,
    service: Option<(&ServiceKey, u32, Explanation)>,
    backends: usize,
    (known, domain): (&[String], &str),
) -> Explanation {
    let subject = format!("host name `{host}`");
    let Some((key, ready, service)) = service else {
        let why = match known {
            [] => "you have no service".to_owned(),
            known => format!("your services answer for: {}", known.join(", ")),
        };
        let is_below = host.strip_suffix(domain).is_some_and(|start| start.ends_with('.'));
        let change = match is_below {
            true => format!("margay service create NAME --cluster {}", cluster_of(host)),
            false => format!("margay service update NAME --cluster CLUSTER --host {host}"),
        };
        let causes = vec![because(why, Some(change))];
        return Explanation {
            subject,
            state: "it leads to no service of yours".to_owned(),
            causes,
        };
    };
    let (_, cluster, name) = key;
    let state = match backends {
        0 if ready > 0 => "it is answered with 503: its copies have no port for it".to_owned(),
        0 => "it is answered with 503: no copy is ready".to_owned(),
        1 => "it leads to one copy".to_owned(),
        many => format!("it leads to {many} copies"),
    };
    let mut causes =
        vec![because(format!("it is of service `{name}` of cluster `{cluster}`"), None)];
    if backends == 0 && ready > 0 {
        let port = "a port in the task definition: ports = [{ container_port = PORT }]".to_owned();
        causes.push(because("no container of its definition has an HTTP port", Some(port)));
    }
    causes.extend(service.causes);
    Explanation { subject, state, causes }
}

/// Which path of a host is that of which service, where one service does not have them all.
pub(crate) fn rules(rules: &[RouteRule]) -> Option<ExplanationCause> {
    let has_all = |rule: &RouteRule| rule.path == RoutePath::all() && rule.services.len() == 1;
    if matches!(rules, [rule] if has_all(rule)) {
        return None;
    }
    let named = |rule: &RouteRule| {
        let all: u64 = rule.services.values().map(|weight| u64::from(*weight)).sum();
        let service = |(host, weight): (&String, &u32)| match rule.services.len() {
            1 => host.clone(),
            _ => format!("{host} with {weight} of {all}"),
        };
        let services: Vec<String> = rule.services.iter().map(service).collect();
        format!("`{}` to {}", rule.path, services.join(" and "))
    };
    let paths: Vec<String> = rules.iter().map(named).collect();
    Some(because(format!("its paths lead, the first that fits: {}", paths.join("; ")), None))
}

fn cluster_of(host: &str) -> String {
    let second = host.split('.').nth(1).and_then(|label| label.parse::<ClusterName>().ok());
    second.map_or("NAME".to_owned(), |cluster| cluster.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(explanation: &Explanation) -> String {
        let causes = explanation.causes.iter().map(|cause| {
            let change = cause.change.as_ref().map_or(String::new(), |line| format!(" -> {line}"));
            format!("\n{}{change}", cause.why)
        });
        format!("{}: {}", explanation.subject, explanation.state) + &causes.collect::<String>()
    }

    #[test]
    fn paths_and_shares_of_a_host_are_told_where_several_services_have_it() {
        let rule = |path: &str, services: &[(&str, u32)]| RouteRule {
            path: path.parse().unwrap(),
            services: services.iter().map(|(host, part)| ((*host).to_owned(), *part)).collect(),
        };
        let said = |all: &[RouteRule]| rules(all).map(|cause| cause.why);
        assert_eq!(said(&[rule("/", &[("a.main", 1)])]), None);
        assert_eq!(
            said(&[rule("/api", &[("a.main", 99), ("b.main", 1)]), rule("/", &[("c.main", 1)])]),
            Some(
                "its paths lead, the first that fits: `/api` to a.main with 99 of 100 and b.main \
                 with 1 of 100; `/` to c.main"
                    .to_owned()
            )
        );
        assert!(said(&[rule("/api", &[("a.main", 1)])]).is_some(), "others are answered with 404");
    }

    #[test]
    fn a_host_name_without_a_service_names_those_that_there_are() {
        let known = ["cats.main.localhost".to_owned()];
        for (host, change) in [
            ("dogs.main.localhost", "margay service create NAME --cluster main"),
            (
                "dogs.example.com",
                "margay service update NAME --cluster CLUSTER --host dogs.example.com",
            ),
        ] {
            assert_eq!(
                told(&route(host, None, 0, (&known, "localhost"))),
                format!(
                    "host name `{host}`: it leads to no service of yours\n\
                     your services answer for: cats.main.localhost -> {change}"
                )
            );
        }
    }
}
