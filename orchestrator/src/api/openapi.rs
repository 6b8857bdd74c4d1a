mod filters; // what the query string of each operation may have

use http::Method;
use serde_json::{Map, Value, json};
use spec::wire::Fault;
use utoipa::openapi::{RefOr, schema};

use super::{
    bodies::BodySize,
    principal::Access,
    routes::{Answer, ROUTES, Route, Shape},
};
use crate::limits::IDEMPOTENCY_KEY_CHARS_MAX;

/// The API as an OpenAPI 3.1 document.
pub(crate) fn openapi() -> Value {
    let mut shapes = Shapes::default();
    let fault = shapes.reference(&Shape::of::<Fault>());
    let mut paths = Map::new();
    for route in ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_lowercase()] = operation(route, &fault, &mut shapes);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "margay control plane", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "schemas": shapes.schemas(),
            "securitySchemes": {
                "credential": {
                    "type": "http", "scheme": "bearer",
                    "description": "An access token of `POST /v1/access-tokens`, which the secret \
                        of a credential gets. Through the Unix socket none is needed.",
                },
                "node": {
                    "type": "mutualTLS",
                    "description": "The certificate that a node was given when it joined",
                },
            },
        },
    })
}

/// Types that some operation refers to.
#[derive(Default)]
struct Shapes(Vec<(String, RefOr<schema::Schema>)>);

impl Shapes {
    fn reference(&mut self, shape: &Shape) -> Value {
        self.0.push(((shape.name)().into_owned(), (shape.schema)()));
        (shape.parts)(&mut self.0);
        json!({ "$ref": format!("#/components/schemas/{}", (shape.name)()) })
    }

    fn schemas(self) -> Map<String, Value> {
        let value = |schema| serde_json::to_value(schema).expect("a schema is JSON");
        self.0.into_iter().map(|(name, schema)| (name, value(schema))).collect()
    }
}

fn operation(route: &Route, fault: &Value, shapes: &mut Shapes) -> Value {
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let frames = || json!({ spec::STREAM_MEDIA_TYPE: { "schema": { "type": "string", "format": "binary" } } });
    let answer = match &route.answer {
        Answer::Nothing => None,
        Answer::Anything => Some(content(json!({}))),
        Answer::Frames => Some(frames()),
        Answer::One(shape) => Some(content(shapes.reference(shape))),
        Answer::Page(shape) => {
            let items = json!({ "type": "array", "items": shapes.reference(shape) });
            Some(content(json!({
                "type": "object", "required": ["items"],
                "properties": { "items": items, "next": { "type": "string" } },
            })))
        }
    };
    let mut responses = Map::new();
    for status in success(route) {
        let done = match &answer {
            Some(content) => json!({ "description": "Done", "content": content }),
            None => json!({ "description": "Done" }),
        };
        responses.insert((*status).to_owned(), done);
    }
    for (status, why) in refusals(route) {
        let refused = json!({ "description": why, "content": content(fault.clone()) });
        responses.insert(status.to_owned(), refused);
    }
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "x-access": format!("{:?}", route.access).to_lowercase(),
        "security": security(route.access),
        "responses": responses,
        "parameters": parameters(route),
    });
    if route.body_size() == BodySize::Stream {
        operation["requestBody"] = json!({ "required": true, "content": frames() });
        if let Some(shape) = &route.body {
            operation["x-first-frame"] = shapes.reference(shape);
        }
    } else if let Some(shape) = &route.body {
        let schema = shapes.reference(shape);
        operation["requestBody"] = json!({ "required": true, "content": content(schema) });
    }
    operation
}

/// What a principal shows: nothing, an access token, or the certificate of a node.
fn security(access: Access) -> Value {
    match access {
        Access::Anyone => json!([]),
        Access::Read | Access::Deploy | Access::Manage | Access::Operator => {
            json!([{ "credential": [] }])
        }
        Access::Node => json!([{ "node": [] }]),
    }
}

/// The statuses of an answer that is none of an error.
fn success(route: &Route) -> &'static [&'static str] {
    let creates = route.method == Method::POST && !route.path.ends_with('}');
    match route.answer {
        Answer::Nothing => &["204"],
        Answer::Frames | Answer::Anything => &["200"],
        Answer::One(_) | Answer::Page(_) if creates => &["200", "201"],
        Answer::One(_) | Answer::Page(_) => &["200"],
    }
}

