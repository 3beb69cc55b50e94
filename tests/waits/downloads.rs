//! Downloads by the real daemon from a hub that behaves badly: what each fault ends in, who is told what, and
//! what is on the disk afterwards.

use crate::support;

use std::time::Duration;

use rbee_hive::id::Token;
use rbee_hive::mock::hub::{Access, Fault, Hub, HubCode, Options, Place, Repository, Side, Times};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use support::{Builder, Events, Hive, PATIENCE, eventually};

const MIB: usize = 1024 * 1024;
const TOKEN: &str = "hf_s3cret";

/// The same numbers for the same seed (xorshift64; Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A GGUF that the hive can read, made `bytes` long by what no two seeds share.
fn model(seed: u64, bytes: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    support::gguf::TINY.write(&path);
    let mut model = std::fs::read(path).unwrap();
    let mut random = Random::new(seed);
    while model.len() < bytes {
        model.extend_from_slice(&random.next().to_le_bytes());
    }
    model.truncate(bytes.max(1));
    model
}

fn hub(name: &str, repository: Repository) -> Hub {
    let hub = Hub::start(Options { token: Token::parse(TOKEN), ..Options::default() }).unwrap();
    hub.add(name, repository);
    hub
}

fn online(hub: &Hub) -> Builder {
    Hive::builder()
        .env("HF_ENDPOINT", hub.url())
        .env("HF_HUB_OFFLINE", "0")
        .env("HF_TOKEN", TOKEN)
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "2")
}

fn begin(hive: &Hive, model: &str) -> String {
    let reply = hive.post("/v1/models/download", &json!({ "model_ref": model }));
    assert_eq!(reply.status, 202, "{}", reply.text);
    reply.json()["download_id"].as_str().unwrap().to_owned()
}

fn progress(hive: &Hive, id: &str) -> Events {
    hive.stream(&format!("/v1/models/download/progress?id={id}"), "")
}

/// All that a stream tells until its end; the last one is the end's. How much is here never falls.
fn told(events: &mut Events) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut last_id = 0;
    loop {
        let event = events.next_raw().expect("the stream ends with [DONE]");
        if event.data == "[DONE]" {
            assert!(events.next_raw().is_none(), "nothing comes after [DONE]");
            return all;
        }
        let id = event.id.expect("each event has an id");
        assert!(id > last_id, "ids grow: {id} after {last_id}");
        last_id = id;
        let value: Value = serde_json::from_str(&event.data).unwrap();
        let bytes = |value: &Value| value["bytes_downloaded"].as_u64().unwrap_or_default();
        let before = all.iter().map(bytes).max().unwrap_or_default();
        assert!(value["stage"] != "downloading" || bytes(&value) >= before, "{value} after {before}");
        all.push(value);
    }
}

fn fetched(hive: &Hive, model: &str) -> Value {
    told(&mut progress(hive, &begin(hive, model))).pop().expect("an end")
}

/// Forgets what the hub was asked, once it has seen the end of all of it.
fn forget(hub: &Hub) {
    assert!(hub.wait_for(PATIENCE, |seen| seen.iter().all(|request| request.ended)));
    hub.forget_requests();
}

/// What lies in the folder of blobs, by name; a blob's bytes are what its name says.
fn blobs(hive: &Hive, folder: &str) -> Vec<String> {
    let blobs = hive.models.join(folder).join("blobs");
    let entries = std::fs::read_dir(&blobs).map(Vec::from_iter).unwrap_or_default();
    let mut names: Vec<String> =
        entries.into_iter().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in names.iter().filter(|name| name.len() == 64) {
        let bytes = std::fs::read(blobs.join(name)).unwrap();
        let sum: String = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(*name, sum, "a blob with wrong bytes");
    }
    names.sort();
    names
}

