//! Bad input of every kind: the right code, nothing repeated, nothing started, nothing lost.

mod support;

use std::collections::HashSet;
use std::process::{Command, Output};
use std::thread;

use serde_json::{Value, json};
use support::{Hive, eventually, variable};

/// Stands in every place that a client can write to, and must come back from none.
const MARK: &str = "zq7marker";

/// Method, path, body; status, code, `details.field`. `M` is a model that is there.
type Row = (&'static str, &'static str, &'static str, u16, &'static str, Option<&'static str>);

const SPAWN: &str = "/v1/workers/spawn";
const READY: &str = "/v1/workers/ready";
const BEAT: &str = "/v1/heartbeat";
const DOWNLOAD: &str = "/v1/models/download";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Bodies that are no JSON object, for each route that reads one.
    ("POST", SPAWN, "zq7marker", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "{\"zq7marker\":", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "[\"zq7marker\"]", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "\"zq7marker\"", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "null", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "{} zq7marker", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "\u{feff}{}", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "{\"a\":\"\\ud800\"}", 400, "INVALID_JSON", None),
    ("POST", SPAWN, "{\"a\":1e999}", 400, "INVALID_JSON", None),
    ("POST", READY, "[]", 400, "INVALID_JSON", None),
    ("POST", BEAT, "{\"zq7marker\"", 400, "INVALID_JSON", None),
    ("POST", "/v1/shutdown", "zq7marker", 400, "INVALID_JSON", None),
    // The model.
    ("POST", SPAWN, "", 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, "{}", 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":null}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":7}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":{"zq7marker":1}}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"file:zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"file:/zq7marker/../x"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"file:/zq7marker\n2026"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"file:/zq7marker\u001b[2J"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"file:/zq7marker\u0000"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"hf:zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"hf:zq7marker/é"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"hf:zq7marker/a\\b"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"hf:zq7marker/x@"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", SPAWN, r#"{"model_ref":"hf:zq7marker/x"}"#, 404, "MODEL_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":"file:/zq7marker.gguf"}"#, 404, "MODEL_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":"file:/etc/passwd"}"#, 404, "MODEL_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":"file:/etc"}"#, 404, "MODEL_NOT_FOUND", None),
    // What else a spawn can ask for.
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"Zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("kind")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":["mock"]}"#, 400, "INVALID_ARGUMENT", Some("kind")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"../zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("kind")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"zq7marker"}"#, 404, "KIND_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"llama-server"}"#, 409, "KIND_NOT_INSTALLED", None),
    ("POST", SPAWN, r#"{"model_ref":M}"#, 409, "KIND_NOT_INSTALLED", None),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","backend":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("backend")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","backend":"CPU"}"#, 400, "INVALID_ARGUMENT", Some("backend")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","backend":"cuda"}"#, 404, "DEVICE_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","backend":"cuda","device":"cpu"}"#, 400, "INVALID_ARGUMENT", Some("backend")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("device")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":"gpu01"}"#, 400, "INVALID_ARGUMENT", Some("device")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":-1}"#, 400, "INVALID_ARGUMENT", Some("device")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":0.5}"#, 400, "INVALID_ARGUMENT", Some("device")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":true}"#, 400, "INVALID_ARGUMENT", Some("device")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":"gpu0"}"#, 404, "DEVICE_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","device":0}"#, 404, "DEVICE_NOT_FOUND", None),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","ctx":0}"#, 400, "INVALID_ARGUMENT", Some("ctx")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","ctx":-1}"#, 400, "INVALID_ARGUMENT", Some("ctx")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","ctx":4096.5}"#, 400, "INVALID_ARGUMENT", Some("ctx")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","ctx":"4096"}"#, 400, "INVALID_ARGUMENT", Some("ctx")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","ctx":18446744073709551616}"#, 400, "INVALID_ARGUMENT", Some("ctx")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","parallel":0}"#, 400, "INVALID_ARGUMENT", Some("parallel")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","parallel":1025}"#, 400, "INVALID_ARGUMENT", Some("parallel")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","port_hint":22}"#, 400, "INVALID_ARGUMENT", Some("port_hint")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","port_hint":65537}"#, 400, "INVALID_ARGUMENT", Some("port_hint")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":["zq7marker"]}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":{"zq7marker":1}}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":{"zq7marker":null}}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":{"zq7 marker":"x"}}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":{"A":"zq7marker\u0000"}}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":{"LD_PRELOAD":"zq7marker"}}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","env":{"RBEE_WORKER_TOKEN":"zq7marker"}}"#, 400, "INVALID_ARGUMENT", Some("env")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","extra_args":"--load-ms"}"#, 400, "INVALID_ARGUMENT", Some("extra_args")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","extra_args":[1]}"#, 400, "INVALID_ARGUMENT", Some("extra_args")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","extra_args":["--zq7marker"]}"#, 400, "INVALID_ARGUMENT", Some("extra_args")),
    ("POST", SPAWN, r#"{"model_ref":M,"kind":"mock","extra_args":["--load-ms","1","zq7marker"]}"#, 400, "INVALID_ARGUMENT", Some("extra_args")),
    // Callbacks.
    ("POST", READY, "{}", 400, "INVALID_ARGUMENT", Some("worker_id")),
    ("POST", READY, r#"{"worker_id":"zq7marker/.."}"#, 400, "INVALID_ARGUMENT", Some("worker_id")),
    ("POST", READY, r#"{"worker_id":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("url")),
    ("POST", READY, r#"{"worker_id":"zq7marker","url":"u","model_ref":"m","backend":"b","device":7}"#, 400, "INVALID_ARGUMENT", Some("device")),
    ("POST", READY, r#"{"worker_id":"zq7marker","url":"u","model_ref":"m","backend":"b","device":"d","slots_total":0}"#, 400, "INVALID_ARGUMENT", Some("slots_total")),
    ("POST", READY, r#"{"worker_id":"zq7marker","url":"u","model_ref":"m","backend":"b","device":"d"}"#, 404, "WORKER_NOT_FOUND", None),
    ("POST", BEAT, r#"{"worker_id":"zq7\nmarker"}"#, 400, "INVALID_ARGUMENT", Some("worker_id")),
    ("POST", BEAT, r#"{"worker_id":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("timestamp")),
    ("POST", BEAT, r#"{"worker_id":"zq7marker","timestamp":"t"}"#, 400, "INVALID_ARGUMENT", Some("health_status")),
    ("POST", BEAT, r#"{"worker_id":"w","timestamp":"t","health_status":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("health_status")),
    ("POST", BEAT, r#"{"worker_id":"w","timestamp":"t","health_status":"stale"}"#, 400, "INVALID_ARGUMENT", Some("health_status")),
    ("POST", BEAT, r#"{"worker_id":"w","timestamp":"t","health_status":"healthy","state":"gone"}"#, 400, "INVALID_ARGUMENT", Some("state")),
    ("POST", BEAT, r#"{"worker_id":"w","timestamp":"t","health_status":"healthy","slots_total":1,"slots_available":2}"#, 400, "INVALID_ARGUMENT", Some("slots_available")),
    ("POST", BEAT, r#"{"worker_id":"zq7marker","timestamp":"t","health_status":"healthy"}"#, 404, "WORKER_NOT_FOUND", None),
    // Queries.
    ("GET", "/v1/workers/zq7marker/logs?tail=zq7marker", "", 400, "INVALID_ARGUMENT", Some("tail")),
    ("GET", "/v1/workers/zq7marker/logs?tail=10001", "", 400, "INVALID_ARGUMENT", Some("tail")),
    ("GET", "/v1/workers/zq7marker/logs?tail=1&tail=2", "", 400, "INVALID_ARGUMENT", Some("tail")),
    ("GET", "/v1/workers/zq7marker/logs?follow=zq7marker", "", 400, "INVALID_ARGUMENT", Some("follow")),
    ("DELETE", "/v1/workers/zq7marker?force=zq7marker", "", 400, "INVALID_ARGUMENT", Some("force")),
    ("POST", "/v1/shutdown", r#"{"workers":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("workers")),
    // Names and paths.
    ("GET", "/v1/workers/zq7marker", "", 404, "WORKER_NOT_FOUND", None),
    ("DELETE", "/v1/workers/zq7marker", "", 404, "WORKER_NOT_FOUND", None),
    ("GET", "/v1/workers/zq7marker/logs", "", 404, "WORKER_NOT_FOUND", None),
    ("GET", "/v1/workers/zq7marker/logs?follow=true", "", 404, "WORKER_NOT_FOUND", None),
    ("GET", "/v1/workers/zq7marker%2f..", "", 404, "WORKER_NOT_FOUND", None),
    ("GET", "/v1/workers/", "", 404, "WORKER_NOT_FOUND", None),
    ("GET", "/v1/workers/zq7marker/zq7marker", "", 404, "NOT_FOUND", None),
    ("GET", "/v1/zq7marker", "", 404, "NOT_FOUND", None),
    ("GET", "/zq7marker", "", 404, "NOT_FOUND", None),
    // Models.
    ("POST", DOWNLOAD, "{}", 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", DOWNLOAD, r#"{"model_ref":7}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", DOWNLOAD, r#"{"model_ref":"zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", DOWNLOAD, r#"{"model_ref":"hf:../zq7marker"}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", DOWNLOAD, r#"{"model_ref":M}"#, 400, "INVALID_ARGUMENT", Some("model_ref")),
    ("POST", DOWNLOAD, r#"{"model_ref":"hf:zq7marker/zq7marker"}"#, 404, "MODEL_NOT_FOUND", None),
    ("DELETE", DOWNLOAD, "", 400, "INVALID_ARGUMENT", Some("id")),
    ("DELETE", "/v1/models/download?id=zq7marker", "", 404, "DOWNLOAD_NOT_FOUND", None),
    ("GET", "/v1/models/download/progress", "", 400, "INVALID_ARGUMENT", Some("id")),
    ("GET", "/v1/models/download/progress?id=a&id=zq7marker", "", 400, "INVALID_ARGUMENT", Some("id")),
    ("GET", "/v1/models/download/progress?id=d-zq7marker", "", 404, "DOWNLOAD_NOT_FOUND", None),
    ("DELETE", "/v1/models", "", 400, "INVALID_ARGUMENT", Some("ref")),
    ("DELETE", "/v1/models?ref=zq7marker", "", 400, "INVALID_ARGUMENT", Some("ref")),
    ("DELETE", "/v1/models?ref=%ff", "", 400, "INVALID_ARGUMENT", Some("ref")),
    ("DELETE", "/v1/models?ref=file:/zq7marker", "", 400, "INVALID_ARGUMENT", Some("ref")),
    ("DELETE", "/v1/models?ref=hf:o/..%2fzq7marker", "", 400, "INVALID_ARGUMENT", Some("ref")),
    ("DELETE", "/v1/models?ref=hf:zq7marker/zq7marker", "", 404, "MODEL_NOT_FOUND", None),
    // Methods.
    ("GET", SPAWN, "", 405, "METHOD_NOT_ALLOWED", None),
    ("PUT", READY, "", 405, "METHOD_NOT_ALLOWED", None),
    ("DELETE", BEAT, "", 405, "METHOD_NOT_ALLOWED", None),
    ("POST", "/v1/workers/list", "zq7marker", 405, "METHOD_NOT_ALLOWED", None),
    ("PATCH", "/v1/workers/w", "", 405, "METHOD_NOT_ALLOWED", None),
    ("POST", "/health", "", 405, "METHOD_NOT_ALLOWED", None),
    ("DELETE", "/v1/events", "", 405, "METHOD_NOT_ALLOWED", None),
    ("GET", "/v1/shutdown", "", 405, "METHOD_NOT_ALLOWED", None),
];

/// Nothing was started: no worker is listed, no process lives, no log was made.
fn assert_nothing_started(hive: &Hive) {
    assert_eq!(hive.workers(), Vec::<Value>::new());
    assert_eq!(hive.processes(), Vec::<u32>::new());
    let logs = std::fs::read_dir(hive.log_file("")).map_or(0, Iterator::count);
    assert_eq!(logs, 0, "there are logs of workers");
}

/// Each line is one of ours: time, level, message, and no control character.
fn assert_log_not_forged(log: &str) {
    for line in log.lines() {
        let mut words = line.split(' ');
        let time = words.next().unwrap();
        let level = words.next().unwrap_or_default();
        assert!(time.len() == 24 && time.ends_with('Z') && time.starts_with("20"), "{line:?}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{line:?}");
        assert!(!line.contains(char::is_control) && !line.contains("forged"), "{line:?}");
    }
}

#[test]
fn every_wrong_request_is_refused_by_name_and_repeated_nowhere() {
    let mut hive = Hive::builder().env("RUST_LOG", "trace").start();
    let model = json!(hive.model_ref()).to_string();
    for &(method, path, body, status, code, field) in ROWS {
        let body = body.replace('M', &model);
        let request = format!("{method} {path} {body}");
        let headers = [("X-Zq7marker", MARK), ("User-Agent", MARK), ("Referer", MARK)];
        let body = Some(body.as_str()).filter(|body| !body.is_empty());
        let reply = hive.request(method, path, &headers, body);
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{request}: {}", reply.text);
        assert_eq!(reply.json()["error"]["details"]["field"].as_str(), field, "{request}: {}", reply.text);
        assert_eq!(reply.json()["error"]["correlation_id"], reply.header("X-Correlation-Id"));
        assert!(!reply.json()["error"]["message"].as_str().unwrap().is_empty());
        let answer = format!("{:?}{}", reply.headers, reply.text).to_lowercase();
        assert!(!answer.contains(MARK), "{request}: repeated in {answer}");
        assert!(!answer.contains(hive.folder.path().to_str().unwrap()), "{request}: a path in {answer}");
        assert_eq!(reply.header("Allow").is_empty(), status != 405, "{request}");
    }
    assert_nothing_started(&hive);
    hive.signal(15);
    assert!(hive.wait_exit().success());
    assert!(!hive.log().to_lowercase().contains(MARK), "{}", hive.log());
    assert_log_not_forged(&hive.log());
}

#[test]
fn what_a_path_takes_stands_in_allow_and_a_head_gets_no_body() {
    let hive = Hive::start();
    let worker = hive.spawn("mock", "");
    hive.wait_state(&worker, "ready");
    for (path, allow) in [
        ("/health", "GET, HEAD"),
        ("/v1/health", "GET, HEAD"),
        (SPAWN, "POST"),
        (READY, "POST"),
        ("/v1/workers/list", "GET, HEAD"),
        ("/v1/workers", "GET, HEAD"),
        ("/v1/workers/w", "GET, HEAD, DELETE"),
        ("/v1/workers/w/logs", "GET, HEAD"),
        (BEAT, "POST"),
        ("/v1/events", "GET, HEAD"),
        (DOWNLOAD, "POST, DELETE"),
        ("/v1/models/download/progress", "GET, HEAD"),
        ("/v1/models", "GET, HEAD, DELETE"),
        ("/v1/shutdown", "POST"),
    ] {
        let reply = hive.raw(format!("BREW {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
        assert_eq!(reply.status, 405, "{path}");
        assert!(reply.head.contains(&format!("\r\nAllow: {allow}\r\n")), "{path}: {}", reply.head);
    }
    let own = format!("/v1/workers/{worker}");
    let logs = format!("/v1/workers/{worker}/logs");
    let follow = format!("/v1/workers/{worker}/logs?follow=true");
    for path in ["/health", "/v1/workers", "/v1/events", &own, &logs, &follow, "/nothing", "/v1/workers/none"]
    {
        let reply = hive.raw(format!("HEAD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
        let wanted = if path.contains("no") { 404 } else { 200 };
        assert_eq!((reply.status, reply.body.as_str()), (wanted, ""), "{path}");
    }
}

#[test]
fn a_correlation_id_comes_back_if_it_is_a_uuid_and_stands_in_the_log() {
    let mut hive = Hive::builder().env("RUST_LOG", "debug").start();
    let own = "0b8a6f5e-1111-4222-8333-444455556666";
    for path in ["/health", "/v1/workers", "/v1/workers/none", "/nothing"] {
        let reply = hive.request("GET", path, &[("X-Correlation-Id", own)], None);
        assert_eq!(reply.header("X-Correlation-Id"), own, "{path}");
    }
    let reply = hive.request("POST", SPAWN, &[("X-Correlation-Id", own)], Some("{}"));
    assert_eq!(reply.json()["error"]["correlation_id"], own);
    let mut seen = HashSet::new();
    for wrong in
        ["zq7marker", "", "0b8a6f5e-1111-4222-8333-44445555666", "../../etc/passwd", "0b8a6f5e\t1111"]
    {
        let reply = hive.request("GET", "/health", &[("X-Correlation-Id", wrong)], None);
        let new = reply.header("X-Correlation-Id").to_owned();
        assert_eq!(new.len(), 36, "{wrong}");
        assert!(seen.insert(new), "an id was given twice");
    }
    let twice = format!(
        "GET /health HTTP/1.1\r\nHost: h\r\nX-Correlation-Id: {own}\r\nX-Correlation-Id: {MARK}\r\nConnection: close\r\n\r\n"
    );
    assert!(!hive.raw(twice).head.contains(MARK));
    hive.signal(15);
    assert!(hive.wait_exit().success());
    assert!(hive.log().contains(&format!("cid={own}")), "{}", hive.log());
    assert!(!hive.log().contains(MARK));
}

#[test]
fn no_line_of_the_log_can_be_forged() {
    let mut hive = Hive::builder().env("RUST_LOG", "trace").start();
    let forged = "x\n2026-01-01T00:00:00.000Z ERROR forged\r\n\u{1b}[2Jforged\u{2028}forged";
    for field in ["model_ref", "kind", "device", "backend", "worker_id", "timestamp", "state", "url", forged]
    {
        for path in [SPAWN, READY, BEAT, "/v1/shutdown"] {
            let mut body = json!({"model_ref": hive.model_ref(), "kind": "mock-none", "workers": forged});
            body[field] = json!(forged);
            let reply = hive.post(path, &body);
            assert!((400..500).contains(&reply.status), "{path} {field}: {}", reply.text);
            assert!(!reply.text.contains("forged"), "{path} {field}: {}", reply.text);
        }
    }
    // What a worker may be given is given, and is its own affair.
    let env = json!({"MINE": forged, "MOCK_FAULTS": ""});
    let body = json!({"model_ref": hive.model_ref(), "kind": "mock", "env": env});
    let reply = hive.post(SPAWN, &body);
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    assert_eq!(variable(pid, "MINE").as_deref(), Some(forged));
    // Bytes in the request line and the headers.
    for line in [
        "GET /\u{1b}[2Jforged HTTP/1.1\r\nHost: h",
        "GET /v1/workers/%0aforged HTTP/1.1\r\nHost: h",
        "GET /health?forged=%0aforged HTTP/1.1\r\nHost: h",
        "FORGED\u{7f} /health HTTP/1.1\r\nHost: h",
        "GET /health HTTP/1.1\r\nHost: h\r\nX-Forged: a\u{1b}[2Jforged",
        "GET /health HTTP/1.1\r\nHost: h\r\nX-Correlation-Id: \u{1b}]0;forged\u{7}",
        "GET /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: forged",
    ] {
        let reply = hive.raw(format!("{line}\r\nConnection: close\r\n\r\n"));
        assert!(!reply.head.contains("forged") && !reply.body.contains("forged"), "{line:?}: {reply:?}");
    }
    hive.signal(15);
    assert!(hive.wait_exit().success());
    assert_log_not_forged(&hive.log());
}

/// The refusal of a request that shows these headers.
fn refused(hive: &Hive, path: &str, headers: &str) -> (u16, String) {
    let reply = hive.raw(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"));
    assert!(!reply.body.contains(MARK) && !reply.head.contains(MARK), "{path} {headers}: {reply:?}");
    if reply.status == 401 {
        assert!(reply.head.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{}", reply.head);
    }
    let code = serde_json::from_str::<Value>(&reply.body).unwrap()["error"]["code"].clone();
    (reply.status, code.as_str().unwrap_or_default().to_owned())
}

#[test]
fn the_token_is_asked_for_before_anything_else() {
    let hive = Hive::builder().token("s3cret-of-the-hive").start();
    let paths = [
        "/v1/workers",
        "/v1/events",
        SPAWN,
        "/v1/workers/none",
        "/v1/workers/none?force=x",
        "/v1/",
        "/v1/zq7marker",
        "/v1/models",
    ];
    for (n, path) in paths.into_iter().enumerate() {
        for malformed in [
            "",
            "Authorization: zq7marker\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: bearer s3cret-of-the-hive\r\n",
            "Authorization: BEARER s3cret-of-the-hive\r\n",
            "Authorization: Bearer  s3cret-of-the-hive\r\n",
            "Authorization: Bearer\ts3cret-of-the-hive\r\n",
            "Authorization: Bearer s3cret-of-the-hive zq7marker\r\n",
            "Authorization: Basic czNjcmV0\r\n",
            "Authorization: s3cret-of-the-hive\r\n",
            "Authorization: Bearer s3cret-of-the-hive\r\nAuthorization: Bearer zq7marker\r\n",
            "X-Api-Key: s3cret-of-the-hive\r\n",
        ] {
            assert_eq!(
                refused(&hive, path, malformed),
                (401, "MISSING_API_KEY".into()),
                "{path} {malformed:?}"
            );
        }
        // Two of them each time: after too many, none is looked at.
        let wrong = ["zq7marker", "s3cret-of-the-hiv", "s3cret-of-the-hive1", "S3cret-of-the-hive"];
        for wrong in [wrong[n % 4], wrong[(n + 1) % 4]] {
            let header = format!("Authorization: Bearer {wrong}\r\n");
            assert_eq!(refused(&hive, path, &header), (401, "INVALID_API_KEY".into()), "{path} {wrong}");
        }
    }
    for open in ["/health", "/v1/health", "/health?x=y"] {
        assert_eq!(refused(&hive, open, "Authorization: zq7marker\r\n").0, 200, "{open}");
    }
    assert_eq!(refused(&hive, "/v2/workers", ""), (404, "NOT_FOUND".into()));
    assert_eq!(
        refused(&hive, "/v1", "Authorization: Bearer s3cret-of-the-hive\r\n"),
        (404, "NOT_FOUND".into())
    );
    assert_eq!(hive.get("/v1/workers").status, 200);
    assert_eq!(hive.get("/v1/zq7marker").status, 404);
    // A stranger cannot make the hive hold a body.
    let reply = hive.raw("POST /v1/workers/spawn HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    assert_eq!(reply.status, 401);
    assert_nothing_started(&hive);
    assert!(!hive.log().contains("s3cret") && !hive.log().contains(MARK), "{}", hive.log());
}

#[test]
fn a_workers_token_opens_its_own_callbacks_and_nothing_else() {
    let hive = Hive::builder().token("s3cret-of-the-hive").start();
    let (first, second) = (hive.spawn("mock", "silent"), hive.spawn("mock", ""));
    // Its own heartbeat must not be the later one.
    eventually("it is silent", || {
        hive.get(&format!("/v1/workers/{first}/logs")).text.contains("falling silent")
    });
    let token = |id: &str| {
        let pid = hive.wait_state(id, "ready")["pid"].as_u64().unwrap();
        (pid, variable(pid, "RBEE_WORKER_TOKEN").unwrap())
    };
    let (pid, own) = token(&first);
    let (_, other) = token(&second);
    assert_ne!(own, other);
    let ask = |method: &str, path: &str, token: &str, body: Option<&Value>| {
        let bearer = format!("Bearer {token}");
        let body = body.map(Value::to_string);
        let reply = hive.request(method, path, &[("Authorization", &bearer)], body.as_deref());
        (reply.status, if reply.status == 200 { String::new() } else { reply.code() })
    };
    let beat = json!({"worker_id": first, "timestamp": "t", "health_status": "degraded"});
    let ready = json!({"worker_id": first, "url": "u", "model_ref": "m", "backend": "b", "device": "d"});
    let forbidden = (403, "FORBIDDEN".to_owned());
    for (path, body) in [(BEAT, &beat), (READY, &ready)] {
        assert_eq!(ask("POST", path, &own, Some(body)), (200, String::new()), "{path}");
        assert_eq!(ask("POST", path, &other, Some(body)), forbidden, "{path} for another one");
        assert_eq!(ask("POST", path, "s3cret-of-the-hive", Some(body)), forbidden, "{path} with the queen's");
    }
    assert_eq!(hive.worker(&first)["health"], "degraded");
    let worker = format!("/v1/workers/{first}");
    for (method, path) in [
        ("GET", "/v1/workers"),
        ("GET", worker.as_str()),
        ("GET", "/v1/events"),
        ("DELETE", worker.as_str()),
        ("POST", SPAWN),
        ("POST", "/v1/shutdown"),
    ] {
        let body = json!({"model_ref": hive.model_ref(), "kind": "mock"});
        let body = Some(&body).filter(|_| method == "POST");
        assert_eq!(ask(method, path, &own, body), forbidden, "{method} {path}");
    }
    // The next run has a token of its own, and the old one is nobody's.
    support::kill(u32::try_from(pid).unwrap(), 9);
    hive.wait(&first, "again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    assert_eq!(ask("POST", BEAT, &own, Some(&beat)), (401, "INVALID_API_KEY".into()));
    let (_, new) = token(&first);
    assert_ne!(new, own);
    assert_eq!(ask("POST", BEAT, &new, Some(&beat)).0, 200);
    for secret in [&own, &other, &new] {
        assert!(!hive.log().contains(secret.as_str()), "{}", hive.log());
        assert!(!hive.get("/v1/workers").text.contains(secret.as_str()));
    }
}

#[test]
fn without_a_token_all_is_open() {
    let hive = Hive::start();
    for header in ["", "Authorization: Bearer zq7marker\r\n", "Authorization: zq7marker\r\n"] {
        assert_eq!(refused(&hive, "/v1/workers", header).0, 200, "{header}");
        assert_eq!(refused(&hive, "/v1/zq7marker", header).0, 404, "{header}");
    }
}

#[test]
fn bodies_and_heads_over_their_limits_are_refused() {
    let hive = Hive::start();
    let large = json!({"model_ref": hive.model_ref(), "kind": "mock", "x": "x".repeat(1024 * 1024)});
    let reply = hive.post(SPAWN, &large);
    assert_eq!((reply.status, reply.code().as_str()), (413, "PAYLOAD_TOO_LARGE"));
    let env = json!({"model_ref": hive.model_ref(), "kind": "mock", "env": {"A": "x".repeat(32 * 1024)}});
    let reply = hive.post(SPAWN, &env);
    assert_eq!((reply.status, reply.json()["error"]["details"]["field"].as_str()), (400, Some("env")));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let reply = hive.request("POST", SPAWN, &[], Some(&format!("{{\"x\":{deep}}}")));
    assert_eq!((reply.status, reply.code().as_str()), (400, "INVALID_JSON"));
    let long = "x".repeat(17 * 1024);
    assert_eq!(hive.raw(format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n")).status, 431);
    let many = "X: y\r\n".repeat(101);
    assert_eq!(hive.raw(format!("GET /health HTTP/1.1\r\nHost: h\r\n{many}\r\n")).status, 431);
    for key in ["", " ", "a b", "ä", &"k".repeat(256)] {
        let body = json!({"model_ref": hive.model_ref(), "kind": "mock"}).to_string();
        let request = format!(
            "POST {SPAWN} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = hive.raw(request);
        assert_eq!(reply.status, 400, "{key:?}: {}", reply.body);
        assert!(reply.body.contains("Idempotency-Key"), "{}", reply.body);
    }
    assert_nothing_started(&hive);
}

#[test]
fn a_storm_of_wrong_requests_leaves_the_hive_well() {
    let hive = Hive::builder().token("s3cret-of-the-hive").start();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..100 {
                    let (method, path, body, status, ..) = ROWS[n % 12];
                    let reply = hive.request(method, path, &[], Some(body));
                    // Callbacks are not the queen's.
                    assert!([status, 403].contains(&reply.status), "{path}: {}", reply.text);
                }
            });
        }
    });
    assert_nothing_started(&hive);
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
}

fn serve(args: &[&str], env: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command.env_clear().env("HOME", folder.path()).envs(env.iter().copied());
    command.arg("serve").args(args).output().unwrap()
}

#[test]
fn a_hive_that_is_set_up_wrongly_does_not_start() {
    for bind in ["0.0.0.0:0", "[::]:0", "192.0.2.1:1"] {
        let output = serve(&["--bind", bind], &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{bind}: {stderr}");
        assert!(stderr.starts_with("error: API token required for non-loopback bind\nhint: "), "{stderr}");
        assert!(output.stdout.is_empty());
    }
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("kind.json");
    std::fs::write(
        &manifest,
        r#"{"kind":"x","protocol":"native","program":"x","backends":["cpu"],"args":["{nothing}"]}"#,
    )
    .unwrap();
    let manifest = manifest.to_str().unwrap();
    for args in [
        &["--no-such-flag"][..],
        &["--bind"],
        &["--bind", "zq7marker"],
        &["--threads", "0"],
        &["--worker-ports", "9-8"],
        &["--heartbeat-interval", "soon"],
        &["--hive-id", "a b"],
        &["--worker", "no-such-kind=/bin/true"],
        &["--kind-file", manifest],
        &["stray"],
    ] {
        let output = serve(args, &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert!(stderr.lines().count() <= 2, "{args:?}: {stderr}");
    }
    let mistake = String::from_utf8(serve(&["--kind-file", manifest], &[]).stderr).unwrap();
    assert!(mistake.contains("kind.json") && mistake.contains("args"), "{mistake}");
    assert_eq!(serve(&["--threads", "1"], &[("RBEE_HIVE_BIND", "nowhere")]).status.code(), Some(2));
    let token = serve(&["--bind", "127.0.0.1:0"], &[("RBEE_HIVE_TOKEN", "two words")]);
    let stderr = String::from_utf8(token.stderr).unwrap();
    assert_eq!(token.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("two words"), "{stderr}");
}

#[test]
fn a_start_that_fails_half_way_ends_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("logs"), "a file, where a folder must be").unwrap();
    let output = serve(&["--bind", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()], &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.lines().any(|line| line.starts_with("error: ")), "{stderr}");
    assert!(output.stdout.is_empty(), "it never listened");
}

#[test]
fn a_stranger_cannot_make_the_hive_hold_a_body() {
    let hive = Hive::builder().token("s3cret-of-the-hive").start();
    for (path, status) in
        [("/", 413), ("/health", 413), ("/v1/health", 413), ("/v1/workers/spawn", 401), ("/nowhere", 404)]
    {
        for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
            // The body never comes: the answer does not wait for it.
            let reply = hive.raw(format!("GET {path} HTTP/1.1\r\nHost: hive\r\n{framing}\r\n\r\n"));
            assert_eq!(reply.status, status, "{path} with {framing}");
        }
    }
    assert_eq!(hive.request("GET", "/health", &[("Content-Length", "0")], None).status, 200);
}
