//! The events of a hive through everything that may happen to the line and to the hive.

use rbee_hive::api::{HiveStatus, State};
use rbee_hive::client::{ClientError, Code, Event, Events};
use serde_json::json;

use crate::line::Line;
use crate::support::{Hive, PATIENCE};
use crate::{client, mock};

/// The next event, which must be one.
fn next(events: &mut Events) -> Event {
    events.next().expect("they have no end").unwrap()
}

/// Reads to the end of a picture; gives the workers in it.
fn picture(events: &mut Events) -> Vec<String> {
    assert_eq!(next(events), Event::Picture);
    rest(events)
}

fn rest(events: &mut Events) -> Vec<String> {
    let mut workers = Vec::new();
    loop {
        match next(events) {
            Event::Worker(worker) => workers.push(worker.worker_id.to_string()),
            Event::Hive(_) => return workers,
            other => panic!("{other:?}"),
        }
    }
}

/// Has a worker take or free its slot, so often: each is a change.
fn changes(hive: &Hive, id: &str, count: usize) {
    for n in 0..count {
        let state = if n % 2 == 0 { "busy" } else { "ready" };
        let body = json!({"worker_id": id, "timestamp": "t", "health_status": "healthy", "state": state});
        assert_eq!(hive.post("/v1/heartbeat", &body).status, 200);
    }
}

#[test]
fn a_line_that_breaks_costs_no_change_and_shows_none_twice() {
    let hive = Hive::start();
    let near = client(&hive.url);
    let id = near.spawn(&mock(&hive)).unwrap().worker_id;
    near.wait_ready(&id, PATIENCE).unwrap();
    let line = Line::to(hive.address);
    let mut events = client(&line.url()).events().unwrap();
    assert_eq!(picture(&mut events), [id.to_string()]);
    for round in 0..5 {
        line.cut();
        changes(&hive, id.as_str(), 4);
        for n in 0..4 {
            let Event::Worker(worker) = next(&mut events) else { panic!("a change came twice, or none") };
            assert_eq!(worker.state, [State::Busy, State::Ready][n % 2], "round {round}");
        }
    }
    line.cut();
    near.drain(true).unwrap();
    let Event::Hive(change) = next(&mut events) else { panic!("that is a change like any other") };
    assert_eq!(change.status, HiveStatus::Draining);
}

#[test]
fn a_hive_that_was_started_anew_shows_its_picture_whatever_its_numbers_are() {
    let hive = Hive::start();
    let line = Line::to(hive.address);
    let mut events = client(&line.url()).events().unwrap();
    assert_eq!(picture(&mut events), [] as [String; 0]);
    let first = client(&hive.url).spawn(&mock(&hive)).unwrap().worker_id;
    // Some changes of the first one: its numbers are low.
    let Event::Worker(worker) = next(&mut events) else { panic!("it begins") };
    assert_eq!(worker.worker_id, first);
    // The next one has had more than that before anybody comes back to it.
    let next_one = Hive::start();
    let second = client(&next_one.url).spawn(&mock(&next_one)).unwrap().worker_id;
    client(&next_one.url).wait_ready(&second, PATIENCE).unwrap();
    changes(&next_one, second.as_str(), 20);
    line.lead_to(Some(next_one.address));
    let mut event = next(&mut events);
    while event != Event::Picture {
        // What was under way when the line broke.
        assert!(matches!(&event, Event::Worker(worker) if worker.worker_id == first), "{event:?}");
        event = next(&mut events);
    }
    assert_eq!(rest(&mut events), [second.to_string()]);
    // One without a worker.
    let empty = Hive::start();
    line.lead_to(Some(empty.address));
    assert_eq!(picture(&mut events), [] as [String; 0]);
}

#[test]
fn what_the_hive_does_not_keep_any_more_comes_as_a_picture() {
    let hive = Hive::start();
    let near = client(&hive.url);
    let id = near.spawn(&mock(&hive)).unwrap().worker_id;
    near.wait_ready(&id, PATIENCE).unwrap();
    let line = Line::to(hive.address);
    let mut events = client(&line.url()).events().unwrap();
    assert_eq!(picture(&mut events), [id.to_string()]);
    line.lead_to(None);
    changes(&hive, id.as_str(), 1100);
    line.lead_to(Some(hive.address));
    assert_eq!(picture(&mut events), [id.to_string()]);
}

#[test]
fn a_refusal_ends_them_and_so_does_a_refusal_later() {
    let hive = Hive::builder().token("s3cret").start();
    let error = client(&hive.url).events().unwrap_err();
    assert_eq!(error.code(), Some(Code::MissingApiKey));
    let open = Hive::start();
    let line = Line::to(open.address);
    let mut events = client(&line.url()).events().unwrap();
    picture(&mut events);
    line.lead_to(Some(hive.address));
    let error = events.next().unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 401, .. }), "{error}");
    assert!(events.next().is_none(), "that was the end");
}
