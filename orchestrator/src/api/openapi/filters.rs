//! What the query string of each operation may have.

use http::Method;
use serde_json::{Value, json};

use crate::{
    api::routes::{Answer, Route},
    limits::PAGE_MAX,
};

/// What stands behind the `=` of a key.
#[derive(Clone, Copy)]
enum Kind {
    Label,
    Text,
    Flag,
    Time,
    /// From the first to the second.
    Integer(i64, Option<u64>),
}

/// A key, what it does, and its value.
type Filter = (&'static str, &'static str, Kind);

const TAIL: Filter =
    ("tail", "Only the last so many of the lines that are there and meant", Kind::Integer(0, None));
const GREP: Filter = ("grep", "Only lines that hold this text", Kind::Text);
const CONTAINER: Filter = ("container", "Which container, where there are several", Kind::Label);

/// By method and path.
const FILTERS: &[(&str, &str, &[Filter])] = &[
    (
        "GET",
        "/v1/tasks",
        &[
            ("cluster", "Only those of this cluster", Kind::Label),
            ("service", "Only replicas of this service", Kind::Label),
        ],
    ),
    (
        "GET",
        "/v1/events",
        &[
            ("cluster", "Only those of this cluster", Kind::Label),
            ("service", "Only those of this service and its replicas", Kind::Label),
            ("task", "Only those of this task", Kind::Label),
            ("node", "Only those of this node and the tasks on it", Kind::Label),
            ("certificate", "Only those of this certificate", Kind::Label),
            ("since", "Only those since", Kind::Time),
        ],
    ),
    (
        "GET",
        "/v1/usage/days",
        &[
            ("from", "Only days from that of this time on", Kind::Time),
            ("to", "Only days until that of this time", Kind::Time),
            ("tenant", "Of another tenant, for the operator", Kind::Label),
        ],
    ),
    (
        "GET",
        "/v1/tasks/{task}/logs",
        &[
            CONTAINER,
            ("follow", "Wait for more until the task ends", Kind::Flag),
            TAIL,
            ("since", "Only what was written since", Kind::Time),
            ("until", "Only what was written until then", Kind::Time),
            GREP,
        ],
    ),
    (
        "GET",
        "/v1/clusters/{cluster}/services/{service}/access-log",
        &[
            ("node", "The node whose ingress has logged", Kind::Label),
            ("follow", "Wait for more", Kind::Flag),
            TAIL,
            ("since", "Only requests since", Kind::Time),
            ("until", "Only requests until then", Kind::Time),
            GREP,
        ],
    ),
    ("GET", "/v1/tasks/{task}/stats", &[CONTAINER]),
    ("POST", "/v1/tasks/{task}/exec", &[CONTAINER]),
    (
        "POST",
        "/v1/tasks/{task}/forward",
        &[CONTAINER, ("port", "The port of the container", Kind::Integer(1, Some(65535)))],
    ),
    (
        "GET",
        "/v1/node/desired",
        &[("after", "The revision that the node has", Kind::Integer(i64::MIN, None))],
    ),
    ("DELETE", "/v1/nodes/{node}", &[("force", "Remove it however it is", Kind::Flag)]),
];

/// Of every list.
const PAGES: &[Filter] = &[
    ("after", "`next` of the page before", Kind::Text),
    ("limit", "Items of this page at most", Kind::Integer(1, Some(PAGE_MAX as u64))),
];

/// The keys of the query string of `route`, as parameters of its operation.
pub(super) fn parameters(route: &Route) -> impl Iterator<Item = Value> {
    let is_page = route.method == Method::GET && matches!(route.answer, Answer::Page(_));
    let is_it =
        |row: &&(&str, &str, &[Filter])| (row.0, row.1) == (route.method.as_str(), route.path);
    let own = FILTERS.iter().find(is_it).map_or(&[][..], |row| row.2);
    let pages = if is_page { PAGES } else { &[] };
    pages.iter().chain(own).map(|(name, what, kind)| {
        json!({ "name": name, "in": "query", "required": *name == "port", "description": what,
            "schema": kind.schema() })
    })
}

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Label => {
                json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" })
            }
            Self::Text => json!({ "type": "string", "minLength": 1 }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Time => json!({ "type": "string",
                "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$" }),
            Self::Integer(i64::MIN, _) => json!({ "type": "integer" }),
            Self::Integer(least, None) => json!({ "type": "integer", "minimum": least }),
            Self::Integer(least, Some(most)) => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
        }
    }
}
