use std::borrow::Cow;

use futures_util::future::BoxFuture;
use http::Method;
use spec::{
    Cluster, Node, Service, Task, TaskDefinition, UsageBatch,
    wire::{
        DesiredSet, Fault, JoinRequest, JoinResponse, NodeReport, RenewRequest, RouteTable,
        TaskSecrets, UsageTaken,
    },
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema},
};

use crate::{
    api::*,
    call::{Call, Reply},
    error::Refusal,
    handle::{
        clusters, definitions, identity, ledger, nodes, secrets, services, system, tasks, wire,
    },
};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody who can connect. The join of a node is here: its secret is in its body.
    Anyone,
    /// Whoever holds a credential, for the objects of its tenant; and the operator, for its own.
    Tenant,
    /// The owner of the control plane alone.
    Operator,
    /// A node, by its certificate, for itself.
    Node,
}

/// One thing that the API can do. The table of these is the API: the server, the authorisation, the
/// OpenAPI document and the tests all read it, so nothing can be in one of them and not in the
/// others.
pub(crate) struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub summary: &'static str,
    pub body: Option<Shape>,
    pub answer: Answer,
    pub handle: fn(Call) -> BoxFuture<'static, Result<Reply, Refusal>>,
}

/// What comes back.
pub(crate) enum Answer {
    Nothing,
    One(Shape),
    Page(Shape),
    Anything,
}

/// A type in the OpenAPI document.
pub(crate) struct Shape {
    pub name: fn() -> Cow<'static, str>,
    pub schema: fn() -> RefOr<schema::Schema>,
    pub parts: fn(&mut Vec<(String, RefOr<schema::Schema>)>),
}

impl Shape {
    pub const fn of<T: ToSchema + PartialSchema>() -> Self {
        Self { name: T::name, schema: T::schema, parts: T::schemas }
    }
}

macro_rules! routes {
    ($($method:ident $path:literal $access:ident, $summary:literal, ($($body:ty)?) -> $answer:ident $(($shape:ty))?, $handle:path;)+) => {
        /// The whole API.
        pub(crate) static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            summary: $summary,
            body: routes!(@body $($body)?),
            answer: Answer::$answer $((Shape::of::<$shape>()))?,
            handle: |call| Box::pin($handle(call)),
        }),+];
    };
    (@body) => { None };
    (@body $body:ty) => { Some(Shape::of::<$body>()) };
}

routes! {
    GET "/v1/health" Anyone, "Whether the control plane answers", () -> One(Health), system::health;
    GET "/v1/openapi.json" Anyone, "This document", () -> Anything, system::openapi;
    GET "/v1/principal" Tenant, "Who the control plane takes you for", () -> One(Caller), identity::principal;

    POST "/v1/clusters" Tenant, "Create a cluster", (CreateCluster) -> One(Cluster), clusters::create_cluster;
    GET "/v1/clusters" Tenant, "List clusters", () -> Page(Cluster), clusters::list;
    GET "/v1/clusters/{cluster}" Tenant, "Show a cluster", () -> One(Cluster), clusters::show;
    DELETE "/v1/clusters/{cluster}" Tenant, "Delete an empty cluster", () -> Nothing, clusters::delete;

    POST "/v1/task-definitions" Tenant, "Register the next revision of a task definition", (TaskDefinition) -> One(RegisteredDefinition), definitions::register;
    GET "/v1/task-definitions" Tenant, "List active revisions", () -> Page(RegisteredDefinition), definitions::list;
    GET "/v1/task-definitions/{definition}" Tenant, "Show a revision", () -> One(RegisteredDefinition), definitions::show;
    DELETE "/v1/task-definitions/{definition}" Tenant, "Deregister a revision", () -> Nothing, definitions::deregister;

    POST "/v1/clusters/{cluster}/tasks" Tenant, "Run tasks", (RunTask) -> Page(Task), tasks::run;
    GET "/v1/tasks" Tenant, "List tasks", () -> Page(Task), tasks::list;
    GET "/v1/tasks/{task}" Tenant, "Show a task", () -> One(Task), tasks::show;
    POST "/v1/tasks/{task}/stop" Tenant, "Stop a task", () -> One(Task), tasks::stop;

    POST "/v1/clusters/{cluster}/services" Tenant, "Create a service", (CreateService) -> One(Service), services::create_service;
    GET "/v1/services" Tenant, "List services", () -> Page(Service), services::list;
    GET "/v1/clusters/{cluster}/services" Tenant, "List the services of a cluster", () -> Page(Service), services::list_in;
    GET "/v1/clusters/{cluster}/services/{service}" Tenant, "Show a service", () -> One(Service), services::show;
    PATCH "/v1/clusters/{cluster}/services/{service}" Tenant, "Change a service", (UpdateService) -> One(Service), services::update;
    DELETE "/v1/clusters/{cluster}/services/{service}" Tenant, "Delete a service", () -> Nothing, services::delete;

    GET "/v1/nodes" Tenant, "List nodes", () -> Page(Node), nodes::list;
    GET "/v1/nodes/{node}" Tenant, "Show a node", () -> One(Node), nodes::show;
    DELETE "/v1/nodes/{node}" Tenant, "Remove a node", () -> Nothing, nodes::remove;
    POST "/v1/nodes/{node}/drain" Tenant, "Drain a node, or end that", (Drain) -> One(Node), nodes::drain;
    GET "/v1/volumes" Tenant, "List volumes", () -> Page(Volume), nodes::volumes;
    DELETE "/v1/volumes/{volume}" Tenant, "Forget where a volume is", () -> Nothing, nodes::forget_volume;

    POST "/v1/secrets" Tenant, "Create a secret", (CreateSecret) -> One(Secret), secrets::create_secret;
    GET "/v1/secrets" Tenant, "List secrets, without their values", () -> Page(Secret), secrets::list;
    GET "/v1/secrets/{secret}" Tenant, "Show a secret, without its value", () -> One(Secret), secrets::show;
    DELETE "/v1/secrets/{secret}" Tenant, "Remove a secret that nothing uses", () -> Nothing, secrets::remove;

    POST "/v1/join-tokens" Tenant, "Create a token with which one node may join", (CreateJoinToken) -> One(CreatedJoinToken), identity::create_join_token;
    POST "/v1/credentials" Operator, "Create a credential for a tenant", (CreateCredential) -> One(Credential), identity::create_credential;
    GET "/v1/usage" Tenant, "Show what was used", () -> One(UsageReport), ledger::report;
    GET "/v1/routes" Tenant, "Show who answers for which host name", () -> One(RouteTable), system::routes;

    POST "/v1/node/join" Anyone, "Become a node, with a join token", (JoinRequest) -> One(JoinResponse), wire::join;
    POST "/v1/node/renew" Node, "Get the next certificate", (RenewRequest) -> One(JoinResponse), wire::renew;
    GET "/v1/node/desired" Node, "Wait for a desired set other than `after`, for 30 seconds", () -> One(DesiredSet), wire::desired;
    POST "/v1/node/report" Node, "Say what is seen", (NodeReport) -> Nothing, wire::report;
    GET "/v1/node/secrets/{tenant}/{task}" Node, "Have the secrets of a task that this node runs", () -> One(TaskSecrets), wire::secrets;
    POST "/v1/node/usage" Node, "Hand usage to the ledger", (UsageBatch) -> One(UsageTaken), ledger::take;
}

