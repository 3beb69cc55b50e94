//! Event streams: the picture, then every change in order; and logs, whole and followed.

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use serde_json::{Value, json};
use support::{Event, Events, Hive, PATIENCE, eventually, kill};

/// Events up to and including the first that `last` accepts.
fn until(events: &mut Events, last: impl Fn(&Event, &Value) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        let event = events.next_raw().expect("the stream goes on");
        let data = serde_json::from_str(&event.data).unwrap();
        let done = last(&event, &data);
        seen.push(event);
        if done {
            return seen;
        }
    }
}

fn is_end_of(id: &str) -> impl Fn(&Event, &Value) -> bool {
    move |event, data| event.name == "worker" && data["worker_id"] == id && data["state"] == "gone"
}

/// The ids grow by one from the one after `last`.
fn assert_gapless(events: &[Event], last: u64) {
    for (event, id) in events.iter().zip(last + 1..) {
        assert_eq!(event.id, Some(id), "{events:#?}");
    }
}

#[test]
fn the_picture_comes_first_and_then_every_change_with_ids_that_grow_by_one() {
    let hive = Hive::start();
    let (first, second) = (hive.spawn("mock", ""), hive.spawn("mock-probe", ""));
    for id in [&first, &second] {
        hive.wait_state(id, "ready");
    }
    let mut events = hive.events();
    let picture = until(&mut events, |event, _| event.name == "hive");
    let shown: Vec<Value> = picture.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect();
    assert_eq!(shown.len(), 3);
    let named = |worker: &Value| (worker["worker_id"].clone(), worker["state"].clone());
    let listed: Vec<_> = hive.workers().iter().map(named).collect();
    assert_eq!(shown[..2].iter().map(named).collect::<Vec<_>>(), listed);
    assert_eq!((&shown[2]["status"], &shown[2]["hive_id"]), (&json!("ready"), &json!("test")));
    let last = picture[2].id.expect("the picture's last event has an id");
    hive.delete(&format!("/v1/workers/{first}"));
    let changes = until(&mut events, is_end_of(&first));
    assert_gapless(&changes, last);
    let gone: Value = serde_json::from_str(&changes.last().unwrap().data).unwrap();
    assert_eq!((&gone["exit"]["reason"], &gone["exit"]["code"]), (&json!("stopped"), &json!(0)));
    // Whoever was here all the time and whoever comes back see the same.
    let mut again = hive.events_after(last);
    assert_eq!(until(&mut again, is_end_of(&first)), changes);
    let middle = changes[0].id.unwrap();
    let mut later = hive.events_after(middle);
    assert_eq!(until(&mut later, is_end_of(&first)), changes[1..]);
}

#[test]
fn a_hive_without_workers_shows_itself() {
    let hive = Hive::start();
    let event = hive.events().next_raw().unwrap();
    assert_eq!((event.name.as_str(), event.id), ("hive", Some(0)));
    let mut events = hive.events_after(0);
    let id = hive.spawn("mock", "crash-at-start");
    let first = events.next_raw().unwrap();
    assert_eq!((first.name.as_str(), first.id), ("worker", Some(1)));
    assert!(first.data.contains(&id) && first.data.contains("\"launching\""));
}

#[test]
fn an_id_that_is_unknown_or_too_old_brings_the_picture_first() {
    let hive = Hive::builder().arg("--restart-limit", 0).start();
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    // Each beat that takes or frees the slot is a change: far more than the ring holds.
    let beat = |n: u32| {
        let state = if n.is_multiple_of(2) { "busy" } else { "ready" };
        let body = json!({"worker_id": id, "timestamp": "t", "health_status": "healthy", "state": state});
        assert_eq!(hive.post("/v1/heartbeat", &body).status, 200);
    };
    let mut before = hive.events();
    let start = until(&mut before, |event, _| event.name == "hive").last().unwrap().id.unwrap();
    (0..1200).for_each(beat);
    let end = start + 1200;
    let seen = until(&mut before, |event, _| event.id == Some(end));
    assert_eq!(seen.len(), 1200, "who follows misses none");
    assert_gapless(&seen, start);
    for header in [
        start.to_string(),
        (end + 1).to_string(),
        u64::MAX.to_string(),
        "-1".into(),
        "zq7".into(),
        String::new(),
    ] {
        let mut events = hive.stream("/v1/events", &format!("Last-Event-ID: {header}\r\n"));
        let picture = until(&mut events, |event, _| event.name == "hive");
        assert_eq!(picture.len(), 2, "{header}: the worker and the hive");
        assert_eq!(picture[1].id, Some(end));
    }
    let mut kept = hive.events_after(end - 1024);
    let ring = until(&mut kept, |event, _| event.id == Some(end));
    assert_eq!(ring.len(), 1024);
    assert_gapless(&ring, end - 1024);
}

#[test]
fn a_follower_that_does_not_read_delays_nobody_and_a_rude_one_is_survived() {
    let hive = Hive::start();
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    let mut slow = hive.events();
    let start = until(&mut slow, |event, _| event.name == "hive").last().unwrap().id.unwrap();
    let rude: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(hive.address).unwrap();
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for n in 0..500 {
        let state = if n % 2 == 0 { "busy" } else { "ready" };
        let body = json!({"worker_id": id, "timestamp": "t", "health_status": "healthy", "state": state});
        assert_eq!(hive.post("/v1/heartbeat", &body).status, 200);
    }
    drop(rude);
    // The slow one gets all of it as soon as it reads.
    let seen = until(&mut slow, |event, _| event.id == Some(start + 500));
    assert_gapless(&seen, start);
    assert_eq!(hive.worker(&id)["state"], "ready");
}

