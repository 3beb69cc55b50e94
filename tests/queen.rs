//! What the queen gets from the daemon, and that nothing she does or leaves undone delays anything.

mod support;

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};

use rbee_hive::api::{Heartbeat, HiveStatus, State};
use rbee_hive::id::Token;
use rbee_hive::mock::queen::{Options, Queen};
use rbee_hive::mock::rude::{self, Manner};
use support::{Builder, Hive, PATIENCE, eventually, kill};

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A hive of this queen that tells her of changes alone.
fn quiet_hive_of(queen: SocketAddr) -> Builder {
    Hive::builder().arg("--queen-url", format!("http://{queen}")).arg("--heartbeat-interval", "1h")
}

fn states(beat: &Heartbeat) -> Vec<State> {
    beat.workers.iter().map(|worker| worker.state).collect()
}

#[test]
fn each_change_arrives_and_the_last_word_is_that_it_stopped() {
    let queen =
        Queen::start(listener(), Options { token: Token::parse("s3cret-of-the-hive"), ..Options::default() })
            .unwrap();
    let heard = |what: &str, wanted: &dyn Fn(&Heartbeat) -> bool| {
        queen.heartbeats().find(PATIENCE, wanted).unwrap_or_else(|| panic!("she never heard: {what}"))
    };
    let mut boots = HashSet::new();
    for _ in 0..2 {
        let mut hive = quiet_hive_of(queen.addr()).token("s3cret-of-the-hive").start();
        let first = heard("it is there", &|beat| beat.workers.is_empty() && beat.status == HiveStatus::Ready);
        assert_eq!((first.hive_id.as_str(), first.url.as_str()), ("test", hive.url.as_str()));
        assert!(boots.insert(first.boot_id.clone()), "each start has a boot_id of its own");
        let id = hive.spawn("mock", "");
        let ready = heard("ready", &|beat| states(beat) == [State::Ready]);
        let (told, listed) = (&ready.workers[0], hive.worker(&id));
        assert_eq!(told.worker_id.as_str(), id);
        assert_eq!(
            (listed["url"].as_str(), listed["model_ref"].as_str()),
            (Some(told.url.as_str()), Some(told.model_ref.as_str()))
        );
        assert_eq!(told.pid.map(u64::from), listed["pid"].as_u64());
        kill(told.pid.unwrap(), 9);
        let again = heard("again", &|beat| {
            beat.workers.first().is_some_and(|w| w.restart_count == 1 && w.state == State::Ready)
        });
        assert_ne!(again.workers[0].pid, told.pid);
        assert_eq!(again.workers[0].url, told.url);
        hive.signal(15);
        let last = heard("stopped", &|beat| {
            assert_eq!(beat.boot_id, first.boot_id);
            beat.status == HiveStatus::Stopped
        });
        assert!(last.workers.is_empty());
        assert!(
            first.sequence < ready.sequence
                && ready.sequence < again.sequence
                && again.sequence < last.sequence
        );
        assert!(hive.wait_exit().success());
        assert!(queen.heartbeats().next(std::time::Duration::ZERO).is_none(), "the last word is the last");
    }
}

#[test]
fn the_first_that_she_hears_of_the_next_hive_has_the_workers_that_it_adopted() {
    let queen = Queen::start(listener(), Options::default()).unwrap();
    let heard = |what: &str, wanted: &dyn Fn(&Heartbeat) -> bool| {
        queen.heartbeats().find(PATIENCE, wanted).unwrap_or_else(|| panic!("she never heard: {what}"))
    };
    let mut hive = quiet_hive_of(queen.addr()).start();
    hive.spawn("mock", "");
    let before = heard("ready", &|beat| states(beat) == [State::Ready]);
    hive.signal(12);
    let last = heard("it ends", &|beat| beat.status == HiveStatus::Stopping);
    assert_eq!(last.workers[0].pid, before.workers[0].pid);
    hive.wait_exit();
    let _hive = hive.restart(quiet_hive_of(queen.addr()));
    let first = heard("the next one", &|beat| beat.boot_id != before.boot_id);
    assert_eq!(first.sequence, 1);
    assert!(matches!(first.status, HiveStatus::Starting | HiveStatus::Ready), "{:?}", first.status);
    assert_eq!(states(&first), [State::Ready]);
    let (told, known) = (&first.workers[0], &before.workers[0]);
    assert_eq!((&told.worker_id, told.pid, &told.url), (&known.worker_id, known.pid, &known.url));
}

