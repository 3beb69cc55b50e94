//! Draining and readiness: who is refused, who stays, who leaves, and who hears of it.

use crate::support;

use std::net::TcpListener;

use rbee_hive::api::{Heartbeat, HiveStatus};
use rbee_hive::client::HiveClient;
use rbee_hive::id::Token;
use rbee_hive::mock::queen::{Options, Queen};
use serde_json::{Value, json};
use support::{Events, Hive, PATIENCE, variable};

fn drain(hive: &Hive, body: &Value) -> (u16, Value) {
    let reply = hive.post("/v1/drain", body);
    (reply.status, reply.json())
}

fn spawn(hive: &Hive, key: &str) -> support::Reply {
    let order = json!({"model_ref": hive.model_ref(), "kind": "mock"});
    hive.request("POST", "/v1/workers/spawn", &[("Idempotency-Key", key)], Some(&order.to_string()))
}

fn readiness(hive: &Hive) -> (u16, Value) {
    let reply = hive.request("GET", "/ready", &[("Authorization", "none")], None);
    (reply.status, reply.json())
}

fn not_ready(reason: &str) -> (u16, Value) {
    (503, json!({"status": "not_ready", "reason": reason}))
}

/// The next thing that the hive says of itself.
fn status(events: &mut Events) -> String {
    loop {
        let (event, data) = events.next_event().expect("the events go on");
        if event == "hive" {
            return data["status"].as_str().unwrap().to_owned();
        }
    }
}

#[test]
fn a_drained_hive_refuses_newcomers_serves_on_and_tells_everybody() {
    let queen = Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), Options::default()).unwrap();
    let hive = Hive::builder()
        .arg("--queen-url", format!("http://{}", queen.addr()))
        .arg("--heartbeat-interval", "1h")
        .token("s3cret-of-the-hive")
        .start();
    let mut events = hive.events();
    assert_eq!(status(&mut events), "ready");
    assert_eq!(readiness(&hive), (200, json!({"status": "ready"})));
    let id = spawn(&hive, "one").json()["worker_id"].as_str().unwrap().to_owned();
    hive.wait_state(&id, "ready");

    let client = HiveClient::new(&hive.url).unwrap().with_token(Token::parse("s3cret-of-the-hive").unwrap());
    for _ in 0..2 {
        let answer = client.drain(true).unwrap();
        assert!(answer.draining && answer.workers == 1, "a second time is like the first");
    }
    assert_eq!(readiness(&hive), not_ready("draining"));
    assert_eq!(hive.get("/health").json()["status"], "alive", "nobody needs to start it again");
    let told = queen.heartbeats().find(PATIENCE, &|beat: &Heartbeat| beat.status == HiveStatus::Draining);
    assert_eq!(told.expect("the queen hears of it").workers[0].worker_id.as_str(), id);
    let refused = spawn(&hive, "two");
    assert_eq!((refused.status, refused.code().as_str()), (503, "DRAINING"));
    let wrong = hive.post("/v1/workers/spawn", &json!({}));
    assert_eq!(wrong.code(), "DRAINING", "the state is looked at before the arguments");
    let asked = hive.get(&format!("/v1/capacity?model={}", hive.model_ref()));
    assert_eq!(asked.code(), "DRAINING", "the question has the answer of the spawn");
    assert_eq!(spawn(&hive, "one").json()["worker_id"], id.as_str(), "who was taken is told so again");
    assert_eq!(hive.worker(&id)["state"], "ready");
    // What one drains a machine for is not refused.
    let fetch = hive.post("/v1/models/download", &json!({"model_ref": "hf:org/tiny"}));
    assert_eq!(fetch.code(), "MODEL_NOT_FOUND", "the hub is away, and that is all");
    assert_eq!(hive.post("/v1/workers/provision", &json!({"kind": "mock"})).status, 200);

    assert!(!client.drain(false).unwrap().draining);
    assert_eq!(readiness(&hive), (200, json!({"status": "ready"})));
    assert_eq!(spawn(&hive, "two").status, 202);
    let words: Vec<String> = (0..2).map(|_| status(&mut events)).collect();
    assert_eq!(words, ["draining", "ready"], "each change is told once");
    queen
        .heartbeats()
        .find(PATIENCE, &|beat: &Heartbeat| beat.status == HiveStatus::Ready)
        .expect("she hears that too");
}

