//! Answers that do not arrive: what is asked again, and what the caller is told.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rbee_hive::api::{Readiness, SpawnRequest};
use rbee_hive::client::{ClientError, Code};

use crate::line::Line;
use crate::support::{Hive, PATIENCE, eventually};
use crate::{client, mock};

#[test]
fn a_spawn_whose_answer_is_lost_is_one_worker() {
    let hive = Hive::start();
    let line = Line::to(hive.address);
    line.lose(2);
    let spawned = client(&line.url()).spawn(&mock(&hive)).unwrap();
    assert_eq!(line.lost(), 2);
    let workers = client(&hive.url).workers().unwrap();
    assert_eq!(workers.iter().map(|worker| &worker.worker_id).collect::<Vec<_>>(), [&spawned.worker_id]);
}

#[test]
fn a_spawn_of_which_nothing_is_heard_can_be_asked_for_by_its_key() {
    let hive = Hive::start();
    let line = Line::to(hive.address);
    line.lose(usize::MAX);
    let hasty = client(&line.url()).with_timeout(Duration::from_millis(500));
    let error = hasty.spawn(&mock(&hive)).unwrap_err();
    let ClientError::Unknown { key, cause } = &error else { panic!("{error}") };
    assert!(matches!(**cause, ClientError::Unreachable(_) | ClientError::TimedOut), "{cause}");
    assert!(error.to_string().starts_with("it is unknown whether"), "{error}");
    let direct = client(&hive.url);
    let spawned = direct.spawn_with_key(&mock(&hive), key).unwrap();
    let workers = direct.workers().unwrap();
    assert_eq!(workers.iter().map(|worker| &worker.worker_id).collect::<Vec<_>>(), [&spawned.worker_id]);
}

#[test]
fn a_spawn_whose_hive_dies_before_it_answers_is_one_worker_of_the_next_hive() {
    let mut hive = Hive::start();
    let line = Line::to(hive.address);
    let request = mock(&hive);
    let (spawned, hive) = thread::scope(|scope| {
        line.lose(usize::MAX);
        let spawns = scope.spawn(|| client(&line.url()).spawn(&request));
        eventually("it is launched, and that is written down", || {
            hive.records().iter().any(|name| name.starts_with("w-")) && line.lost() > 0
        });
        hive.kill();
        line.lead_to(None);
        let next = hive.restart(Hive::builder());
        line.lose(0);
        line.lead_to(Some(next.address));
        (spawns.join().unwrap().unwrap(), next)
    });
    let near = client(&hive.url);
    near.wait_ready(&spawned.worker_id, PATIENCE).unwrap();
    let workers = near.workers().unwrap();
    assert_eq!(workers.iter().map(|worker| &worker.worker_id).collect::<Vec<_>>(), [&spawned.worker_id]);
}

#[test]
fn a_spawn_that_is_refused_or_never_sent_is_not_unknown() {
    let hive = Hive::start();
    let line = Line::to(hive.address);
    let far = client(&line.url());
    // Refused the second time, when the first answer was lost: it would have been the same one.
    line.lose(1);
    let error = far.spawn(&SpawnRequest::new("hf:org/absent")).unwrap_err();
    assert_eq!((error.code(), line.lost()), (Some(Code::ModelNotFound), 1), "{error}");
    let object = error.object().unwrap();
    assert!(!object.message.is_empty() && object.correlation_id.len() == 36, "{object:?}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(&format!("http://{free}")).spawn(&mock(&hive)).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
    assert_eq!(client(&hive.url).workers().unwrap(), []);
}

#[test]
fn what_only_reads_is_asked_once_more_and_what_changes_something_is_not() {
    let hive = Hive::start();
    let line = Line::to(hive.address);
    let far = client(&line.url());
    line.lose(1);
    assert_eq!(far.status().unwrap().hive_id, "test");
    assert_eq!(line.lost(), 1);
    line.lose(2);
    assert!(matches!(far.devices(), Err(ClientError::Unreachable(_))));
    assert_eq!(line.lost(), 3);
    line.lose(1);
    assert!(matches!(far.drain(true), Err(ClientError::Unreachable(_))));
    assert_eq!(line.lost(), 4);
    assert!(matches!(far.readiness(), Ok(Readiness::NotReady { .. })), "it was taken all the same");
}
