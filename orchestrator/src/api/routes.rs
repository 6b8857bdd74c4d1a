use std::borrow::Cow;

use futures_util::future::BoxFuture;
use http::Method;
use spec::{
    Cluster, EventList, ExecProgram, Explanation, Node, QuotaChange, Service, StreamRequests, Task,
    TaskDefinition, UsageBatch,
    wire::{
        CertificatePair, DesiredSet, Heartbeat, IngressCertificate, JoinRequest, JoinResponse,
        NodeReport, RenewRequest, RouteTable, TaskSecrets, UsageTaken,
    },
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema},
};

use super::{
    bodies::BodySize,
    call::{Call, Reply},
    error::ApiError,
    handlers::{
        access_log, agent, certificates, clusters, credentials, definitions, events, explain,
        hosts, identity, ledger, metrics, node_groups, nodes, quotas, rollouts, secrets, services,
        streams, system, tasks,
    },
    principal::Access,
    types::*,
};
use crate::state::{
    hosts::TenantDomains,
    node_groups::NodeGroup,
    objects::{Certificate, DayUsage, Secret, Volume},
    orders::CertificateOrder,
};

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
    pub handle: fn(Call) -> BoxFuture<'static, Result<Reply, ApiError>>,
}

impl Route {
    /// Whether it changes what clients own. Nodes and metrics report what is so, whatever is
    /// recorded of it.
    pub fn changes(&self) -> bool {
        let reads = self.method == Method::GET
            || self.path == "/v1/access-tokens"
            || self.path.ends_with("/metrics/{metric}");
        !reads && self.access != Access::Node
    }

    pub fn body_size(&self) -> BodySize {
        match self.path {
            "/v1/node/report" => BodySize::Report,
            "/v1/tasks/{task}/exec" | "/v1/tasks/{task}/forward" | "/v1/node/streams/{stream}" => {
                BodySize::Stream
            }
            _ => BodySize::Usual,
        }
    }
}