/// Nothing has a final name but what is whole: each link of a snapshot leads to a blob.
fn links(hive: &Hive, folder: &str) -> usize {
    let mut count = 0;
    let mut folders = vec![hive.models.join(folder).join("snapshots")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).map(Vec::from_iter).unwrap_or_default() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path);
            } else {
                assert!(path.is_file(), "a broken link: {}", path.display());
                count += 1;
            }
        }
    }
    count
}

struct Case {
    what: &'static str,
    place: Place,
    fault: Fault,
    times: Times,
    /// The stage and, of an error, the code that it ends in; or the refusal of the request.
    end: &'static str,
}

fn case(what: &'static str, place: Place, fault: Fault, times: Times, end: &'static str) -> Case {
    Case { what, place, fault, times, end }
}

fn cases() -> Vec<Case> {
    use Times::{Always, Count, Once};
    let half = 3 * MIB as u64;
    vec![
        case("cut after half of it, once", Place::Cdn, Fault::Cut(half), Once, "complete"),
        case("cut after every 2 MiB", Place::Cdn, Fault::Cut(2 * MIB as u64), Always, "complete"),
        case("cut at once, always", Place::Cdn, Fault::Cut(0), Always, "UPSTREAM"),
        case("reset after half of it", Place::Cdn, Fault::Reset(half), Once, "complete"),
        case("hung up on, three times", Place::Cdn, Fault::HangUp, Count(3), "complete"),
        case("a wrong byte, once", Place::Cdn, Fault::Corrupt(half), Once, "complete"),
        case("a wrong byte, always", Place::Cdn, Fault::Corrupt(half), Always, "UPSTREAM"),
        case("stalled after half of it", Place::Cdn, Fault::Stall(half), Once, "complete"),
        case("429, come back after 1 s", Place::Resolve, Fault::TooMany(1), Once, "complete"),
        case("429 of the CDN", Place::Cdn, Fault::TooMany(1), Count(2), "complete"),
        case("500, twice", Place::Cdn, Fault::Status(500), Count(2), "complete"),
        case("503, always", Place::Cdn, Fault::Status(503), Always, "UPSTREAM"),
        case("500 of the list", Place::Tree, Fault::Status(500), Always, "502 UPSTREAM"),
        case("HTML for JSON", Place::Info, Fault::Html, Always, "502 UPSTREAM"),
        case("HTML for the list", Place::Tree, Fault::Html, Always, "502 UPSTREAM"),
        case("HTML for the file", Place::Cdn, Fault::Html, Always, "UPSTREAM"),
        case("an endless list", Place::Tree, Fault::Endless, Always, "502 UPSTREAM"),
        case("a file that goes on for ever", Place::Cdn, Fault::Endless, Always, "complete"),
        case("a wrong length", Place::Cdn, Fault::LengthOff(7), Always, "UPSTREAM"),
        case("a wrong total", Place::Cdn, Fault::TotalOff(7), Always, "UPSTREAM"),
        case("another range", Place::Cdn, Fault::RangeOff(7), Always, "UPSTREAM"),
        case("no ranges", Place::Cdn, Fault::NoRanges, Always, "complete"),
        case("no length told", Place::Cdn, Fault::Chunked, Always, "complete"),
        case("redirected in a loop", Place::Resolve, Fault::RedirectLoop, Always, "UPSTREAM"),
        case("a location that expires", Place::Cdn, Fault::ExpireAfter(1), Always, "complete"),
        case(
            "401, no such repository",
            Place::Any,
            Fault::Refuse(HubCode::RepoNotFound),
            Always,
            "404 MODEL_NOT_FOUND",
        ),
        case(
            "404, no such revision",
            Place::Info,
            Fault::Refuse(HubCode::RevisionNotFound),
            Always,
            "404 MODEL_NOT_FOUND",
        ),
        case("403, gated", Place::Resolve, Fault::Refuse(HubCode::GatedRepo), Always, "MODEL_ACCESS_DENIED"),
        case(
            "404, no such file",
            Place::Resolve,
            Fault::Refuse(HubCode::EntryNotFound),
            Always,
            "MODEL_NOT_FOUND",
        ),
    ]
}