#[test]
fn whoever_has_nothing_to_do_leaves_a_drained_hive_on_request_and_no_request_is_cut() {
    let manifest = json!({"kind": "silent-about-work", "protocol": "probe", "program": support::MOCK,
        "args": ["worker", "--protocol", "probe", "--model", "{model_path}", "--host", "{host}", "--port", "{port}"],
        "backends": ["cpu"], "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}});
    let hive = Hive::builder().kind(manifest).start();
    let mut events = hive.events();
    let pinned = json!({"model_ref": hive.model_ref(), "kind": "mock", "pinned": true});
    let pinned = hive.post("/v1/workers/spawn", &pinned).json()["worker_id"].as_str().unwrap().to_owned();
    let (native, probed) = (hive.spawn("mock", ""), hive.spawn("mock-probe", ""));
    let (busy, unknown) = (hive.spawn("mock", ""), hive.spawn("silent-about-work", ""));
    for id in [&pinned, &native, &probed, &busy, &unknown] {
        hive.wait_state(id, "ready");
    }
    let crashing = hive.spawn("mock", "crash-at-start=3");
    let loading = hive.spawn("mock", "never-ready");
    hive.wait(&crashing, "in backoff", |worker| worker["phase"] == "backoff");
    let url = hive.worker(&busy)["url"].as_str().unwrap().to_owned();
    let ask = move || ureq::post(format!("{url}/v1/completions")).send(r#"{"prompt":"a b","ms":3000}"#);
    let work = std::thread::spawn(ask);
    hive.wait_state(&busy, "busy");

    let (status, answer) = drain(&hive, &json!({"drain": true, "stop_idle": true}));
    assert_eq!((status, &answer["draining"]), (200, &json!(true)));
    hive.wait_state(&crashing, "gone");
    for id in [&native, &probed, &pinned, &loading, &busy] {
        assert_eq!(hive.wait_state(id, "gone")["exit"]["reason"], "drain");
    }
    let (story, _) = hive.story(&mut events, &busy);
    assert_eq!(story, ["spawning", "ready", "busy", "ready", "stopping", "gone"]);
    assert_eq!(work.join().unwrap().unwrap().status(), 200, "its request came to its end");
    assert_eq!(hive.worker(&unknown)["state"], "ready", "nobody knows whether it has work");
    assert_eq!(hive.workers().len(), 1);
    // The last call counts: from now on nobody is stopped.
    assert_eq!(drain(&hive, &json!({"drain": true})).1, json!({"draining": true, "workers": 1}));
    assert_eq!(drain(&hive, &json!({"drain": false})).1, json!({"draining": false, "workers": 1}));
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
}

#[test]
fn a_drain_names_its_mistakes_and_wants_the_token_that_readiness_does_not() {
    let hive = Hive::builder().token("s3cret-of-the-hive").start();
    let wrong = [
        (json!({}), "drain", "drain must be true or false"),
        (json!({"drain": null}), "drain", "drain must be true or false"),
        (json!({"drain": "true"}), "drain", "drain must be true or false"),
        (json!({"drain": true, "stop_idle": 1}), "stop_idle", "stop_idle must be true or false"),
        (json!({"drain": false, "stop_idle": true}), "stop_idle", "stop_idle must be false where drain is"),
    ];
    for (body, field, message) in wrong {
        let (status, answer) = drain(&hive, &body);
        let error = &answer["error"];
        assert_eq!((status, &error["code"]), (400, &json!("INVALID_ARGUMENT")), "{body}");
        assert_eq!(
            (&error["details"]["field"], &error["message"]),
            (&json!(field), &json!(message)),
            "{body}"
        );
    }
    assert_eq!(hive.post("/v1/drain", &json!([true])).code(), "INVALID_JSON");
    let id = hive.spawn("mock", "");
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    let token = format!("Bearer {}", variable(pid, "RBEE_WORKER_TOKEN").unwrap());
    let with = |token: &str| {
        hive.request("POST", "/v1/drain", &[("Authorization", token)], Some(r#"{"drain":true}"#))
    };
    assert_eq!((with("Bearer wrong").status, with(&token).status), (401, 403));
    assert_eq!(hive.get("/v1/drain").header("Allow"), "POST");
    assert_eq!(readiness(&hive).0, 200);
    assert_eq!(hive.raw("HEAD /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").status, 200);
    let held = hive.raw("GET /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(held.status, 413, "whoever needs no token brings no body");
}

#[test]
fn a_hive_in_the_cascade_is_not_ready_and_no_drain_takes_that_back() {
    let mut hive = Hive::builder().arg("--shutdown-timeout", "1h").start();
    let id = hive.spawn("mock", "ignore-term,ignore-shutdown");
    hive.wait_state(&id, "ready");
    assert_eq!(drain(&hive, &json!({"drain": true})).0, 200);
    assert_eq!(hive.post("/v1/shutdown", &json!({})).status, 202);
    assert_eq!(readiness(&hive), not_ready("stopping"));
    for body in [json!({"drain": false}), json!({"drain": true, "stop_idle": true})] {
        let (status, answer) = drain(&hive, &body);
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("SHUTTING_DOWN")));
    }
    assert_eq!(readiness(&hive), not_ready("stopping"));
    hive.delete(&format!("/v1/workers/{id}?force=true"));
    assert!(hive.wait_exit().success());
}

#[test]
fn a_hive_that_is_started_again_is_not_drained() {
    let hive = Hive::start();
    assert_eq!(drain(&hive, &json!({"drain": true})).0, 200);
    hive.signal(15);
    let hive = hive.restart(Hive::builder());
    assert_eq!(readiness(&hive).0, 200);
}
