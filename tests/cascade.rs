//! The end of a hive: everything it has started ends with it, whatever state it is in.

mod support;

use std::net::TcpStream;
use std::process::ExitStatus;

use serde_json::json;
use support::{Hive, descendants_of, eventually};

/// Waits for the end; nothing that this hive has started lives, and nobody answers.
fn assert_clean_end(hive: &mut Hive) {
    let status: ExitStatus = hive.wait_exit();
    assert_eq!(status.code(), Some(0), "{status}\n{}", hive.log());
    assert_eq!(descendants_of(hive.folder.path()), Vec::<u32>::new(), "{}", hive.log());
    assert!(TcpStream::connect(hive.address).is_err());
    assert!(hive.log().contains("hive ends"), "{}", hive.log());
}

#[test]
fn sixteen_workers_of_which_four_ignore_everything_all_end() {
    let mut hive = Hive::builder().ports(16).arg("--shutdown-timeout", "2s").start();
    let ids: Vec<String> = (0..16)
        .map(|n| match n % 4 {
            0 => hive.spawn("mock", "ignore-term,ignore-shutdown,grandchild"),
            1 => hive.spawn("mock-probe", "daemon"),
            2 => hive.spawn("mock", "hold-port"),
            _ => hive.spawn("mock-probe", ""),
        })
        .collect();
    for id in &ids {
        hive.wait_state(id, "ready");
    }
    assert!(hive.processes().len() >= 16 + 12);
    let mut events = hive.events();
    let reply = hive.post("/v1/shutdown", &json!({"workers": "stop"}));
    assert_eq!((reply.status, &reply.json()["workers"]), (202, &json!(16)));
    // Four stay for the whole grace: meanwhile reads tell the truth, and what would start something is 503.
    let refused = hive.post("/v1/workers/spawn", &json!({"model_ref": hive.model_ref(), "kind": "mock"}));
    assert_eq!((refused.status, refused.code().as_str()), (503, "SHUTTING_DOWN"));
    let wrong = hive.post("/v1/workers/spawn", &json!({}));
    assert_eq!(wrong.code(), "SHUTTING_DOWN", "the state is looked at before the arguments");
    let health = hive.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("stopping")));
    assert!(hive.workers().iter().all(|worker| worker["state"] == "stopping"));
    let stubborn = hive.worker(&ids[0]);
    assert_eq!(stubborn["state"], "stopping");
    assert_eq!(hive.get(&format!("/v1/workers/{}/logs", ids[0])).status, 200);
    let again = hive.request("POST", "/v1/shutdown", &[], None);
    assert_eq!(again.status, 202);
    let mut ends = Vec::new();
    while let Some((event, worker)) = events.next_event() {
        if event == "worker" && worker["state"] == "gone" {
            ends.push(worker["exit"].clone());
        }
    }
    assert_clean_end(&mut hive);
    assert_eq!(ends.len(), 16);
    assert!(ends.iter().all(|exit| exit["reason"] == "cascade"));
    assert_eq!(ends.iter().filter(|exit| exit["signal"] == "SIGKILL").count(), 4);
    assert!(hive.log().contains("16/16 workers stopped"), "{}", hive.log());
}

#[test]
fn a_signal_is_a_cascade() {
    for signal in [15, 2] {
        let mut hive = Hive::start();
        let id = hive.spawn("mock", "grandchild");
        hive.wait_state(&id, "ready");
        hive.signal(signal);
        assert_clean_end(&mut hive);
        assert!(hive.log().contains("1/1 workers stopped"), "{}", hive.log());
    }
}

#[test]
fn a_hive_without_workers_just_ends() {
    let mut hive = Hive::start();
    hive.signal(15);
    assert_clean_end(&mut hive);
    let mut hive = Hive::start();
    let reply = hive.request("POST", "/v1/shutdown", &[], None);
    assert_eq!((reply.status, &reply.json()["workers"]), (202, &json!(0)));
    assert_clean_end(&mut hive);
}

