//! Starts that cannot be, and how soon that is said.

use std::fs;
use std::net::TcpListener;

use serde_json::json;

use crate::models;
use crate::stage::{self, Watch, port_of};
use crate::wire;

#[test]
#[ignore = "needs an engine and a model"]
fn a_truncated_model_is_refused_before_anything_is_launched_unless_the_memory_is_given() {
    let hive = stage::builder().arg("--restart-limit", 0).start();
    let watch = Watch::of(&hive);
    let path = models::broken(&hive, "truncated.gguf", Some(20_000_000), |_| {});
    let mut order = stage::order(&stage::reference(&path));
    let refused = hive.post("/v1/workers/spawn", &order);
    assert_eq!((refused.status, refused.code().as_str()), (422, "MODEL_INVALID"), "{}", refused.text);
    assert_eq!((hive.processes(), hive.workers().len()), (vec![], 0), "nothing was launched");
    println!("a truncated model: 422, {}", refused.json()["error"]["message"]);
    order["memory_bytes"] = json!(500_000_000);
    let (id, _) = stage::spawn(&hive, &order);
    watch.state(&id, "gone");
    let gone = hive.get(&format!("/v1/workers/{id}"));
    assert_eq!(gone.status, 404);
    let exit = gone.json()["error"]["details"]["last"]["exit"].clone();
    assert_eq!(
        exit["message"], "the model file is truncated: some of its tensors lie beyond its end",
        "{exit}"
    );
    let lines = exit["log"].as_array().unwrap();
    assert!(lines.iter().any(|line| line.as_str().unwrap().contains("data is not within the file bounds")));
    println!("      with memory_bytes it is launched, and ends: {}", exit["message"]);
    lines.iter().for_each(|line| println!("      | {}", line.as_str().unwrap()));
}

#[test]
#[ignore = "needs an engine and a model"]
fn a_port_on_which_somebody_listens_is_not_given() {
    let hive = stage::builder().ports(3).start();
    let model = stage::place_model(&hive, "model.gguf");
    let first = *hive.ports.start();
    let _somebody = TcpListener::bind(("127.0.0.1", first)).unwrap();
    let mut order = stage::order(&model);
    order["port_hint"] = json!(first);
    let (_, port) = stage::spawn(&hive, &order);
    assert_ne!(port, first);
    assert_eq!(wire::health_until_ready(port).pop().unwrap().0, 200);
    println!("a port on which somebody listens: asked for {first}, given {port}, and serves");
}

#[test]
#[ignore = "needs an engine and a model"]
fn an_engine_that_finds_its_port_taken_gets_another_one_and_that_is_no_crash() {
    // Not one restart is allowed: losing a port must not take one.
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("go");
    let hive = stage::builder().arg("--restart-limit", 0).kind(stage::kind_held_by(&gate)).start();
    let watch = Watch::of(&hive);
    let mut order = stage::order(&stage::place_model(&hive, "model.gguf"));
    order["kind"] = "held".into();
    let (id, port) = stage::spawn(&hive, &order);
    let mut told = watch.until(&id, "loading", |worker| worker["phase"] == "loading");
    // The hive saw the port free, and the engine has not bound it yet.
    let _thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fs::write(&gate, "").unwrap();
    told.extend(
        watch.until(&id, "ready or gone", |worker| worker["state"] == "ready" || worker["state"] == "gone"),
    );
    let (_, last) = told.last().unwrap();
    assert_eq!(last["state"], "ready", "{last}\n{}", hive.log());
    assert_ne!(port_of(last), port);
    assert!(told.iter().all(|(_, worker)| worker["restart_count"] == 0), "counted as a crash: {told:?}");
    let lost = told.iter().find(|(_, worker)| worker["exit"]["reason"] == "port_lost");
    assert!(lost.is_some(), "nobody says that the port was lost: {told:?}");
    assert_eq!(last["exit"]["message"], format!("somebody else listens on port {port}"));
    println!("a port that is taken between check and bind: {port} lost, {} given, and serves", port_of(last));
    println!("      {}", last["exit"]["message"]);
}

/// A worker of so many tokens takes 24 GB.
const CTX: u32 = 1024 * 1024;

#[test]
#[ignore = "needs an engine and a model"]
fn a_context_that_cannot_fit_is_refused_before_anything_is_launched() {
    // However much memory this machine has, the hive may give 4 GiB.
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = info.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    let reserve = format!("cpu={}KiB", total.saturating_sub(4 * 1024 * 1024));
    let hive = stage::builder().arg("--reserve", reserve).start();
    let mut order = stage::order(&stage::place_model(&hive, "model.gguf"));
    order["ctx"] = json!(CTX);
    let refused = hive.post("/v1/workers/spawn", &order);
    assert_eq!((refused.status, refused.code().as_str()), (409, "INSUFFICIENT_RAM"), "{}", refused.text);
    assert_eq!((hive.processes(), hive.workers().len()), (vec![], 0), "nothing was launched");
    let error = refused.json()["error"].clone();
    println!("a context of {CTX}: 409, {}", error["message"]);
    println!("      it suggests {}", error["details"]["suggestions"]);
}