fn play(case: &Case) -> String {
    let bytes = model(1, 6 * MIB);
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", bytes));
    hub.fault(case.place, "", case.fault.clone(), case.times);
    let hive = online(&hub).start();
    let reply = hive.post("/v1/models/download", &json!({ "model_ref": "hf:org/tiny" }));
    let end = if reply.status == 202 {
        let id = reply.json()["download_id"].as_str().unwrap().to_owned();
        let end = told(&mut progress(&hive, &id)).pop().expect("an end");
        match end["stage"].as_str().unwrap() {
            "error" => end["code"].as_str().unwrap().to_owned(),
            stage => stage.to_owned(),
        }
    } else {
        format!("{} {}", reply.status, reply.code())
    };
    let is_here = end == "complete";
    let whole = blobs(&hive, "models--org--tiny").iter().filter(|name| name.len() == 64).count();
    assert_eq!(whole, usize::from(is_here), "{}: {:?}", case.what, blobs(&hive, "models--org--tiny"));
    assert_eq!(links(&hive, "models--org--tiny"), usize::from(is_here), "{}", case.what);
    assert!(!hub.cdn_saw_token(), "{}: the token left for another host", case.what);
    assert!(!hive.log().contains(TOKEN), "{}: the token is in the log", case.what);
    end
}

