//! Many stops at the worst of times, and nothing that is left of them.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::stage::{self, Watch};
use crate::support::{Hive, eventually};
use crate::wire::{self, Answering};

/// Stops of either sort unless `RBEE_STOPS` says otherwise.
const STOPS: usize = 20;
/// Workers at once.
const AT_ONCE: usize = 4;

/// Numbers by chance that are the same in each run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    pub fn up_to(&mut self, time: Duration) -> Duration {
        Duration::from_micros(self.below(1 + u64::try_from(time.as_micros()).unwrap()))
    }
}

fn stops() -> usize {
    std::env::var("RBEE_STOPS").map_or(STOPS, |count| count.parse().expect("RBEE_STOPS is a number"))
}

/// What the hive itself holds: descriptors and threads.
fn held(hive: &Hive) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", hive.pid())).unwrap().count();
    (count("fd"), count("task"))
}

fn daemon() -> Hive {
    // llama-server, told to end, waits up to 30 s for whoever reads an answer: it is killed when the grace is over.
    stage::builder().ports(2 * u16::try_from(AT_ONCE).unwrap()).arg("--shutdown-timeout", "2s").start()
}

/// Stops workers, several at once, until so many were stopped as `stop` wanted; checks that nothing is left.
/// `stop` gives whether the stop came at the time that it was to come.
fn stop_many(what: &str, stop: impl Fn(&Hive, &Watch, &str, u16, &mut Dice) -> bool + Sync) {
    let hive = daemon();
    let order = stage::order(&stage::place_model(&hive, "model.gguf"));
    let one = |seed: u64| {
        let watch = Watch::of(&hive);
        let (id, port) = stage::spawn(&hive, &order);
        let mut dice = Dice::new(seed);
        let in_time = stop(&hive, &watch, &id, port, &mut dice);
        watch.state(&id, "gone");
        in_time
    };
    // The first one makes the hive open what it then keeps.
    one(0);
    let before = settled(&hive);
    let (wanted, begun) = (stops(), Instant::now());
    let (seeds, done, late) = (AtomicUsize::new(1), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) < wanted {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed) as u64;
                    let counter = if one(seed) { &done } else { &late };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let took = begun.elapsed().as_secs_f64();
    assert!(hive.workers().is_empty(), "{:?}", hive.workers());
    assert!(hive.processes().is_empty(), "processes are left");
    for port in hive.ports.clone() {
        TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("{port}: {error}"));
    }
    eventually("no memory is promised any more", || is_all_available(&hive, &order));
    eventually("the hive holds what it held before", || held(&hive) == before);
    println!(
        "{} stops {what} in {took:.0} s, {} more came too late; no process, no port, no promise is left; \
         the hive holds {} descriptors and {} threads, as before",
        done.into_inner(),
        late.into_inner(),
        before.0,
        before.1
    );
}

/// What the hive holds, once that stands still.
fn settled(hive: &Hive) -> (usize, usize) {
    let mut last = held(hive);
    let mut since = Instant::now();
    eventually("what the hive holds stands still", || {
        let now = held(hive);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    });
    last
}

/// Whether all that is free is available: two answers from one look at the machine.
fn is_all_available(hive: &Hive, order: &Value) -> bool {
    let path = format!("/v1/capacity?device=cpu&model={}", order["model_ref"].as_str().unwrap());
    let available: u64 =
        stage::ask(hive, "GET", &path, None).header("X-Rbee-Available-Bytes").parse().unwrap();
    let devices = stage::ask(hive, "GET", "/v1/devices", None).json();
    devices["cpu"]["ram_available_bytes"] == available
}

/// `DELETE` or `DELETE?force=true`, by chance.
fn delete(hive: &Hive, id: &str, dice: &mut Dice) {
    let force = if dice.below(2) == 0 { "?force=true" } else { "" };
    let reply = stage::ask(hive, "DELETE", &format!("/v1/workers/{id}{force}"), None);
    assert_eq!(reply.status, 202, "{}", reply.text);
}

#[test]
#[ignore = "needs an engine and a model"]
fn stops_in_the_middle_of_loading_leave_nothing() {
    // How long a load takes while others load too, as far as it was seen.
    let longest_us = AtomicUsize::new(1_000_000);
    let (refused, loading) = (AtomicUsize::new(0), AtomicUsize::new(0));
    stop_many("in the middle of loading", |hive, watch, id, port, dice| {
        let begun = Instant::now();
        // One in four is stopped while it starts, or waits for that: the others at any time of the load.
        let until = match dice.below(4) {
            0 => Duration::ZERO,
            _ => dice.up_to(Duration::from_micros(longest_us.load(Ordering::Relaxed) as u64)),
        };
        let mut ready = false;
        while begun.elapsed() < until && !ready {
            ready = wire::get(port, "/health").is_some_and(|(status, _)| status == 200);
            std::thread::sleep(Duration::from_millis(5));
        }
        if ready {
            let took = usize::try_from(begun.elapsed().as_micros()).unwrap();
            longest_us.store(took, Ordering::Relaxed);
        }
        match wire::get(port, "/health") {
            None => refused.fetch_add(1, Ordering::Relaxed),
            Some(_) => loading.fetch_add(1, Ordering::Relaxed),
        };
        delete(hive, id, dice);
        let told = watch.until(id, "leaving", |worker| worker["state"] == "stopping");
        told.iter().all(|(_, worker)| worker["state"] != "ready")
    });
    println!(
        "      {} of them before the engine listened, {} while it answered 503 or had just answered 200",
        refused.into_inner(),
        loading.into_inner()
    );
}

#[test]
#[ignore = "needs an engine and a model"]
fn stops_in_the_middle_of_a_completion_leave_nothing() {
    stop_many("in the middle of a completion", |hive, watch, id, port, dice| {
        watch.state(id, "ready");
        let mut answers = vec![Answering::begin(port)];
        answers[0].tokens(1);
        // Up to three others: one on the second slot, the rest in the queue.
        answers.extend((0..dice.below(4)).map(|_| Answering::begin(port)));
        answers[0].tokens(usize::try_from(dice.below(10)).unwrap());
        delete(hive, id, dice);
        answers.into_iter().for_each(Answering::expect_cut);
        true
    });
}