/// What comes back.
pub(crate) enum Answer {
    Nothing,
    One(Shape),
    Page(Shape),
    Frames,
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
    ($(
        $method:ident $path:literal $access:ident, $summary:literal,
        ($($body:ty)?) -> $answer:ident $(($shape:ty))?, $handle:path;
    )+) => {
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
    GET "/v1/principal" Read, "Show the principal of the caller",
        () -> One(Caller), identity::principal;

    POST "/v1/clusters" Deploy, "Create a cluster",
        (CreateCluster) -> One(Cluster), clusters::create_cluster;
    GET "/v1/clusters" Read, "List clusters", () -> Page(Cluster), clusters::list;
    GET "/v1/clusters/{cluster}" Read, "Show a cluster", () -> One(Cluster), clusters::show;
    DELETE "/v1/clusters/{cluster}" Deploy, "Delete an empty cluster",
        () -> Nothing, clusters::delete;

    POST "/v1/task-definitions" Deploy, "Register the next revision of a task definition",
        (TaskDefinition) -> One(RegisteredDefinition), definitions::register;
    GET "/v1/task-definitions" Read, "List active revisions",
        () -> Page(RegisteredDefinition), definitions::list;
    GET "/v1/task-definitions/{definition}" Read, "Show a revision",
        () -> One(RegisteredDefinition), definitions::show;
    DELETE "/v1/task-definitions/{definition}" Deploy, "Deregister a revision",
        () -> Nothing, definitions::deregister;

    POST "/v1/clusters/{cluster}/tasks" Deploy, "Run tasks", (RunTask) -> Page(Task), tasks::run;
    GET "/v1/tasks" Read, "List tasks", () -> Page(Task), tasks::list;
    GET "/v1/tasks/{task}" Read, "Show a task", () -> One(Task), tasks::show;
    GET "/v1/tasks/{task}/logs" Read, "Read what a container of a task wrote, as it is written",
        () -> Frames, streams::logs;
    GET "/v1/tasks/{task}/stats" Read, "Watch what a container of a task uses",
        () -> Frames, streams::stats;
    POST "/v1/tasks/{task}/exec" Deploy, "Run another program in a container of a task",
        (ExecProgram) -> Frames, streams::exec;
    POST "/v1/tasks/{task}/forward" Deploy, "Connect to a port of a container of a task",
        () -> Frames, streams::forward;
    POST "/v1/tasks/{task}/stop" Deploy, "Stop a task", () -> One(Task), tasks::stop;

    POST "/v1/clusters/{cluster}/services" Deploy, "Create a service",
        (CreateService) -> One(Service), services::create_service;
    GET "/v1/services" Read, "List services", () -> Page(Service), services::list;
    GET "/v1/clusters/{cluster}/services" Read, "List the services of a cluster",
        () -> Page(Service), services::list_in;
    GET "/v1/clusters/{cluster}/services/{service}" Read, "Show a service",
        () -> One(Service), services::show;
    PATCH "/v1/clusters/{cluster}/services/{service}" Deploy, "Change a service",
        (UpdateService) -> One(Service), services::update;
    DELETE "/v1/clusters/{cluster}/services/{service}" Deploy, "Delete a service",
        () -> Nothing, services::delete;

    POST "/v1/clusters/{cluster}/services/{service}/rollout" Deploy,
        "Pause or resume the rollout of a service, or bring an earlier revision back",
        (ChangeRollout) -> One(Service), rollouts::change;
    POST "/v1/clusters/{cluster}/services/{service}/rebalance" Deploy,
        "Spread the replicas of a service anew, one at a time",
        () -> One(Service), rollouts::rebalance;
    GET "/v1/clusters/{cluster}/services/{service}/metrics" Read,
        "List the metrics of a service that clients report",
        () -> Page(ReportedMetric), metrics::list;
    PUT "/v1/clusters/{cluster}/services/{service}/metrics/{metric}" Deploy,
        "Report a metric that a service scales by",
        (PutMetric) -> Nothing, metrics::put;

    GET "/v1/nodes" Read, "List nodes", () -> Page(Node), nodes::list;
    GET "/v1/nodes/{node}" Read, "Show a node", () -> One(Node), nodes::show;
    PATCH "/v1/nodes/{node}" Manage, "Cordon a node, or change its labels and taints",
        (UpdateNode) -> One(Node), nodes::update;
    DELETE "/v1/nodes/{node}" Manage, "Remove a node", () -> Nothing, nodes::remove;
    POST "/v1/nodes/{node}/drain" Manage, "Drain a node, or end that",
        (Drain) -> One(Node), nodes::drain;
    POST "/v1/node-groups" Operator, "Create a node group",
        (CreateNodeGroup) -> One(NodeGroup), node_groups::create_group;
    GET "/v1/node-groups" Operator, "List node groups", () -> Page(NodeGroup), node_groups::list;
    GET "/v1/node-groups/{group}" Operator, "Show a node group",
        () -> One(NodeGroup), node_groups::show;
    PATCH "/v1/node-groups/{group}" Operator, "Change a node group",
        (UpdateNodeGroup) -> One(NodeGroup), node_groups::update;
    DELETE "/v1/node-groups/{group}" Operator, "Delete a node group that has no machines",
        () -> Nothing, node_groups::remove;
    GET "/v1/node-group-requests" Operator, "List what is to be done for machines of node groups",
        () -> Page(NodeGroupRequest), node_groups::requests;
    POST "/v1/node-groups/{group}/machines/{node}/token" Operator,
        "Create the token with which a machine that is asked for joins",
        () -> One(CreatedJoinToken), node_groups::token;
    PATCH "/v1/node-groups/{group}/machines/{node}" Operator, "Say what became of a request",
        (HookOutcome) -> Nothing, node_groups::outcome;
    GET "/v1/volumes" Read, "List volumes", () -> Page(Volume), nodes::volumes;
    DELETE "/v1/volumes/{volume}" Manage, "Forget where a volume is",
        () -> Nothing, nodes::forget_volume;

    POST "/v1/secrets" Manage, "Create a secret",
        (CreateSecret) -> One(Secret), secrets::create_secret;
    GET "/v1/secrets" Read, "List secrets, without their values",
        () -> Page(Secret), secrets::list;
    GET "/v1/secrets/{secret}" Read, "Show a secret, without its value",
        () -> One(Secret), secrets::show;
    DELETE "/v1/secrets/{secret}" Manage, "Remove a secret that nothing uses",
        () -> Nothing, secrets::remove;

    POST "/v1/certificates" Manage, "Create a certificate of host names",
        (CreateCertificate) -> One(Certificate), certificates::create_certificate;
    GET "/v1/certificates" Read, "List certificates, without their keys",
        () -> Page(Certificate), certificates::list;
    GET "/v1/certificates/{certificate}" Read, "Show a certificate, without its key",
        () -> One(Certificate), certificates::show;
    PATCH "/v1/certificates/{certificate}" Manage, "Take another certificate in its place",
        (ReplaceCertificate) -> One(Certificate), certificates::replace;
    DELETE "/v1/certificates/{certificate}" Manage, "Remove a certificate",
        () -> Nothing, certificates::remove;
    POST "/v1/certificates/{certificate}/renew" Manage, "Order a certificate anew",
        () -> One(CertificateOrder), certificates::renew;
    GET "/v1/certificate-orders" Read, "List certificates that an authority is asked for",
        () -> Page(CertificateOrder), certificates::orders;

    POST "/v1/join-tokens" Manage, "Create a token with which one node may join",
        (CreateJoinToken) -> One(CreatedJoinToken), identity::create_join_token;
    POST "/v1/credentials" Manage, "Create a credential",
        (CreateCredential) -> One(Credential), credentials::create_credential;
    GET "/v1/credentials" Manage, "List credentials, without their secrets",
        () -> Page(CredentialInfo), credentials::list;
    DELETE "/v1/credentials/{tenant}/{credential}" Manage, "Remove a credential",
        () -> Nothing, credentials::remove;
    POST "/v1/credentials/{tenant}/{credential}/rotate" Manage, "Give a credential another secret",
        () -> One(Credential), credentials::rotate;
    POST "/v1/access-tokens" Anyone, "Get an access token for the secret of a credential",
        (IssueToken) -> One(AccessTokenAnswer), credentials::issue_token;
    GET "/v1/quota" Read, "Show what the tenant of the caller may have, and what it has",
        () -> One(QuotaReport), quotas::own;
    GET "/v1/quotas" Operator, "List what every tenant may have, and what it has",
        () -> Page(QuotaReport), quotas::list;
    GET "/v1/quotas/{tenant}" Operator, "Show what a tenant may have, and what it has",
        () -> One(QuotaReport), quotas::show;
    PATCH "/v1/quotas/{tenant}" Operator, "Change what a tenant may have",
        (QuotaChange) -> One(QuotaReport), quotas::change;
    GET "/v1/domains" Operator, "List below which domains each tenant may have host names",
        () -> Page(TenantDomains), hosts::list;
    PATCH "/v1/domains/{tenant}" Operator, "Grant domains to a tenant, or take them away",
        (ChangeDomains) -> One(TenantDomains), hosts::change;
    GET "/v1/usage" Read, "Show what was used", () -> One(UsageReport), ledger::report;
    GET "/v1/usage/days" Read, "List what each task used on each day",
        () -> Page(DayUsage), ledger::days;
    GET "/v1/usage/tenants" Operator, "List what every tenant used",
        () -> Page(TenantUsage), ledger::tenants;
    GET "/v1/events" Read, "List what happened to services, tasks and nodes, oldest first",
        () -> One(EventList), events::list;
    GET "/v1/clusters/{cluster}/services/{service}/ingresses" Read,
        "List the nodes whose ingress answers for a service",
        () -> Page(ServiceIngress), access_log::ingresses;
    GET "/v1/clusters/{cluster}/services/{service}/access-log" Read,
        "Read which requests for a service the ingress of a node has taken",
        () -> Frames, access_log::read;
    GET "/v1/clusters/{cluster}/services/{service}/explanation" Read,
        "Say why a service is as it is", () -> One(Explanation), explain::service;
    GET "/v1/tasks/{task}/explanation" Read, "Say why a task is as it is",
        () -> One(Explanation), explain::task;
    GET "/v1/nodes/{node}/explanation" Read, "Say why a node is as it is",
        () -> One(Explanation), explain::node;
    GET "/v1/routes/{host}/explanation" Read, "Say why a host name is answered as it is",
        () -> One(Explanation), explain::route;
    GET "/v1/routes" Read, "Show which tasks answer for which host name",
        () -> One(RouteTable), system::routes;

    POST "/v1/node/join" Anyone, "Become a node, with a join token",
        (JoinRequest) -> One(JoinResponse), agent::join;
    POST "/v1/node/renew" Node, "Get the next certificate",
        (RenewRequest) -> One(JoinResponse), agent::renew;
    POST "/v1/node/ingress" Node, "Get a certificate for the node's ingress",
        (RenewRequest) -> One(IngressCertificate), agent::ingress_certificate;
    GET "/v1/node/desired" Node, "Wait for a desired set other than `after`, for 30 seconds",
        () -> One(DesiredSet), agent::desired;
    POST "/v1/node/report" Node, "Report the observed state",
        (NodeReport) -> Nothing, agent::report;
    POST "/v1/node/heartbeat" Node, "Say that the node is there",
        (Heartbeat) -> Nothing, agent::heartbeat;
    GET "/v1/node/secrets/{tenant}/{task}" Node, "Have the secrets of a task that this node runs",
        () -> One(TaskSecrets), agent::secrets;
    GET "/v1/node/certificates/{tenant}/{certificate}" Node,
        "Have a certificate of a host that this node's ingress serves",
        () -> One(CertificatePair), agent::host_certificate;
    GET "/v1/node/streams" Node, "Wait for streams that clients ask for, for 30 seconds",
        () -> One(StreamRequests), streams::untold;
    POST "/v1/node/streams/{stream}" Node, "Take up a stream",
        () -> Frames, streams::take_up;
    POST "/v1/node/usage" Node, "Hand usage to the ledger",
        (UsageBatch) -> One(UsageTaken), ledger::take;
}

/// What stands in the place of each `{name}` of a path.
pub(crate) type Params = Vec<(&'static str, String)>;

/// The route of a request and its parameters; or whether the path alone is known.
pub(crate) fn find(method: &Method, path: &str) -> Result<(&'static Route, Params), ApiError> {
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
            Err(ApiError::new(http::StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message))
        }
        false => Err(ApiError::new(
            http::StatusCode::NOT_FOUND,
            "no-route",
            "there is nothing at this path",
        )
        .hint("GET /v1/openapi.json lists every path")),
    }
}

/// Whether the answer to a request may wait for what does not come before the server closes.
pub(crate) fn waits(method: &Method, path: &str) -> bool {
    let route = find(method, path).ok().map(|(route, _)| route);
    route.is_some_and(|route| {
        matches!(route.path, "/v1/node/desired" | "/v1/node/streams")
            || matches!(route.answer, Answer::Frames)
    })
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