#[test]
fn every_fault_of_the_hub_ends_right() {
    let cases = cases();
    let ends: Vec<(String, bool)> = std::thread::scope(|scope| {
        let running: Vec<_> = cases.iter().map(|case| scope.spawn(|| play(case))).collect();
        running
            .into_iter()
            .zip(&cases)
            .map(|(thread, case)| {
                let end = thread.join().unwrap();
                let line = format!("{:<28} {end}", case.what);
                println!("{line}");
                (format!("{line}, expected {}", case.end), end == case.end)
            })
            .collect()
    });
    let wrong: Vec<_> = ends.into_iter().filter(|(_, right)| !right).map(|(line, _)| line).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn however_many_ask_there_is_one_transfer_and_all_see_its_end() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(2, 8 * MIB)));
    hub.fault(Place::Bytes, "", Fault::Rate(8 * MIB as u64), Times::Always);
    let hive = online(&hub).start();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..16)
            .map(|n| {
                let model = ["hf:org/tiny", "hf:org/tiny:q8_0", "HF:org/tiny@main"][n % 3];
                let hive = &hive;
                scope.spawn(move || begin(hive, model))
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let mut streams: Vec<Events> = (0..32).map(|_| progress(&hive, &ids[0])).collect();
    let first: Value = serde_json::from_str(&streams[0].next_raw().unwrap().data).unwrap();
    assert_eq!((&first["stage"], &first["bytes_total"]), (&json!("downloading"), &json!(8 * MIB)));
    assert_eq!(first["file"], "m-Q8_0.gguf");
    let ends: Vec<Value> = std::thread::scope(|scope| {
        let read: Vec<_> = streams.iter_mut().map(|stream| scope.spawn(|| told(stream).pop())).collect();
        read.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ends.len() == 32 && ends.iter().all(|end| end["stage"] == "complete"), "{ends:?}");
    let body = hub.requests().iter().filter(|seen| seen.path.contains("resolve")).count();
    assert!(body <= 2, "the file was asked for {body} times");
    // Who comes late gets the end; who has seen it gets nothing more.
    let path = ends[0]["local_path"].as_str().unwrap();
    let late = told(&mut progress(&hive, &ids[0]));
    assert_eq!(late.len(), 1);
    let last = progress(&hive, &ids[0]).next_raw().unwrap().id.unwrap();
    let resumed = format!("/v1/models/download/progress?id={}", ids[0]);
    let mut seen = hive.stream(&resumed, &format!("Last-Event-ID: {last}\r\n"));
    assert_eq!(seen.next_raw().unwrap().data, "[DONE]");
    // What is here is not fetched again.
    let reply = hive.post("/v1/models/download", &json!({ "model_ref": "hf:org/tiny:Q8_0" }));
    assert_eq!((reply.status, reply.json()["download_id"].as_str()), (200, Some("cached")));
    assert_eq!(reply.json()["local_path"], path);
    assert_eq!(std::fs::read(path).unwrap(), model(2, 8 * MIB));
}

#[test]
fn a_cancelled_download_stops_and_goes_on_where_it_was() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(3, 12 * MIB)));
    hub.fault(Place::Cdn, "", Fault::Stall(9 * MIB as u64), Times::Once);
    let hive = online(&hub).env("HF_HUB_DOWNLOAD_TIMEOUT", "600").start();
    let mut events = hive.events();
    let id = begin(&hive, "hf:org/tiny");
    let mut stream = progress(&hive, &id);
    eventually("most of it is here", || {
        let event: Value = serde_json::from_str(&stream.next_raw().unwrap().data).unwrap();
        event["bytes_downloaded"].as_u64() > Some(8 * MIB as u64)
    });
    let refused = hive.delete("/v1/models?ref=hf:org/tiny");
    assert_eq!((refused.status, refused.code()), (409, "MODEL_IN_USE".to_owned()));
    let reply = hive.delete(&format!("/v1/models/download?id={id}"));
    assert_eq!(reply.status, 202, "{}", reply.text);
    let end = told(&mut stream).pop().unwrap();
    assert_eq!((&end["stage"], &end["code"]), (&json!("error"), &json!("CANCELLED")));
    let names = blobs(&hive, "models--org--tiny");
    assert!(names.iter().any(|name| name.ends_with(".incomplete")), "{names:?}");
    let listed = &hive.get("/v1/models").json()["models"][0];
    assert_eq!((&listed["model_ref"], &listed["partial"]), (&json!("hf:org/tiny"), &json!(true)), "{listed}");
    forget(&hub);
    assert_eq!(fetched(&hive, "hf:org/tiny")["stage"], "complete");
    let again: u64 =
        hub.requests().iter().filter(|seen| seen.path.contains("gguf")).map(|seen| seen.sent).sum();
    assert!(again < 4 * MIB as u64, "{again} bytes were sent again");
    assert_eq!(blobs(&hive, "models--org--tiny").len(), 1, "no leftovers");
    // The events of the hive told both ends.
    let mut ends = Vec::new();
    while ends.len() < 2 {
        let (name, data) = events.next_event().expect("the events go on");
        if name == "download" && ["complete", "error"].contains(&data["stage"].as_str().unwrap()) {
            assert_eq!(data["download_id"], id);
            ends.push(data["stage"].clone());
        }
    }
    assert_eq!(ends, ["error", "complete"]);
    assert_eq!(hive.delete("/v1/models/download?id=d-0123456789abcdef").code(), "DOWNLOAD_NOT_FOUND");
    assert_eq!(hive.get("/v1/models/download/progress?id=..").code(), "DOWNLOAD_NOT_FOUND");
}

