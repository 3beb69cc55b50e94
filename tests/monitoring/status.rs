//! `GET /v1/status`: the whole picture in one answer.

use std::net::TcpListener;

use rbee_hive::api::{HiveStatus, Progress, Status};
use rbee_hive::mock::hub::{Fault, Hub, Options as HubOptions, Place, Repository, Times};
use rbee_hive::mock::queen::{Options, Queen};
use serde_json::json;

use crate::support::{Hive, eventually};

fn status(hive: &Hive) -> Status {
    let reply = hive.get("/v1/status");
    assert_eq!(reply.status, 200, "{}", reply.text);
    serde_json::from_str(&reply.text).unwrap()
}

#[test]
fn one_answer_tells_what_each_of_its_parts_tells() {
    let queen = Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), Options::default()).unwrap();
    let hive = Hive::builder().arg("--queen-url", format!("http://{}", queen.addr())).start();
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    eventually("the queen has taken a heartbeat", || status(&hive).queen.unwrap().last_success_at.is_some());
    let status = status(&hive);
    assert_eq!((status.hive_id.as_str(), status.url.as_str()), ("test", hive.url.as_str()));
    assert_eq!((status.status, status.reasons.len()), (HiveStatus::Ready, 0));
    assert_eq!(status.queen.unwrap().failures_in_a_row, 0);
    assert!(status.downloads.is_empty());
    let listed = hive.worker(&id);
    assert_eq!(status.workers.len(), 1);
    assert_eq!(status.workers[0].pid.map(u64::from), listed["pid"].as_u64());
    let devices = hive.get("/v1/devices").json();
    assert_eq!(devices["workers"], 1);
    assert_eq!(devices["cpu"]["promised_bytes"], listed["reserved_bytes"]);
    assert_eq!(status.devices.cpu.promised_bytes, status.workers[0].reserved_bytes);
    assert!(status.devices.cpu.promised_bytes > 0);
}

#[test]
fn a_queen_who_takes_nothing_is_told_and_a_hive_without_one_has_none() {
    let queen = Queen::start(
        TcpListener::bind("127.0.0.1:0").unwrap(),
        Options { fault: Some(500), ..Options::default() },
    )
    .unwrap();
    let hive = Hive::builder().arg("--queen-url", format!("http://{}", queen.addr())).start();
    eventually("two heartbeats failed", || status(&hive).queen.unwrap().failures_in_a_row > 1);
    let told = status(&hive);
    assert_eq!(told.queen.unwrap().last_success_at, None);
    assert_eq!(
        told.reasons.iter().map(|reason| reason.code.as_str()).collect::<Vec<_>>(),
        ["queen_unreachable"]
    );
    assert_eq!(status(&Hive::start()).queen, None);
}

#[test]
fn a_drained_hive_says_so_and_promises_end_with_their_workers() {
    let hive = Hive::start();
    let id = hive.spawn("mock", "");
    assert_eq!(hive.post("/v1/drain", &json!({ "drain": true })).status, 200);
    assert_eq!(status(&hive).status, HiveStatus::Draining);
    hive.delete(&format!("/v1/workers/{id}?force=true"));
    hive.wait_state(&id, "gone");
    let status = status(&hive);
    assert_eq!((status.workers.len(), status.devices.cpu.promised_bytes), (0, 0));
}

#[test]
fn downloads_are_told_until_they_end() {
    let hub = Hub::start(HubOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    crate::support::gguf::TINY.write(&file);
    hub.add("org/tiny", Repository::new().with_file("tiny.gguf", &file).unwrap());
    let bytes = file.metadata().unwrap().len();
    hub.fault(Place::Bytes, "tiny.gguf", Fault::Stall(bytes / 2), Times::Always);
    let hive = Hive::builder().env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0").start();
    let reply = hive.post("/v1/models/download", &json!({ "model_ref": "hf:org/tiny" }));
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = reply.json()["download_id"].as_str().unwrap().to_owned();
    let [download] = &status(&hive).downloads[..] else { panic!("one download is under way") };
    assert_eq!(download.download_id, id);
    let Progress::Downloading { bytes_total, .. } = download.progress else { panic!("{download:?}") };
    assert_eq!(bytes_total, bytes);
    assert_eq!(hive.delete(&format!("/v1/models/download?id={id}")).status, 202);
    assert!(status(&hive).downloads.is_empty());
}
