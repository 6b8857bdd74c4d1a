use http::Method;
use serde_json::{Map, Value, json};
use spec::wire::Fault;
use utoipa::openapi::{RefOr, schema};

use super::{
    principal::Access,
    routes::{Answer, ROUTES, Route, Shape},
};

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
                "credential": { "type": "http", "scheme": "bearer" },
                "node": { "type": "mutualTLS" },
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
    let answer = match &route.answer {
        Answer::Nothing => None,
        Answer::Anything => Some(json!({})),
        Answer::One(shape) => Some(shapes.reference(shape)),
        Answer::Page(shape) => {
            let items = json!({ "type": "array", "items": shapes.reference(shape) });
            Some(json!({
                "type": "object", "required": ["items"],
                "properties": { "items": items, "next": { "type": "string" } },
            }))
        }
    };
    let done = match answer {
        Some(schema) => json!({ "description": "Done", "content": content(schema) }),
        None => json!({ "description": "Done" }),
    };
    let refused = json!({ "description": "Refused", "content": content(fault.clone()) });
    let mut operation = json!({
        "summary": route.summary,
        "x-access": format!("{:?}", route.access).to_lowercase(),
        "responses": { "2XX": done, "default": refused },
        "parameters": parameters(route),
    });
    if let Some(shape) = &route.body {
        let schema = shapes.reference(shape);
        operation["requestBody"] = json!({ "required": true, "content": content(schema) });
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let one = |name: &str, place: &str, required: bool| {
        let mut one = json!({ "name": name, "in": place, "schema": { "type": "string" } });
        if required {
            one["required"] = true.into();
        }
        one
    };
    let in_path =
        route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_query: &[&str] = match &route.answer {
        Answer::Page(_) if route.method == Method::GET => &["after", "limit"],
        _ if route.path == "/v1/node/desired" => &["after"],
        _ if route.path == "/v1/nodes/{node}" && route.method == Method::DELETE => &["force"],
        _ => &[],
    };
    let in_path = in_path.map(|name| one(name, "path", true));
    let mut parameters: Vec<Value> =
        in_path.chain(in_query.iter().map(|name| one(name, "query", false))).collect();
    if route.method == Method::POST && matches!(route.access, Access::Deploy | Access::Manage) {
        let schema = json!({ "type": "string", "maxLength": 64 });
        parameters.push(json!({ "name": "Idempotency-Key", "in": "header", "schema": schema }));
    }
    parameters
}