#[test]
fn what_is_asked_for_again_right_after_its_cancel_is_alive() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(14, 4 * MIB)));
    hub.fault(Place::Cdn, "", Fault::Stall(MIB as u64), Times::Always);
    let hive = online(&hub).env("HF_HUB_DOWNLOAD_TIMEOUT", "600").start();
    let mut events = hive.events();
    let rounds = 20;
    for _ in 0..rounds {
        let id = begin(&hive, "hf:org/tiny");
        hive.delete(&format!("/v1/models/download?id={id}"));
    }
    let id = begin(&hive, "hf:org/tiny");
    // Each end comes before the next beginning: the last word is that it goes on.
    let mut ends = 0;
    while ends < rounds {
        let (name, data) = events.next_event().expect("the events go on");
        if name == "download" && data["stage"] == "error" {
            assert_eq!(data["code"], "CANCELLED");
            ends += 1;
        }
    }
    let (name, data) = events.next_event().expect("the events go on");
    assert_eq!((name.as_str(), &data["stage"]), ("download", &json!("downloading")), "{data}");
    let (_, picture) = hive.events().next_event().expect("it is in the picture");
    assert_eq!((&picture["download_id"], &picture["stage"]), (&json!(id), &json!("downloading")));
    hub.heal();
    hive.delete(&format!("/v1/models/download?id={id}"));
    assert_eq!(fetched(&hive, "hf:org/tiny")["stage"], "complete");
}

#[test]
fn all_names_that_a_shared_download_was_asked_for_by_are_noted() {
    let bytes = model(15, 4 * MIB);
    let hub = Hub::start(Options { token: Token::parse(TOKEN), ..Options::default() }).unwrap();
    let commit = hub.add("org/tiny", Repository::new().with("m-Q8_0.gguf", bytes).on("main").on("v1"));
    hub.fault(Place::Bytes, "", Fault::Rate(2 * MIB as u64), Times::Always);
    let hive = online(&hub).start();
    let ids: Vec<String> = [format!("hf:org/tiny@{commit}"), "hf:org/tiny@v1".into(), "hf:org/tiny".into()]
        .iter()
        .map(|model| begin(&hive, model))
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(told(&mut progress(&hive, &ids[0])).pop().unwrap()["stage"], "complete");
    for name in ["main", "v1"] {
        let path = hive.models.join("models--org--tiny/refs").join(name);
        assert_eq!(std::fs::read_to_string(path).unwrap(), commit, "{name}");
    }
    let listed = &hive.get("/v1/models").json()["models"][0];
    assert_eq!(listed["refs"], json!(["main", "v1"]));
}

#[test]
fn a_spawn_fetches_what_is_missing_and_goes_on_by_itself() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(4, 4 * MIB)));
    hub.fault(Place::Bytes, "", Fault::Rate(4 * MIB as u64), Times::Always);
    let hive = online(&hub).start();
    let mut events = hive.events();
    let body = json!({"model_ref": "hf:org/tiny", "kind": "mock"});
    // Its header is read from the hub before anything is fetched.
    let fits = hive.get("/v1/capacity?model=hf:org/tiny&kind=mock&device=cpu");
    assert_eq!(fits.status, 204, "{}", fits.text);
    assert!(!hive.models.join("models--org--tiny").exists());
    let too_large = json!({"model_ref": "hf:org/tiny", "kind": "mock", "memory_bytes": 1_u64 << 43});
    let refused = hive.post("/v1/workers/spawn", &too_large);
    assert_eq!(refused.code(), "INSUFFICIENT_RAM", "{}", refused.text);
    let reply = hive.post("/v1/workers/spawn", &body);
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
    let worker = hive.worker(&id);
    assert_eq!((&worker["state"], &worker["phase"]), (&json!("spawning"), &json!("provisioning")));
    let download = worker["download_id"].as_str().unwrap().to_owned();
    assert!(worker["reserved_bytes"].as_u64() > Some(0) && worker["pid"].is_null(), "{worker}");
    assert_eq!(told(&mut progress(&hive, &download)).pop().unwrap()["stage"], "complete");
    let ready = hive.wait_state(&id, "ready");
    assert!(ready["download_id"].is_null());
    let mut phases = Vec::new();
    while phases.last() != Some(&json!("ready")) {
        let (name, data) = events.next_event().unwrap();
        if name == "worker" {
            phases.push(if data["phase"].is_null() { data["state"].clone() } else { data["phase"].clone() });
        }
    }
    phases.dedup();
    // A worker that loads nothing may call before the hive hears that it runs.
    phases.retain(|phase| phase != "loading");
    assert_eq!(phases, ["provisioning", "launching", "ready"]);
    assert_eq!(hive.get("/v1/models").json()["models"][0]["in_use"], true);
    let refused = hive.delete("/v1/models?ref=hf:org/tiny");
    assert_eq!(refused.code(), "MODEL_IN_USE", "{}", refused.text);
    hive.delete(&format!("/v1/workers/{id}"));
    hive.wait_state(&id, "gone");
    assert_eq!(hive.delete("/v1/models?ref=hf:org/tiny").status, 204);
    assert_eq!(hive.delete("/v1/models?ref=hf:org/tiny").code(), "MODEL_NOT_FOUND");
    assert!(hive.get("/v1/models").json()["models"].as_array().unwrap().is_empty());
}

