//! Waiting for a worker: until it can be asked, until it has ended, and what is told where that does not come.

use std::time::Duration;

use rbee_hive::api::{Phase, SpawnRequest, State};
use rbee_hive::client::{ClientError, Code, Event};
use rbee_hive::mock::hub::{Hub, Options, Repository};

use crate::support::{Hive, PATIENCE, gguf};
use crate::{client, faulty, mock};

#[test]
fn a_worker_is_waited_for_from_its_spawn_to_its_end() {
    let hive = Hive::start();
    let client = client(&hive.url);
    let id = client.spawn(&mock(&hive)).unwrap().worker_id;
    let mut phases = Vec::new();
    let worker = client
        .wait_ready_with(&id, PATIENCE, |event| {
            let Event::Worker(worker) = event else { panic!("{event:?}") };
            assert_eq!(worker.worker_id, id);
            phases.push(worker.state);
        })
        .unwrap();
    assert_eq!((worker.state, phases.last()), (State::Ready, Some(&State::Ready)));
    assert_eq!(client.wait_ready(&id, PATIENCE).unwrap().worker_id, id, "it is ready already");
    client.stop(&id, false).unwrap();
    let last = client.wait_gone(&id, PATIENCE).unwrap();
    assert_eq!(last.exit.unwrap().reason, "stopped");
    let patient = client.clone().with_timeout(Duration::MAX);
    assert_eq!(patient.wait_gone(&id, Duration::MAX).unwrap().state, State::Gone, "it has ended already");
    assert_eq!(client.worker(&id).unwrap().state, State::Gone);
    assert_eq!(client.stop(&id, true).unwrap_err().code(), Some(Code::WorkerNotFound));
}

#[test]
fn a_wish_arrives_as_it_was_written() {
    let hive = Hive::start();
    let client = client(&hive.url);
    let port = *hive.ports.end();
    let request = SpawnRequest {
        device: Some("cpu".to_owned()),
        backend: Some("cpu".to_owned()),
        ctx: Some(1024),
        parallel: Some(3),
        port_hint: Some(port),
        extra_args: Some(vec!["--load-ms".to_owned(), "1".to_owned()]),
        memory_bytes: Some(50 << 20),
        make_room: true,
        pinned: true,
        ..faulty(&hive, "no-state")
    };
    let id = client.spawn(&request).unwrap().worker_id;
    let worker = client.wait_ready(&id, PATIENCE).unwrap();
    assert_eq!((worker.device.as_str(), worker.port, worker.slots_total), ("cpu", port, 3));
    assert_eq!(worker.reserved_bytes, 50 << 20);
    let two = SpawnRequest { device: Some("gpu0,gpu1".to_owned()), ..mock(&hive) };
    assert_eq!(client.spawn(&two).unwrap_err().code(), Some(Code::DeviceNotFound), "it is read as two GPUs");
}

#[test]
fn a_worker_that_fails_is_told_with_its_reason_and_its_last_lines() {
    let hive = Hive::builder().arg("--restart-limit", 0).start();
    let client = client(&hive.url);
    let id = client.spawn(&faulty(&hive, "crash-at-start=7")).unwrap().worker_id;
    // While it fails, and when it has failed.
    for _ in 0..2 {
        let error = client.wait_ready(&id, PATIENCE).unwrap_err();
        let ClientError::NotReady(worker) = &error else { panic!("{error}") };
        let exit = worker.exit.as_ref().unwrap();
        assert_eq!((worker.state, exit.code, exit.reason.as_str()), (State::Gone, Some(7), "exited"));
        assert!(!exit.log.is_empty(), "{exit:?}");
        assert!(error.to_string().ends_with(" has ended: exited"), "{error}");
    }
}

#[test]
fn a_worker_that_takes_too_long_or_is_unknown_is_not_waited_for_longer() {
    let hive = Hive::start();
    let client = client(&hive.url);
    let id = client.spawn(&faulty(&hive, "never-ready")).unwrap().worker_id;
    let error = client.wait_ready(&id, Duration::from_millis(300)).unwrap_err();
    let ClientError::NotReady(worker) = &error else { panic!("{error}") };
    assert_eq!((worker.state, worker.exit.as_ref()), (State::Spawning, None));
    let error = client.wait_gone(&id, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut), "{error}");
    let error = client.wait_ready(&"w-none".parse().unwrap(), PATIENCE).unwrap_err();
    assert_eq!(error.code(), Some(Code::WorkerNotFound), "{error}");
}

#[test]
fn who_waits_is_told_how_far_the_download_is() {
    let hub = Hub::start(Options { rate: Some(200_000), ..Options::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf::TINY.write(&path);
    let mut model = std::fs::read(path).unwrap();
    model.resize(200_000, 0);
    hub.add("org/far", Repository::new().with("far.gguf", model));
    let hive = Hive::builder().env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0").start();
    let client = client(&hive.url);
    let request = SpawnRequest { model_ref: "hf:org/far".to_owned(), ..mock(&hive) };
    let id = client.spawn(&request).unwrap().worker_id;
    let (mut told, mut provisions) = (0, false);
    let worker = client.wait_ready_with(&id, PATIENCE, |event| match event {
        Event::Download(_) => told += 1,
        Event::Worker(worker) => provisions |= worker.phase == Some(Phase::Provisioning),
        Event::Picture | Event::Hive(_) => panic!("{event:?}"),
    });
    assert_eq!(worker.unwrap().worker_id, id);
    assert!(told > 0 && provisions, "{told} {provisions}");
}
