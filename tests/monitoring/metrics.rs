//! `GET /metrics`: what is counted, and that it is told while everything else hangs.

use std::collections::BTreeMap;
use std::net::TcpListener;

use rbee_hive::mock::queen::{Options, Queen};
use rbee_hive::mock::rude::{self, Manner};
use serde_json::json;

use crate::support::nvml::Nvml;
use crate::support::{Hive, eventually, kill};

/// The figures by series, as written.
fn figures(hive: &Hive) -> BTreeMap<String, f64> {
    let reply = hive.get("/metrics");
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    let lines = reply.text.lines().filter(|line| !line.starts_with('#'));
    let figure = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    };
    lines.map(figure).collect()
}

fn figure(hive: &Hive, series: &str) -> f64 {
    *figures(hive).get(series).unwrap_or_else(|| panic!("{series} is missing"))
}

#[test]
fn what_becomes_of_workers_is_counted() {
    let hive = Hive::builder().token("s3cret").start();
    for state in ["spawning", "ready", "busy", "stopping"] {
        assert_eq!(figure(&hive, &format!("rbee_workers{{state=\"{state}\"}}")), 0.0);
    }
    let id = hive.spawn("mock", "");
    let ready = hive.wait_state(&id, "ready");
    assert_eq!(figure(&hive, "rbee_workers{state=\"ready\"}"), 1.0);
    assert_eq!(figure(&hive, "rbee_worker_slots_free"), 1.0);
    assert_eq!(figure(&hive, "rbee_spawns_total{result=\"accepted\"}"), 1.0);
    let promised = figure(&hive, "rbee_device_memory_promised_bytes{device=\"cpu\"}");
    assert_eq!(promised, ready["reserved_bytes"].as_f64().unwrap());
    kill(ready["pid"].as_u64().unwrap() as u32, 9);
    hive.wait(&id, "ready again", |worker| worker["restart_count"] == 1 && worker["state"] == "ready");
    assert_eq!(figure(&hive, "rbee_worker_restarts_total"), 1.0);
    hive.delete(&format!("/v1/workers/{id}?force=true"));
    hive.wait_state(&id, "gone");
    assert_eq!(figure(&hive, "rbee_worker_ends_total{reason=\"stopped\"}"), 1.0);
    assert_eq!(hive.post("/v1/workers/spawn", &json!({ "model_ref": "hf:a/b", "kind": "no" })).status, 404);
    assert_eq!(figure(&hive, "rbee_spawns_total{result=\"KIND_NOT_FOUND\"}"), 1.0);
    assert_eq!(figure(&hive, "rbee_hive_status{status=\"ready\"}"), 1.0);
    hive.post("/v1/drain", &json!({ "drain": true }));
    assert_eq!(figure(&hive, "rbee_hive_status{status=\"draining\"}"), 1.0);
}

#[test]
fn requests_are_counted_by_endpoint_and_status() {
    let hive = Hive::builder().token("s3cret").start();
    let count = |endpoint: &str, status: u16| {
        let series = format!("rbee_http_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}}");
        figures(&hive).get(&series).copied().unwrap_or(0.0)
    };
    assert_eq!(count("worker", 200), 0.0);
    hive.get("/v1/workers/w-none");
    hive.get("/v1/workers/w-another");
    assert_eq!(count("worker", 404), 2.0);
    hive.request("GET", "/v1/devices", &[("Authorization", "Bearer wrong")], None);
    assert_eq!(count("devices", 401), 1.0);
    hive.get("/v1/devices");
    assert_eq!(count("devices", 200), 1.0);
    hive.request("HEAD", "/v1/workers", &[], None);
    hive.get("/v1/workers/list");
    assert_eq!(count("list", 200), 2.0);
    drop(hive.events());
    eventually("the stream is counted", || count("events", 200) == 1.0);
    hive.raw("this is no HTTP\r\n\r\n");
    assert_eq!(count("unknown", 400), 1.0);
    let took = |part: &str| figure(&hive, &format!("rbee_http_request_duration_seconds_{part}"));
    assert_eq!(took("count{endpoint=\"devices\"}"), 2.0);
    assert!(took("sum{endpoint=\"devices\"}") > 0.0);
    assert_eq!(took("bucket{endpoint=\"devices\",le=\"+Inf\"}"), 2.0);
}

