//! Calls that are made up from the document of the API, and what it says of their answers: none
//! has a status that is not in it, or a body that is not as it says.

use serde_json::{Map, Value, json};
use spec::Tenant;

use super::fixture::{TestControlPlane, definition};
use crate::{CredentialScope, api::test::openapi};

/// Calls of each operation.
const CALLS: u64 = 30;

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The schema that is meant, wherever it stands.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => resolved(document, at(document, path)),
        None => schema,
    }
}

fn at<'a>(document: &'a Value, path: &str) -> &'a Value {
    document.pointer(path.trim_start_matches('#')).expect("it leads somewhere")
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A value that the schema allows, or now and then nearly does.
fn made(document: &Value, schema: &Value, random: &mut Random, wrong: usize) -> Value {
    let schema = resolved(document, schema);
    if random.chance(wrong) {
        return random
            .of(&[json!(null), json!(-1), json!("x/../é"), json!([]), json!({"more": 1})])
            .clone();
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(some) = schema[key].as_array() {
            return made(document, random.of(some), random, wrong);
        }
    }
    if let Some(all) = schema["allOf"].as_array() {
        return made(document, &all[0], random, wrong);
    }
    if let Some(values) = schema["enum"].as_array() {
        return random.of(values).clone();
    }
    let kinds = types(schema);
    match *random.of(if kinds.is_empty() { &["null"] } else { &kinds }) {
        "object" => object(document, schema, random, wrong),
        "array" => {
            let (least, most) = (schema["minItems"].as_u64(), schema["maxItems"].as_u64());
            let (least, most) = (least.unwrap_or(0), most.unwrap_or(3).min(3));
            let count = least + random.below((most - least) as usize + 1) as u64;
            (0..count).map(|_| made(document, &schema["items"], random, wrong)).collect()
        }
        "string" => text(schema, random).into(),
        "integer" | "number" => {
            let least = schema["minimum"].as_u64().unwrap_or(0);
            let most = schema["maximum"].as_u64().unwrap_or(least + 5);
            (*random.of(&[least, most, least + (most - least) / 2])).into()
        }
        "boolean" => random.chance(50).into(),
        _ => Value::Null,
    }
}

fn object(document: &Value, schema: &Value, random: &mut Random, wrong: usize) -> Value {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut object = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let leaves_out = if required.contains(&name.as_str()) { wrong } else { 50 };
        if !random.chance(leaves_out) {
            object.insert(name.clone(), made(document, property, random, wrong));
        }
    }
    if schema["additionalProperties"].is_object() && random.chance(50) {
        let value = made(document, &schema["additionalProperties"], random, wrong);
        object.insert("KEY".to_owned(), value);
    }
    Value::Object(object)
}

/// A text that its pattern takes, and that may be the name of something.
fn text(schema: &Value, random: &mut Random) -> String {
    let example = schema["examples"].as_array().and_then(|all| all.first()?.as_str());
    let texts: &[&str] = match schema["pattern"].as_str() {
        Some(pattern) if pattern.contains(":[1-9]") => &["cats:1", "cats:2", "dogs:7"],
        Some(pattern) if pattern.starts_with("^[0-9]{4}") => &["2026-11-23T16:40:00.000Z"],
        Some(pattern) if pattern.starts_with("^(sha256") => return example.unwrap().to_owned(),
        Some("^[0-9a-f]+$") => &["00", "ab"],
        Some(_) => &["main", "cats", "a", "other", "n1", "x-1"],
        None => {
            return example.map_or_else(|| (*random.of(&["cats", "", "é%"])).into(), Into::into);
        }
    };
    (*random.of(texts)).to_owned()
}