#[test]
fn a_worker_ends_with_the_reason_of_its_download() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(5, 4 * MIB)));
    let hive = online(&hub).start();
    let spawn = json!({"model_ref": "hf:org/tiny", "kind": "mock", "memory_bytes": 1});
    hub.fault(Place::Resolve, "", Fault::Refuse(HubCode::GatedRepo), Times::Always);
    let denied = hive.post("/v1/workers/spawn", &spawn).json()["worker_id"].as_str().unwrap().to_owned();
    let last = hive.wait_state(&denied, "gone");
    assert_eq!(last["exit"]["reason"], "download_failed", "{last}");
    assert!(last["exit"]["message"].as_str().unwrap().contains("denies access"), "{last}");
    // Nobody wants it any more: its transfer ends too.
    hub.heal();
    hub.fault(Place::Cdn, "", Fault::Stall(MIB as u64), Times::Always);
    let reply = hive.post("/v1/workers/spawn", &spawn).json();
    let id = reply["worker_id"].as_str().unwrap();
    let download = hive.worker(id)["download_id"].as_str().unwrap().to_owned();
    hive.delete(&format!("/v1/workers/{id}"));
    assert_eq!(hive.wait_state(id, "gone")["exit"]["reason"], "stopped");
    assert_eq!(told(&mut progress(&hive, &download)).pop().unwrap()["code"], "CANCELLED");
}

#[test]
fn what_cannot_be_fetched_is_refused_with_what_there_is() {
    let two = Repository::new().with("m-Q2_K.gguf", model(6, 9)).with("m-Q8_0.gguf", model(7, 9));
    let hub = hub("org/tiny", two);
    hub.add("org/gated", Repository::new().with("m.gguf", model(8, 9)).access(Access::Closed));
    hub.add("org/data", Repository::new().with("README.md", "no model"));
    let hive = online(&hub).start();
    let ask = |model: &str| hive.post("/v1/models/download", &json!({ "model_ref": model }));
    let missing = ask("hf:org/tiny:Q4_K_M");
    assert_eq!((missing.status, missing.code()), (404, "MODEL_NOT_FOUND".to_owned()));
    assert_eq!(missing.json()["error"]["details"]["quants"], json!(["Q2_K", "Q8_0"]));
    assert!(missing.text.contains("Q2_K, Q8_0"), "{}", missing.text);
    for (model, code) in [
        ("hf:org/absent", "MODEL_NOT_FOUND"),
        ("hf:org/tiny@v9", "MODEL_NOT_FOUND"),
        ("hf:org/data", "MODEL_NOT_FOUND"),
        ("file:/m.gguf", "INVALID_ARGUMENT"),
        ("org/tiny", "INVALID_ARGUMENT"),
    ] {
        assert_eq!(ask(model).code(), code, "{model}");
    }
    assert_eq!(fetched(&hive, "hf:org/gated")["code"], "MODEL_ACCESS_DENIED");
    let offline = Hive::start();
    let reply = offline.post("/v1/models/download", &json!({ "model_ref": "hf:org/tiny" }));
    assert_eq!(reply.code(), "MODEL_NOT_FOUND");
    assert!(reply.text.contains("HF_HUB_OFFLINE"), "{}", reply.text);
}

