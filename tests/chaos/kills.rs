//! The hive is killed at any moment around a spawn, a ready and a stop: nothing is lost, nothing is left.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::asked;
use crate::checks::{guardian, marked, nothing_is_left, settles, strangers};
use crate::random::Random;
use crate::support::{Builder, Hive};

/// Workers that are let grow together, before they are stopped.
const WORKERS_MAX: usize = 5;

fn kills() -> u64 {
    asked("RBEE_KILLS").unwrap_or(8)
}

fn builder() -> Builder {
    Hive::builder().arg("--shutdown-timeout", "500ms")
}

/// Has something under way, and kills the hive somewhere within. Gives the workers that have nothing to do with it.
fn kill_in_the_middle(hive: &mut Hive, random: &mut Random) -> Vec<Value> {
    let mut workers = hive.workers();
    let kind = random.one_of(&["mock", "mock-probe"]);
    let faults = random.one_of(&["", "", "grandchild,daemon", "ignore-term", "ignore-shutdown"]);
    if workers.len() < WORKERS_MAX {
        let id = hive.spawn(kind, faults);
        if random.chance(30) {
            hive.wait_state(&id, "ready");
        }
    }
    if workers.len() == WORKERS_MAX || random.chance(30) {
        for worker in workers.extract_if(.., |_| random.chance(60)) {
            hive.delete(&format!("/v1/workers/{}", worker["worker_id"].as_str().unwrap()));
        }
    }
    workers.retain(|worker| worker["state"] == "ready");
    std::thread::sleep(Duration::from_micros(random.within(0..60_000)));
    hive.kill();
    workers
}

#[test]
fn a_hive_killed_at_any_moment_leaves_its_workers_to_the_next_one() {
    let mut random = Random::new(asked("RBEE_CHAOS_FIRST").unwrap_or(1));
    let mut hive = builder().start();
    let mut adopted = 0;
    for _ in 0..kills() {
        let before = kill_in_the_middle(&mut hive, &mut random);
        let living = marked(hive.folder.path()).len();
        hive = hive.restart(builder());
        let workers: Vec<Value> = hive.workers();
        adopted += workers.len();
        for worker in before {
            let again = workers.iter().find(|again| again["worker_id"] == worker["worker_id"]);
            let same = again.is_some_and(|again| again["pid"] == worker["pid"]);
            assert!(same, "{worker} became {again:?}\n{}", hive.log());
        }
        settles("list and processes", || {
            let wrong = strangers(&hive, &hive.workers())?;
            Some(format!("{wrong}; {living} processes lived; adopted {workers:?}\n{}", hive.log()))
        });
    }
    println!("kills {} adopted {adopted}", kills());
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0));
    nothing_is_left(&hive);
}

#[test]
fn with_orphans_kill_nothing_outlives_a_hive_killed_at_any_moment() {
    let mut random = Random::new(asked("RBEE_CHAOS_FIRST").unwrap_or(1));
    let builder = || builder().arg("--orphans", "kill");
    let mut hive = builder().start();
    let mut times = Vec::new();
    // Each takes a second: the guardian waits that long for a next hive.
    for _ in 0..kills().div_ceil(4) {
        for _ in 0..random.within(1..3) {
            let id = hive.spawn(random.one_of(&["mock", "mock-probe"]), "");
            if random.chance(50) {
                hive.wait_state(&id, "ready");
            }
        }
        kill_in_the_middle(&mut hive, &mut random);
        let killed = Instant::now();
        let folder = hive.folder.path();
        settles("nothing outlives it", || {
            let left = (hive.processes(), guardian(folder));
            let log = std::fs::read_to_string(hive.log_file("guardian.log")).unwrap_or_default();
            (left != (Vec::new(), None)).then(|| format!("{left:?}\n{}\nguardian: {log}", hive.log()))
        });
        times.push(killed.elapsed());
        assert_eq!(hive.records(), Vec::<String>::new());
        hive = hive.restart(builder());
        assert_eq!(hive.workers(), Vec::<Value>::new());
    }
    times.sort();
    println!(
        "kills {} until nothing is left: median {:?} longest {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
}