#[test]
fn a_second_signal_kills_at_once() {
    for (first, second) in [(15, 15), (2, 15), (15, 2)] {
        // The grace alone would outlast the test.
        let mut hive = Hive::builder().arg("--shutdown-timeout", "1h").start();
        let id = hive.spawn("mock", "ignore-term,ignore-shutdown,grandchild,daemon");
        hive.wait_state(&id, "ready");
        hive.signal(first);
        hive.wait_state(&id, "stopping");
        hive.signal(second);
        assert_clean_end(&mut hive);
    }
}

#[test]
fn a_worker_that_is_deaf_to_the_request_is_terminated_in_time() {
    let mut hive = Hive::builder().arg("--shutdown-timeout", "3s").start();
    for faults in ["deaf", "ignore-shutdown", "slow-exit=1h", "silent,deaf,ignore-term"] {
        let id = hive.spawn("mock", faults);
        hive.wait_state(&id, "ready");
    }
    hive.signal(15);
    assert_clean_end(&mut hive);
}

#[test]
fn workers_that_are_on_their_way_end_too() {
    let mut hive = Hive::builder().ports(8).arg("--shutdown-timeout", "1s").start();
    let loading = hive.spawn("mock", "never-ready,ignore-term");
    let probed = hive.spawn("mock-probe", "never-ready");
    let crashed = hive.spawn("mock", "crash-at-start=5");
    for id in [&loading, &probed] {
        hive.wait(id, "loading", |worker| worker["phase"] == "loading");
    }
    hive.wait(&crashed, "in backoff", |worker| worker["phase"] == "backoff");
    let mut events = hive.events();
    // Some are launched in this very moment.
    for _ in 0..4 {
        hive.spawn("mock", "");
    }
    let count = hive.workers().len();
    hive.signal(15);
    let mut gone = 0;
    while let Some((_, worker)) = events.next_event() {
        gone += usize::from(worker["state"] == "gone");
        assert!(!(worker["worker_id"] == crashed.as_str() && worker["pid"].is_u64()), "it was started again");
    }
    assert_eq!(gone, count);
    assert_clean_end(&mut hive);
}

#[test]
fn a_stop_under_way_is_part_of_the_cascade() {
    let mut hive = Hive::builder().arg("--shutdown-timeout", "2s").start();
    let id = hive.spawn("mock", "ignore-term,ignore-shutdown");
    hive.wait_state(&id, "ready");
    hive.delete(&format!("/v1/workers/{id}"));
    hive.signal(2);
    assert_clean_end(&mut hive);
}

#[test]
fn with_no_grace_everything_is_killed() {
    let mut hive = Hive::builder().arg("--shutdown-timeout", "0s").start();
    for kind in ["mock", "mock-probe"] {
        let id = hive.spawn(kind, "slow-exit=1h,grandchild");
        hive.wait_state(&id, "ready");
    }
    hive.signal(15);
    assert_clean_end(&mut hive);
}

#[test]
fn idle_connections_and_followers_do_not_hold_the_end_up() {
    let mut hive = Hive::start();
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    let idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(hive.address).unwrap()).collect();
    let followers: Vec<_> = (0..5)
        .map(|n| match n {
            0 => hive.stream(&format!("/v1/workers/{id}/logs?follow=true"), ""),
            _ => hive.events(),
        })
        .collect();
    hive.signal(15);
    assert_clean_end(&mut hive);
    drop((idle, followers));
}

#[test]
fn a_hive_that_is_stopped_while_it_serves_others_ends_too() {
    let mut hive = Hive::start();
    let id = hive.spawn("mock-probe", "");
    let url = hive.wait_state(&id, "ready")["url"].as_str().unwrap().to_owned();
    let work = std::thread::spawn(move || {
        // The worker ends in the middle of it.
        let _ = ureq::post(format!("{url}/v1/completions")).send(r#"{"prompt":"a","ms":500000}"#);
    });
    eventually("it is busy", || hive.worker(&id)["state"] == "busy");
    hive.signal(15);
    assert_clean_end(&mut hive);
    work.join().unwrap();
}