#[test]
fn a_hub_that_does_not_answer_holds_no_request_thread() {
    let hub = hub("org/tiny", Repository::new().with("m.gguf", model(9, 9)));
    hub.fault(Place::Info, "", Fault::Stall(0), Times::Always);
    let mut hive = online(&hub).arg("--threads", 1).start();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..6)
            .map(|_| {
                let body = "{\"model_ref\":\"hf:org/tiny\"}";
                let head = "POST /v1/models/download HTTP/1.1\r\nHost: hive\r\nConnection: close\r\n";
                let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                let hive = &hive;
                scope.spawn(move || hive.raw(request))
            })
            .collect();
        assert!(hub.wait_for(PATIENCE, |seen| seen.len() >= 4), "the hub is asked");
        let other = hive.spawn("mock", "");
        hive.wait_state(&other, "ready");
        assert_eq!(hive.post("/v1/shutdown", &json!({})).status, 202);
        for thread in waiting {
            assert_eq!(thread.join().unwrap().status, 503);
        }
    });
    assert_eq!(hive.wait_exit().code(), Some(0));
}

#[test]
fn the_cascade_stops_downloads_and_keeps_what_is_here() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(10, 8 * MIB)));
    hub.fault(Place::Cdn, "", Fault::Stall(6 * MIB as u64), Times::Once);
    let mut hive = online(&hub).env("HF_HUB_DOWNLOAD_TIMEOUT", "600").start();
    let id = begin(&hive, "hf:org/tiny");
    let mut stream = progress(&hive, &id);
    eventually("most of it is here", || {
        let event: Value = serde_json::from_str(&stream.next_raw().unwrap().data).unwrap();
        event["bytes_downloaded"].as_u64() > Some(5 * MIB as u64)
    });
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0));
    let names = blobs(&hive, "models--org--tiny");
    assert!(names.iter().any(|name| name.ends_with(".incomplete")), "{names:?}");
}

#[test]
fn a_disk_that_fills_in_the_middle_keeps_what_is_here() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(12, 8 * MIB)));
    let folder = tempfile::tempdir().unwrap();
    let (library, room) = (folder.path().join("disk.so"), folder.path().join("room"));
    support::build_library("disk_stub.c", &library);
    let hive = online(&hub)
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("DISK_STUB_BYTES", &(5 * MIB).to_string())
        .env("DISK_STUB_ROOM", room.to_str().unwrap())
        .start();
    let end = fetched(&hive, "hf:org/tiny");
    assert_eq!((&end["stage"], &end["code"]), (&json!("error"), &json!("INSUFFICIENT_DISK")), "{end}");
    let names = blobs(&hive, "models--org--tiny");
    assert!(names.iter().all(|name| name.contains(".incomplete")), "{names:?}");
    let listed = &hive.get("/v1/models").json()["models"][0];
    assert!(
        listed["partial"] == true && listed["leftover_bytes"].as_u64() > Some(4 * MIB as u64),
        "{listed}"
    );
    std::fs::write(room, "").unwrap();
    forget(&hub);
    assert_eq!(fetched(&hive, "hf:org/tiny")["stage"], "complete");
    let sent: u64 = hub.requests().iter().filter(|seen| seen.side == Side::Cdn).map(|seen| seen.sent).sum();
    assert!(sent <= 4 * MIB as u64, "{sent} bytes were fetched where {} were missing", 3 * MIB);
}

