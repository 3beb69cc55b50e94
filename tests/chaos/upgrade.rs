//! A hive is replaced while its workers are asked without a pause: no request fails.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rbee_hive::api::HeartbeatWorker;
use rbee_hive::mock::queen::{Options, Queen};

use crate::asked;
use crate::checks::{nothing_is_left, settles};
use crate::support::{Hive, PATIENCE, eventually};

/// So often in all.
const UPGRADES: u64 = 5;

/// Asks a worker until it is enough; gives what failed.
fn ask(url: &str, asked: &AtomicU64, enough: &AtomicBool) -> Vec<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE));
    // Each on a connection of its own, as many clients would.
    let agent = config.max_idle_connections(0).build().new_agent();
    let mut failed = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let answer = agent.post(format!("{url}/v1/completions")).send(r#"{"prompt": "a b", "ms": 0}"#);
        match answer.and_then(|mut answer| answer.body_mut().read_to_string()) {
            Ok(answer) if answer.contains(r#""text":"b a""#) => {}
            other => failed.push(format!("{other:?}")),
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
    failed
}

/// Whatever happens, clients end.
struct Last<'a>(&'a AtomicBool);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_request_to_a_worker_fails_while_its_hive_is_replaced() {
    let requests = asked("RBEE_REQUESTS").unwrap_or(500);
    let queen = Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), Options::default()).unwrap();
    let builder = || Hive::builder().arg("--queen-url", format!("http://{}", queen.addr()));
    let hive = builder().start();
    let ids = [hive.spawn("mock", ""), hive.spawn("mock-probe", "")];
    let urls = ids.map(|id| hive.wait_state(&id, "ready")["url"].as_str().unwrap().to_owned());
    // Who they are, whatever they do at the moment.
    let who = |worker: &HeartbeatWorker| (worker.worker_id.clone(), worker.pid, worker.restart_count);
    let mut known = Vec::new();
    settles("the queen sees both", || {
        known = queen.hives().first().map(|beat| beat.workers.iter().map(who).collect()).unwrap_or_default();
        (known.len() != 2 || known.iter().any(|(_, pid, _)| pid.is_none())).then(|| format!("{known:?}"))
    });
    let mut boots = vec![queen.hives()[0].boot_id.clone()];
    while queen.heartbeats().next(Duration::ZERO).is_some() {}

    let (answered, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let (failed, mut hive): (Vec<String>, Hive) = std::thread::scope(|scope| {
        let mut hive = hive;
        let enough_at_last = Last(&enough);
        let clients: Vec<_> = urls.iter().map(|url| scope.spawn(|| ask(url, &answered, &enough))).collect();
        for upgrade in 1..=UPGRADES {
            let wanted = requests * upgrade / UPGRADES;
            eventually("they answer", || answered.load(Ordering::Relaxed) >= wanted);
            hive.signal(12);
            assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
            hive = hive.restart(builder());
            let beat = queen.heartbeats().find(PATIENCE, |beat| !boots.contains(&beat.boot_id));
            let beat = beat.expect("a heartbeat of the new hive");
            assert_eq!(beat.workers.iter().map(who).collect::<Vec<_>>(), known, "{}", hive.log());
            boots.push(beat.boot_id);
        }
        drop(enough_at_last);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect(), hive)
    });
    println!("upgrades {UPGRADES} requests {} failed {}", answered.into_inner(), failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    nothing_is_left(&hive);
}
