//! The document from the table of endpoints and the types of the wire.

use std::collections::BTreeMap;
use std::io::{self, Write};

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value as Json, json};

use super::DOCUMENT;
use crate::api;
use crate::http::Code;
use crate::http::endpoints::{Access, Body, ENDPOINTS, Endpoint, Parameter, Told, Value};
use crate::limits::BODY_BYTES_MAX;

/// The generators: what is answered has every field that the hive writes, what is sent only those that it needs.
struct Document {
    answers: SchemaGenerator,
    requests: SchemaGenerator,
}

impl Document {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12()
            .with(|settings| settings.definitions_path = "/components/schemas".into());
        let answers = settings.clone().for_serialize().into_generator();
        Self { answers, requests: settings.for_deserialize().into_generator() }
    }

    fn whole(mut self) -> Json {
        let mut paths: BTreeMap<&str, Map<String, Json>> = BTreeMap::new();
        for endpoint in &ENDPOINTS {
            for (path, is_alias) in [(Some(endpoint.path), false), (endpoint.alias, true)] {
                let Some(path) = path else { continue };
                let method = endpoint.method.as_str().to_ascii_lowercase();
                let mut operation = self.operation(endpoint);
                if is_alias {
                    operation["operationId"] = json!(format!("{}_alias", endpoint.name));
                }
                paths.entry(path).or_default().insert(method, operation);
            }
        }
        // Told by events, which OpenAPI 3.1 cannot describe.
        self.answers.subschema_for::<api::Progress>();
        self.answers.subschema_for::<api::DownloadEvent>();
        self.answers.subschema_for::<api::ErrorBody>();
        let refusals: Map<String, Json> =
            shared().map(|(status, codes)| (name(status), refusal(status, &codes))).collect();
        let mut schemas = self.answers.take_definitions(true);
        schemas.extend(self.requests.take_definitions(true));
        json!({
            "openapi": "3.1.0",
            "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
            "info": {
                "title": "rbee-hive",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Runs language-model workers on one machine. HEAD goes where GET goes. Unknown fields and \
                                parameters are ignored, `null` counts as absent, and an empty body as `{}`. Where a token is \
                                configured, every path under `/v1/` but `/v1/health` asks for it.",
                "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
            },
            "servers": [{ "url": "/" }],
            "security": [{ "queen": [] }],
            "paths": paths,
            "components": {
                "schemas": schemas,
                "responses": refusals,
                "securitySchemes": {
                    "queen": {
                        "type": "http", "scheme": "bearer",
                        "description": "the token of `--token-file`; without one the hive binds loopback only, and all is open",
                    },
                    "worker": {
                        "type": "http", "scheme": "bearer",
                        "description": "the token in `RBEE_WORKER_TOKEN`, which opens the worker's own callbacks alone",
                    },
                },
            },
        })
    }

    fn operation(&mut self, endpoint: &Endpoint) -> Json {
        let mut responses: BTreeMap<u16, Json> = BTreeMap::new();
        for told in endpoint.answers {
            responses.insert(told.status, self.answer(told));
        }
        let mut codes: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in endpoint.codes() {
            let all = codes.entry(code.wire().0).or_default();
            if !all.contains(&code) {
                all.push(code);
            }
        }
        for (status, codes) in codes {
            let is_shared = shared().any(|known| known == (status, codes.clone()));
            let refused = if is_shared {
                json!({ "$ref": format!("#/components/responses/{}", name(status)) })
            } else {
                refusal(status, &codes)
            };
            // A status that is an answer as well: its body is of one kind or the other.
            match responses.get_mut(&status) {
                None => drop(responses.insert(status, refused)),
                Some(answer) => {
                    let own = answer["content"]["application/json"]["schema"].take();
                    let error = envelope(&codes);
                    answer["content"]["application/json"]["schema"] = json!({ "anyOf": [own, error] });
                }
            }
        }
        let responses: Map<String, Json> =
            responses.into_iter().map(|(status, told)| (status.to_string(), told)).collect();
        let mut parameters = Vec::new();
        if endpoint.path.contains("{id}") {
            let schema = self.requests.subschema_for::<crate::id::WorkerId>();
            parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": schema }));
        }
        parameters.extend(endpoint.query.iter().map(|known| self.parameter(known, "query")));
        parameters.extend(endpoint.headers.iter().map(|known| self.parameter(known, "header")));
        let mut operation = json!({
            "operationId": endpoint.name,
            "summary": endpoint.text,
            "parameters": parameters,
            "responses": responses,
        });
        match endpoint.access {
            Access::Anyone => operation["security"] = json!([]),
            Access::Queen => {}
            Access::Worker => operation["security"] = json!([{ "worker": [] }]),
        }
        if let Some(sent) = &endpoint.body {
            let schema = (sent.schema.make)(&mut self.requests);
            operation["requestBody"] = json!({
                "description": format!("at most {BODY_BYTES_MAX} bytes"),
                "required": !sent.optional,
                "content": { "application/json": { "schema": schema } },
            });
        }
        operation
    }

    fn parameter(&mut self, known: &Parameter, place: &str) -> Json {
        let schema = match &known.value {
            Value::Flag => json!({ "type": "boolean", "default": false }),
            Value::Number { min, max, default: None } => {
                json!({ "type": "integer", "minimum": min, "maximum": max })
            }
            Value::Number { min, max, default: Some(default) } => {
                json!({ "type": "integer", "minimum": min, "maximum": max, "default": default })
            }
            Value::Text { pattern } => json!({ "type": "string", "pattern": pattern }),
            Value::Any => json!({ "type": "string" }),
            Value::Of(schema) => (schema.make)(&mut self.requests).to_value(),
        };
        let (name, required, text) = (known.name, known.required, known.text);
        json!({ "name": name, "in": place, "required": required, "description": text, "schema": schema })
    }

    fn answer(&mut self, told: &Told) -> Json {
        let mut content = Map::new();
        for body in told.bodies {
            let (kind, schema) = match body {
                Body::Json(schema) => ("application/json", (schema.make)(&mut self.answers).to_value()),
                Body::Text(kind) => (*kind, json!({ "type": "string" })),
                Body::Events(data) => ("text/event-stream", event(data)),
            };
            content.insert(kind.to_owned(), json!({ "schema": schema }));
        }
        let headers: Map<String, Json> = told
            .headers
            .iter()
            .map(|(name, text)| {
                ((*name).to_owned(), json!({ "description": text, "schema": { "type": "string" } }))
            })
            .collect();
        let mut answer = json!({ "description": told.text });
        if !content.is_empty() {
            answer["content"] = Json::Object(content);
        }
        if !headers.is_empty() {
            answer["headers"] = Json::Object(headers);
        }
        answer
    }
}