/// Every status that an error of this route has, with what it means.
fn refusals(route: &Route) -> Vec<(&'static str, &'static str)> {
    let (changes, names) = (route.method != Method::GET, route.path.contains('{'));
    let body = route.body.is_some();
    let streams = matches!(route.answer, Answer::Frames);
    let mut all = vec![
        ("400", "The request is not what this operation takes: `message` says why"),
        ("429", "Too much at one time, or more than the quota: see `Retry-After`"),
        ("503", "It is starting, ending or busy: see `Retry-After`"),
    ];
    if route.access != Access::Anyone || route.path != "/v1/health" {
        all.push(("401", "No valid credential, certificate or secret"));
    }
    if route.access != Access::Anyone {
        all.push(("403", "The credential may not do that"));
    }
    if names || changes {
        all.push(("404", "What the path or the body names is not there"));
    }
    if changes || streams {
        all.push(("409", "The object is not in a state in which that can be done"));
    }
    if changes {
        all.push(("408", "The body took too long"));
        all.push(("507", "The disk of the control plane has no space"));
    }
    if body || changes {
        all.push(("413", "The body, or an object in it, is too large"));
        all.push(("422", "It is well formed, and cannot be done"));
    }
    if streams {
        all.push(("502", "The node of the task broke the stream off"));
        all.push(("504", "The node of the task did not take up the stream"));
    }
    all
}

/// Operations whose names the rule of [`operation_id`] does not tell apart.
const NAMED: &[(&str, &str)] = &[
    ("/v1/quota", "getOwnQuota"),
    ("/v1/openapi.json", "getOpenApi"),
    ("/v1/clusters/{cluster}/services", "listClusterServices"),
];

/// The name of an operation in clients that are generated: what it does and to which object, read
/// from its method and path.
fn operation_id(route: &Route) -> String {
    let named = NAMED.iter().find(|(path, _)| *path == route.path && route.method == Method::GET);
    if let Some((_, id)) = named {
        return (*id).to_owned();
    }
    let parts: Vec<&str> = route.path.trim_start_matches("/v1/").split('/').collect();
    let is_param = |at: usize| parts.get(at).is_some_and(|part| part.starts_with('{'));
    let words = |last: bool| -> String {
        let nouns = parts.iter().enumerate().filter(|(at, _)| !is_param(*at));
        let one = |(at, part): (usize, &&str)| {
            let is_last = parts[at + 1..].iter().all(|part| part.starts_with('{'));
            let singular = is_param(at + 1) || (is_last && last);
            camel(if singular { part.strip_suffix('s').unwrap_or(part) } else { part })
        };
        nouns.map(one).collect()
    };
    let (last, acts) = (parts[parts.len() - 1], !is_param(parts.len() - 1));
    let is_page = matches!(route.answer, Answer::Page(_));
    match route.method.as_str() {
        "GET" if is_page => format!("list{}", words(false)),
        "GET" => format!("get{}", words(false)),
        "DELETE" => format!("delete{}", words(false)),
        "PATCH" => format!("update{}", words(false)),
        "PUT" => format!("put{}", words(false)),
        // A list, which gets one more.
        _ if acts && last.ends_with('s') => format!("create{}", words(true)),
        _ if acts => {
            let verb = camel(last);
            let verb = verb[..1].to_lowercase() + &verb[1..];
            let object = words(false);
            verb + object.strip_suffix(camel(last).as_str()).unwrap_or(&object)
        }
        _ => format!("open{}", words(false)),
    }
}

/// `task-definitions` as `TaskDefinitions`.
fn camel(part: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
    };
    part.split('-').map(word).collect()
}

/// What stands in a path for an object.
fn path_schema(name: &str) -> Value {
    let pattern = match name {
        "definition" => "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?:[1-9][0-9]{0,9}$",
        "secret" => "^[a-z0-9][a-z0-9._-]{0,62}$",
        "host" => "^[a-z0-9.-]{1,253}$",
        "stream" => "^[0-9a-f]+$",
        _ => "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    };
    json!({ "type": "string", "pattern": pattern })
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path =
        route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(
        |name| json!({ "name": name, "in": "path", "required": true, "schema": path_schema(name) }),
    );
    let mut parameters: Vec<Value> = in_path.chain(filters::parameters(route)).collect();
    if route.method == Method::POST && matches!(route.access, Access::Deploy | Access::Manage) {
        let schema = json!({ "type": "string", "minLength": 1,
            "maxLength": IDEMPOTENCY_KEY_CHARS_MAX, "pattern": "^[!-.0-~]+$" });
        parameters.push(json!({ "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A repeated create with the same key does nothing new", "schema": schema }));
    }
    parameters
}