#[test]
fn a_thousand_strange_paths_make_no_new_series() {
    let hive = Hive::builder().token("s3cret").start();
    let strange = |n: usize| {
        for path in [format!("/x{n}"), format!("/v1/x{n}"), format!("/v1/workers/w-{n}/x{n}")] {
            assert_eq!(hive.get(&path).status, 404);
        }
        assert_eq!(hive.get(&format!("/v1/workers/w-{n}?x{n}")).status, 404);
        assert_eq!(hive.request("PUT", &format!("/v1/workers/w-{n}"), &[], None).status, 405);
    };
    eventually("the devices were looked at", || figures(&hive).contains_key("rbee_devices_age_seconds"));
    strange(0);
    let before = figures(&hive);
    (1..200).for_each(strange);
    let new: Vec<String> = figures(&hive).into_keys().filter(|series| !before.contains_key(series)).collect();
    assert!(new.is_empty(), "{new:?}");
    assert_eq!(figure(&hive, "rbee_http_requests_total{endpoint=\"unknown\",status=\"404\"}"), 600.0);
    assert_eq!(figure(&hive, "rbee_http_requests_total{endpoint=\"worker\",status=\"404\"}"), 200.0);
}

#[test]
fn what_the_queen_takes_is_counted() {
    let queen = Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), Options::default()).unwrap();
    let hive = Hive::builder().arg("--queen-url", format!("http://{}", queen.addr())).start();
    let taken = "rbee_queen_heartbeats_total{result=\"taken\"}";
    eventually("she has taken two", || figure(&hive, taken) > 1.0);
    assert_eq!(figure(&hive, "rbee_queen_heartbeats_total{result=\"failed\"}"), 0.0);
    let at = figure(&hive, "rbee_queen_last_success_timestamp_seconds");
    assert!(at >= figure(&hive, "process_start_time_seconds"), "{at}");
    let without = figures(&Hive::start());
    assert!(!without.keys().any(|series| series.starts_with("rbee_queen")), "nobody is told");
}

#[test]
fn gpus_are_told_as_they_were_last_seen_while_their_driver_and_the_queen_hang() {
    let card = "gpu 00000000:01:00.0 GPU-1 24576 20480 RTX\n";
    let nvml = Nvml::new(card);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let queen = listener.local_addr().unwrap();
    let _queen = rude::serve(listener, Manner::Hang).unwrap();
    let hive = Hive::builder()
        .env("RBEE_HIVE_NVML_LIBRARY", nvml.library().to_str().unwrap())
        .arg("--queen-url", format!("http://{queen}"))
        .start();
    assert_eq!(hive.get("/v1/devices").json()["gpus"][0]["id"], "gpu0");
    nvml.set(&format!("hang\n{card}"));
    let looks = nvml.looks().len();
    eventually("the driver hangs", || {
        hive.get("/metrics");
        nvml.looks().len() > looks
    });
    let figures = figures(&hive);
    assert_eq!(figures["rbee_device_memory_bytes{device=\"gpu0\"}"], 24576.0 * 1024.0 * 1024.0);
    assert_eq!(figures["rbee_device_memory_free_bytes{device=\"gpu0\"}"], 20480.0 * 1024.0 * 1024.0);
    assert_eq!(figures["rbee_gpu_lost{device=\"gpu0\"}"], 0.0);
    assert_eq!(figures["rbee_queen_heartbeats_total{result=\"taken\"}"], 0.0);
    eventually("the figures are old", || figure(&hive, "rbee_devices_age_seconds") > 1.0);
}