#[test]
fn every_follower_sees_the_same_changes_of_many_workers() {
    let hive = Hive::builder().ports(16).start();
    let mut followers: Vec<Events> = (0..4).map(|_| hive.events()).collect();
    let ids: Vec<String> =
        (0..8).map(|n| hive.spawn(if n % 2 == 0 { "mock" } else { "mock-probe" }, "")).collect();
    for id in &ids {
        hive.wait_state(id, "ready");
        hive.delete(&format!("/v1/workers/{id}"));
    }
    let all: Vec<Vec<Event>> = thread::scope(|scope| {
        let reading: Vec<_> = followers
            .iter_mut()
            .map(|events| {
                scope.spawn(|| {
                    let mut left = ids.len();
                    let (mut seen, mut done) = (Vec::new(), false);
                    while !done {
                        let event = events.next_raw().unwrap();
                        left -= usize::from(event.data.contains("\"state\":\"gone\""));
                        done = left == 0;
                        seen.push(event);
                    }
                    seen
                })
            })
            .collect();
        reading.into_iter().map(|read| read.join().unwrap()).collect()
    });
    assert!(all.iter().all(|seen| *seen == all[0]));
    assert_gapless(&all[0][1..], 0);
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for event in &all[0][1..] {
        let worker: Value = serde_json::from_str(&event.data).unwrap();
        let (id, state) = (worker["worker_id"].to_string(), worker["state"].as_str().unwrap().to_owned());
        let before = last.insert(id, state.clone()).unwrap_or_default();
        let order = ["", "spawning", "ready", "stopping", "gone"];
        let at = |state: &str| order.iter().position(|word| *word == state).unwrap();
        assert!(at(&state) >= at(&before), "{before} -> {state}");
    }
}

#[test]
fn a_stream_ends_when_the_hive_does_and_says_so_first() {
    let mut hive = Hive::start();
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    let mut events = hive.events();
    hive.signal(15);
    let mut told = Vec::new();
    while let Some(event) = events.next_raw() {
        told.push(event);
    }
    assert!(hive.wait_exit().success());
    let stopping = told.iter().position(|event| event.name == "hive" && event.data.contains("\"stopping\""));
    let gone =
        told.iter().position(|event| event.data.contains("\"gone\"") && event.data.contains("\"cascade\""));
    assert!(stopping.unwrap() < gone.unwrap(), "{told:#?}");
}

#[test]
fn a_log_is_served_from_its_end_while_the_worker_lives_and_after() {
    let hive = Hive::builder().arg("--restart-limit", 0).start();
    let id = hive.spawn("mock", "flood=50");
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    let tail = |query: &str| hive.get(&format!("/v1/workers/{id}/logs{query}"));
    // Its last line; the callback comes before it.
    eventually("it has said all", || tail("?tail=1").text == "ready\n");
    let all = tail("?tail=10000");
    assert_eq!(all.header("Content-Type"), "text/plain; charset=utf-8");
    assert!(all.text.lines().count() > 50, "{}", all.text);
    let lines: Vec<&str> = all.text.lines().collect();
    for count in [0, 1, 7] {
        let some = tail(&format!("?tail={count}")).text;
        let count = some.lines().count();
        assert_eq!(some.lines().collect::<Vec<_>>(), lines[lines.len() - count..], "the last {count}");
    }
    assert_eq!(tail("").text, tail("?tail=100&follow=false").text);
    kill(u32::try_from(pid).unwrap(), 9);
    hive.wait_state(&id, "gone");
    assert_eq!(tail("?tail=10000").text, all.text, "it is served after the end too");
    let mut follower = hive.stream(&format!("/v1/workers/{id}/logs?follow=true&tail=2"), "");
    let mut followed = Vec::new();
    while let Some(event) = follower.next_raw() {
        followed.push(event.data);
    }
    assert_eq!(followed, [lines[lines.len() - 2], lines[lines.len() - 1], "[DONE]"]);
}

#[test]
fn a_followed_log_goes_through_restarts_and_ends_with_the_worker() {
    let hive = Hive::start();
    let id = hive.spawn("mock", "");
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    let follow = || hive.stream(&format!("/v1/workers/{id}/logs?follow=true&tail=0"), "");
    let mut followers = [follow(), follow(), follow()];
    kill(u32::try_from(pid).unwrap(), 9);
    hive.wait(&id, "again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    hive.delete(&format!("/v1/workers/{id}"));
    for follower in &mut followers {
        let mut lines = Vec::new();
        while let Some(event) = follower.next_raw() {
            assert_eq!(event.name, "");
            lines.push(event.data);
        }
        assert!(lines.iter().any(|line| line.starts_with("worker listening on ")), "{lines:?}");
        assert!(lines.iter().any(|line| line == "exiting on=POST /v1/shutdown"), "{lines:?}");
        assert_eq!(lines.iter().position(|line| line == "[DONE]"), Some(lines.len() - 1), "{lines:?}");
    }
}

#[test]
fn a_stream_on_http_1_1_is_chunked_and_its_connection_serves_nothing_else() {
    let hive = Hive::start();
    let mut stream = TcpStream::connect(hive.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains("\"boot_id\"") {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "{text}");
        text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    let head = text.split("\r\n\r\n").next().unwrap().to_lowercase();
    for line in ["content-type: text/event-stream", "transfer-encoding: chunked", "cache-control: no-"] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    assert!(!head.contains("content-length"), "{head}");
}