/// One event of a stream, by its fields: how most tools read what OpenAPI 3.1 has no words for.
fn event(data: &str) -> Json {
    json!({
        "type": "object",
        "properties": {
            "data": { "type": "string", "description": data },
            "event": { "type": "string" },
            "id": { "type": "string" },
        },
        "required": ["data"],
    })
}

/// What is refused in the same way by many.
fn shared() -> impl Iterator<Item = (u16, Vec<Code>)> {
    [
        &[Code::BadRequest][..],
        &[Code::MissingApiKey, Code::InvalidApiKey],
        &[Code::Forbidden],
        &[Code::RequestTimeout],
        &[Code::PayloadTooLarge],
        &[Code::ExpectationFailed],
        &[Code::TooManyAttempts],
        &[Code::HeadTooLarge],
        &[Code::Internal],
        &[Code::NotImplemented],
        &[Code::Overloaded],
        &[Code::VersionNotSupported],
    ]
    .into_iter()
    .map(|codes| (codes[0].wire().0, codes.to_vec()))
}

fn name(status: u16) -> String {
    format!("Refused{status}")
}

fn refusal(status: u16, codes: &[Code]) -> Json {
    let words: Vec<String> = codes.iter().map(|code| format!("`{}`", code.wire().1)).collect();
    let mut answer = json!({
        "description": words.join(" or "),
        "content": { "application/json": { "schema": envelope(codes) } },
    });
    if status == 401 {
        answer["headers"] = json!({ "WWW-Authenticate": { "schema": { "const": "Bearer" } } });
    }
    answer
}

/// The body of a refusal for one of these reasons.
fn envelope(codes: &[Code]) -> Json {
    let codes: Vec<&str> = codes.iter().map(|code| code.wire().1).collect();
    json!({
        "allOf": [{ "$ref": "#/components/schemas/ErrorBody" }],
        "properties": { "error": { "properties": { "code": { "enum": codes } } } },
    })
}