#[test]
fn a_model_that_is_longer_than_the_disk_is_refused_at_once() {
    let hub = hub("org/tiny", Repository::new().with("m-Q8_0.gguf", model(13, 2 * MIB)));
    hub.fault(Place::Tree, "", Fault::SizeOff(1 << 43), Times::Always);
    let hive = online(&hub).start();
    let reply = hive.post("/v1/models/download", &json!({ "model_ref": "hf:org/tiny" }));
    assert_eq!((reply.status, reply.code()), (507, "INSUFFICIENT_DISK".to_owned()), "{}", reply.text);
    let details = &reply.json()["error"]["details"];
    assert_eq!(details["required_bytes"], json!((1_u64 << 43) + 2 * MIB as u64));
    assert!(details["available_bytes"].as_u64() < Some(1 << 43), "{details}");
    let spawn = json!({"model_ref": "hf:org/tiny", "kind": "mock", "memory_bytes": 1});
    assert_eq!(hive.post("/v1/workers/spawn", &spawn).code(), "INSUFFICIENT_DISK");
    assert!(hive.workers().is_empty() && !hive.models.join("models--org--tiny").exists());
}

/// Two hundred lives of a hive, each ended by SIGKILL at a random moment of a download. Rates that one connection
/// fills and rates that want eight, so that the parts of a file come in order and out of order.
#[test]
fn two_hundred_kills_at_random_moments_lose_nothing() {
    const BYTES: usize = 16 * MIB;
    const KILLS: u32 = 200;
    let mut random = Random::new(24);
    let bytes = model(11, BYTES);
    let mut hive = Some(online(&Hub::start(Options::default()).unwrap()).start());
    let (mut kills, mut wholes, mut again_bytes, mut worst) = (0, 0, 0_u64, 0_u64);
    while kills < KILLS {
        // A model of its own: what was sent of it is known.
        let repository = Repository::new().with("m-Q8_0.gguf", bytes.clone());
        let hub = hub("org/tiny", repository);
        let rate = [20, 60, 200][random.next() as usize % 3] * 1_000_000;
        hub.fault(Place::Bytes, "", Fault::Rate(rate), Times::Always);
        let old = hive.take().expect("there is always one");
        old.signal(9);
        let mut next = old.restart(online(&hub));
        let mut lives = 0;
        loop {
            let reply = next.post("/v1/models/download", &json!({ "model_ref": "hf:org/tiny" }));
            assert!([200, 202].contains(&reply.status), "{}", reply.text);
            let whole = reply.status == 200;
            if !whole && kills < KILLS {
                let moment = Duration::from_micros(random.next() % 180_000);
                std::thread::sleep(moment);
                next.signal(9);
                (kills, lives) = (kills + 1, lives + 1);
                next = next.restart(online(&hub));
                // Whatever has a final name is whole.
                blobs(&next, "models--org--tiny");
                links(&next, "models--org--tiny");
                continue;
            }
            if !whole {
                let id = reply.json()["download_id"].as_str().unwrap().to_owned();
                assert_eq!(told(&mut progress(&next, &id)).pop().unwrap()["stage"], "complete");
                continue;
            }
            break;
        }
        assert_eq!(blobs(&next, "models--org--tiny").len(), 1, "no leftovers");
        let path = next.models.join("models--org--tiny/blobs").join(&blobs(&next, "models--org--tiny")[0]);
        assert!(std::fs::read(path).unwrap() == bytes, "other bytes");
        let sent: u64 =
            hub.requests().iter().filter(|seen| seen.side == Side::Cdn).map(|seen| seen.sent).sum();
        let again = sent.saturating_sub(BYTES as u64);
        assert!(again <= lives * 8 * MIB as u64, "{again} bytes were sent again in {lives} lives");
        worst = worst.max(again / lives.max(1));
        (again_bytes, wholes) = (again_bytes + again, wholes + 1);
        assert_eq!(next.delete("/v1/models?ref=hf:org/tiny").status, 204);
        hive = Some(next);
    }
    println!(
        "{kills} kills, {wholes} models whole; sent again, what was on its way included: {} KiB a kill, {} KiB at worst",
        again_bytes / u64::from(kills) / 1024,
        worst / 1024
    );
}