#[test]
fn sequences_grow_by_one_and_the_interval_is_kept_without_changes() {
    let queen = Queen::start(listener(), Options::default()).unwrap();
    let hive = Hive::builder()
        .arg("--queen-url", format!("http://{}/beats", queen.addr()))
        .arg("--heartbeat-interval", "100ms");
    // With a path of its own the URL is used as it stands, and she has none there.
    let astray = hive.start();
    let hive = Hive::builder()
        .arg("--queen-url", format!("http://{}/heartbeat", queen.addr()))
        .arg("--heartbeat-interval", "100ms")
        .arg("--hive-id", "regular")
        .start();
    let mut before = 0;
    for _ in 0..10 {
        let beat = queen.heartbeats().next(PATIENCE).expect("they go on");
        assert_eq!(beat.hive_id, "regular");
        assert!(before == 0 || beat.sequence == before + 1, "{before} then {}", beat.sequence);
        before = beat.sequence;
    }
    drop((astray, hive));
}

/// All that is done to a hive must go on as if there were no queen.
fn assert_not_delayed(mut hive: Hive) {
    let id = hive.spawn("mock", "");
    let worker = hive.wait_state(&id, "ready");
    kill(u32::try_from(worker["pid"].as_u64().unwrap()).unwrap(), 9);
    hive.wait(&id, "again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    for _ in 0..50 {
        assert_eq!(hive.get("/v1/workers").status, 200);
    }
    hive.signal(15);
    assert!(hive.wait_exit().success());
    assert_eq!(hive.processes(), Vec::<u32>::new());
    assert!(hive.log().lines().count() < 200, "a bad queen floods the log:\n{}", hive.log());
}

#[test]
fn a_queen_that_is_not_there_delays_nothing() {
    let nobody = listener().local_addr().unwrap();
    assert_not_delayed(Hive::builder().arg("--queen-url", format!("http://{nobody}")).start());
}

#[test]
fn a_queen_whose_name_nobody_knows_delays_nothing() {
    assert_not_delayed(Hive::builder().arg("--queen-url", "http://queen.invalid:1").start());
}

#[test]
fn a_queen_that_hangs_delays_nothing() {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let _queen = rude::serve(listener, Manner::Hang).unwrap();
    assert_not_delayed(quiet_hive_of(addr).start());
}

#[test]
fn while_the_last_word_is_said_what_would_change_something_is_refused() {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let _queen = rude::serve(listener, Manner::Hang).unwrap();
    let mut hive = quiet_hive_of(addr).start();
    hive.signal(15);
    // The supervisor ends at once, for there is no worker; the queen does not take the last word.
    let asked = |method: &str, path: &str| {
        let reply = hive.request(method, path, &[], None);
        (reply.status, reply.code())
    };
    let refused = (503, "SHUTTING_DOWN".to_owned());
    eventually("the supervisor has ended", || asked("POST", "/v1/shutdown") == refused);
    assert_eq!(asked("POST", "/v1/workers/spawn"), refused);
    assert_eq!(asked("DELETE", "/v1/workers/w"), refused);
    assert_eq!(hive.get("/v1/workers").status, 200);
    assert!(hive.wait_exit().success());
}

#[test]
fn a_queen_that_talks_nonsense_or_hangs_up_delays_nothing() {
    for manner in [Manner::Garbage, Manner::Reset] {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let _queen = rude::serve(listener, manner).unwrap();
        assert_not_delayed(Hive::builder().arg("--queen-url", format!("http://{addr}")).start());
    }
}

#[test]
fn a_queen_that_refuses_is_told_the_newest_picture_when_she_is_well_again() {
    let queen = Queen::start(listener(), Options { fault: Some(500), ..Options::default() }).unwrap();
    let hive = Hive::builder().arg("--queen-url", format!("http://{}", queen.addr())).start();
    let gone = hive.spawn("mock", "");
    hive.wait_state(&gone, "ready");
    hive.delete(&format!("/v1/workers/{gone}"));
    hive.wait_state(&gone, "gone");
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    assert!(queen.hives().is_empty());
    queen.set_fault(None);
    let beat = queen.heartbeats().next(PATIENCE).expect("she hears again");
    assert_eq!(states(&beat), [State::Ready], "the newest alone, nothing was queued");
    assert_eq!(beat.workers[0].worker_id.as_str(), id);
    assert_not_delayed(hive);
}

#[test]
fn her_token_is_never_logged_and_a_wrong_one_delays_nothing() {
    let queen =
        Queen::start(listener(), Options { token: Token::parse("hers"), ..Options::default() }).unwrap();
    let mut hive = quiet_hive_of(queen.addr())
        .env("RUST_LOG", "debug")
        .env("RBEE_HIVE_QUEEN_TOKEN", "zq7marker")
        .token("s3cret-of-the-hive")
        .start();
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    assert!(queen.hives().is_empty());
    hive.signal(15);
    assert!(hive.wait_exit().success());
    assert!(!hive.log().contains("zq7marker") && !hive.log().contains("s3cret"), "{}", hive.log());
}