/// A line for each operation and each schema: what changed in it is seen.
struct ByLine {
    depth: usize,
}

/// Levels that begin on lines of their own: the document, its parts, and what these have by name.
const LEVELS: usize = 3;

impl Formatter for ByLine {
    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        out.write_all(b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth -= 1;
        out.write_all(if self.depth < LEVELS { b"\n}" } else { b"}" })
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        let comma: &[u8] = if first { b"" } else { b"," };
        out.write_all(comma)?;
        out.write_all(if self.depth <= LEVELS { b"\n" } else { b"" })
    }
}

fn made() -> String {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, ByLine { depth: 0 });
    Document::new().whole().serialize(&mut serializer).expect("a document is valid JSON");
    String::from_utf8(text).expect("JSON is text") + "\n"
}

#[test]
fn the_published_document_is_what_the_server_routes_by() {
    let made = made();
    if DOCUMENT != made {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/openapi.json");
        std::fs::write(path, made).expect("it can be written");
        panic!(
            "docs/openapi.json is not what is made now: compare it with target/openapi.json, and copy that"
        );
    }
}

fn refs<'a>(value: &'a Json, found: &mut Vec<&'a str>) {
    match value {
        Json::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Json::as_str));
            fields.values().for_each(|value| refs(value, found));
        }
        Json::Array(items) => items.iter().for_each(|value| refs(value, found)),
        _ => {}
    }
}

#[test]
fn every_endpoint_is_in_the_document_and_all_that_it_points_at_is_there() {
    let document: Json = serde_json::from_str(DOCUMENT).unwrap();
    for endpoint in &ENDPOINTS {
        for path in [Some(endpoint.path), endpoint.alias].into_iter().flatten() {
            let method = endpoint.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][path][method];
            assert!(operation["summary"] == endpoint.text, "{path}");
            for code in endpoint.codes() {
                let (status, _) = code.wire();
                assert!(operation["responses"][status.to_string()].is_object(), "{path} {status}");
            }
        }
    }
    let mut found = Vec::new();
    refs(&document, &mut found);
    assert!(found.len() > ENDPOINTS.len());
    for pointer in found {
        let pointer = pointer.strip_prefix('#').expect("all of it is in one document");
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn a_request_needs_what_the_hive_needs_and_no_more() {
    let document: Json = serde_json::from_str(DOCUMENT).unwrap();
    let needed = |name: &str| document["components"]["schemas"][name]["required"].clone();
    assert_eq!(needed("SpawnRequest"), json!(["model_ref"]));
    assert_eq!(needed("DrainRequest"), json!(["drain"]));
    assert_eq!(needed("ProvisionRequest"), json!(["kind"]));
    assert_eq!(needed("ShutdownRequest"), Json::Null);
    assert_eq!(needed("WorkerHeartbeat"), json!(["worker_id", "timestamp", "health_status"]));
    // What is answered has every field that is always there.
    let status = needed("Status");
    assert_eq!(status.as_array().map(Vec::len), Some(11), "{status}");
}

#[test]
fn the_docs_have_a_row_for_each_endpoint() {
    let page = include_str!("../../../docs/api.md");
    let table = page.split("## Routes").nth(1).and_then(|rest| rest.split("HEAD goes where").next());
    let rows: Vec<&str> = table.unwrap().lines().filter(|line| line.starts_with("| `")).collect();
    let mut told: Vec<String> = rows
        .iter()
        .filter_map(|row| row.split(" | ").next())
        .flat_map(|cell| cell.split('`').filter(|part| part.starts_with(|c: char| c.is_ascii_uppercase())))
        .map(|asked| asked.split('?').next().unwrap_or_default().trim().replace("<id>", "{id}"))
        .collect();
    told.sort();
    let paths = |endpoint: &'static Endpoint| {
        let paths = [Some(endpoint.path), endpoint.alias].into_iter().flatten();
        paths.map(|path| format!("{} {path}", endpoint.method))
    };
    let mut known: Vec<String> = ENDPOINTS.iter().flat_map(paths).collect();
    known.sort();
    assert_eq!(told, known);
}