/// What stands in the place of each `{name}` of a path.
pub(crate) type Params = Vec<(&'static str, String)>;

/// The route of a request and its parameters; or whether the path alone is known.
pub(crate) fn find(method: &Method, path: &str) -> Result<(&'static Route, Params), Refusal> {
    let mut known = false;
    for route in ROUTES {
        if let Some(params) = matched(route.path, path) {
            known = true;
            if route.method == *method {
                return Ok((route, params));
            }
        }
    }
    match known {
        true => {
            let message = format!("`{path}` has no {method}");
            Err(Refusal::new(http::StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message))
        }
        false => Err(Refusal::new(
            http::StatusCode::NOT_FOUND,
            "no-route",
            "there is nothing at this path",
        )
        .hint("GET /v1/openapi.json lists every path")),
    }
}

fn matched(pattern: &'static str, path: &str) -> Option<Params> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut params = Params::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(params),
            (Some(want), Some(text)) => {
                match want.strip_prefix('{').and_then(|want| want.strip_suffix('}')) {
                    Some(name) if !text.is_empty() => params.push((name, text.to_owned())),
                    None if want == text => {}
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
}

/// The API as an OpenAPI 3.1 document.
pub(crate) fn openapi() -> serde_json::Value {
    use serde_json::{Map, Value, json};
    let mut shapes = Vec::new();
    let mut reference = |shape: &Shape| {
        shapes.push(((shape.name)().into_owned(), (shape.schema)()));
        (shape.parts)(&mut shapes);
        json!({ "$ref": format!("#/components/schemas/{}", (shape.name)()) })
    };
    let fault = reference(&Shape::of::<Fault>());
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let mut paths = Map::new();
    for route in ROUTES {
        let answer = match &route.answer {
            Answer::Nothing => None,
            Answer::Anything => Some(json!({})),
            Answer::One(shape) => Some(reference(shape)),
            Answer::Page(shape) => Some(json!({
                "type": "object", "required": ["items"],
                "properties": { "items": { "type": "array", "items": reference(shape) }, "next": { "type": "string" } },
            })),
        };
        let done = match answer {
            Some(schema) => json!({ "description": "Done", "content": content(schema) }),
            None => json!({ "description": "Done" }),
        };
        let mut operation = json!({
            "summary": route.summary,
            "x-access": format!("{:?}", route.access).to_lowercase(),
            "responses": { "2XX": done, "default": { "description": "Refused", "content": content(fault.clone()) } },
        });
        if let Some(shape) = &route.body {
            operation["requestBody"] =
                json!({ "required": true, "content": content(reference(shape)) });
        }
        let named =
            route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = named
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let queried: &[&str] = match &route.answer {
            Answer::Page(_) if route.method == Method::GET => &["after", "limit"],
            _ if route.path == "/v1/node/desired" => &["after"],
            _ if route.path == "/v1/nodes/{node}" && route.method == Method::DELETE => &["force"],
            _ => &[],
        };
        parameters.extend(
            queried
                .iter()
                .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } })),
        );
        if route.method == Method::POST && route.access == Access::Tenant {
            parameters.push(
                json!({ "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "maxLength": 64 } }),
            );
        }
        operation["parameters"] = parameters.into();
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_lowercase()] = operation;
    }
    let shapes: Map<String, Value> = shapes
        .into_iter()
        .map(|(name, schema)| (name, serde_json::to_value(schema).expect("a schema is JSON")))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "margay control plane", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "schemas": shapes,
            "securitySchemes": { "credential": { "type": "http", "scheme": "bearer" }, "node": { "type": "mutualTLS" } },
        },
    })
}