/// Why a value is not what its schema says, if it is not.
fn problem(document: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    let schema = resolved(document, schema);
    for key in ["oneOf", "anyOf"] {
        if let Some(some) = schema[key].as_array() {
            let fits = |one| problem(document, one, value, place).is_none();
            return (!some.iter().any(fits)).then(|| format!("{place}: {value} is none of {key}"));
        }
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().find_map(|one| problem(document, one, value, place));
    }
    if let Some(values) = schema["enum"].as_array() {
        return (!values.contains(value)).then(|| format!("{place}: {value} is not in its enum"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = types(schema);
    if !kinds.is_empty() && !kinds.contains(&kind) {
        return Some(format!("{place}: {value} is {kind}, not {kinds:?}"));
    }
    match value {
        Value::Array(items) => items.iter().enumerate().find_map(|(at, item)| {
            problem(document, &schema["items"], item, &format!("{place}/{at}"))
        }),
        Value::Object(fields) => {
            let mut required = schema["required"].as_array().into_iter().flatten();
            let missing = required.find(|name| !fields.contains_key(name.as_str().unwrap()));
            if let Some(name) = missing {
                return Some(format!("{place}: {name} is missing"));
            }
            let properties = schema["properties"].as_object()?;
            fields.iter().find_map(|(name, field)| match properties.get(name) {
                Some(schema) => problem(document, schema, field, &format!("{place}/{name}")),
                None if schema["additionalProperties"].is_object() => None,
                None => Some(format!("{place}: `{name}` is not in the document")),
            })
        }
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_to_a_generated_call_is_missing_in_the_document() {
    let (document, plane) = (openapi(), TestControlPlane::start().await);
    plane.client.create_cluster(&"main".parse().unwrap()).await.unwrap();
    plane.client.register(&definition("cats", "cats")).await.unwrap();
    let operator: Tenant = plane.client.principal().await.unwrap().tenant;
    let mut tokens = vec![None];
    for scope in [CredentialScope::Manage, CredentialScope::Read] {
        let credential = plane.credential_of(operator.as_str(), scope).await;
        tokens.push(Some(plane.access_token(&credential).await));
    }
    let mut random = Random(0x5eed_5eed);
    let mut undocumented = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for call in 0..CALLS {
                // Half of the calls are as the document says, half nearly so.
                let wrong = if call % 2 == 0 { 0 } else { 15 };
                let (mut path, mut query) = (path.clone(), Vec::new());
                for parameter in operation["parameters"].as_array().unwrap() {
                    let name = parameter["name"].as_str().unwrap();
                    let value = made(&document, &parameter["schema"], &mut random, 0);
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    match parameter["in"].as_str().unwrap() {
                        "path" => path = path.replace(&format!("{{{name}}}"), &value),
                        "query" if parameter["required"] == true || random.chance(40) => {
                            query.push(format!("{name}={}", value.replace(['é', '%'], "")));
                        }
                        _ => {}
                    }
                }
                if !query.is_empty() {
                    path = format!("{path}?{}", query.join("&"));
                }
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                let body = match schema.is_null() {
                    true => String::new(),
                    false => made(&document, schema, &mut random, wrong).to_string(),
                };
                let token = random.of(&tokens).clone();
                let verb = method.to_uppercase();
                let (status, answer) =
                    plane.raw_tls(&verb, &path, token.as_deref(), body.as_bytes()).await;
                let told = &operation["responses"][status.as_str()];
                let line = format!("{verb} {path} {body}: {status} {answer}");
                if told.is_null() {
                    undocumented.push(line);
                    continue;
                }
                let schema = &told["content"]["application/json"]["schema"];
                if let Some(problem) =
                    (!schema.is_null()).then(|| problem(&document, schema, &answer, "")).flatten()
                {
                    undocumented.push(format!("{line}: {problem}"));
                }
            }
        }
    }
    assert!(undocumented.is_empty(), "{} of them:\n{}", undocumented.len(), {
        undocumented.truncate(30);
        undocumented.join("\n")
    });
}

#[test]
fn operations_have_names_of_their_own() {
    let document = openapi();
    let operations = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| {
            let id = operation["operationId"].as_str().unwrap();
            (id.to_owned(), format!("{method} {path}"))
        })
    });
    let mut names: Vec<(String, String)> = operations.collect();
    names.sort();
    for pair in names.windows(2) {
        assert_ne!(pair[0].0, pair[1].0, "{pair:?}");
    }
    for (want, of) in [
        ("createTaskDefinition", "post /v1/task-definitions"),
        ("drainNode", "post /v1/nodes/{node}/drain"),
        ("getTask", "get /v1/tasks/{task}"),
        ("getTaskLogs", "get /v1/tasks/{task}/logs"),
        ("listTasks", "get /v1/tasks"),
        ("createClusterService", "post /v1/clusters/{cluster}/services"),
        ("updateClusterService", "patch /v1/clusters/{cluster}/services/{service}"),
    ] {
        assert!(names.contains(&(want.to_owned(), of.to_owned())), "{want}: {names:#?}");
    }
    for operation in document["paths"].as_object().unwrap().values() {
        for operation in operation.as_object().unwrap().values() {
            assert!(operation["security"].is_array(), "{operation}");
            assert!(operation["responses"]["429"].is_object(), "{operation}");
        }
    }
}
