//! The hive under clients as no client should be: what they cost it, and how long others wait meanwhile. Once with as
//! many descriptors as it likes, and once with 64 in all.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

#[path = "../tests/support/rude.rs"]
mod rude;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rude::{Attack, HALF_HEAD, Holds, Manner, PREFACE, Patient, SLOW_CHUNKS, STALLED_BODY, STREAM};
use support::Times;
use support::daemon::Hive;

/// How long each goes on.
const HELD: Duration = Duration::from_secs(3);

const ATTACKS: [Attack; 10] = [
    Attack { name: "nobody", clients: 0, manner: Manner::Reset },
    Attack { name: "3000 half-sent heads", clients: 3000, manner: Manner::Stall(HALF_HEAD) },
    Attack { name: "3000 silent clients", clients: 3000, manner: Manner::Stall("") },
    Attack { name: "64 stalled bodies", clients: 64, manner: Manner::Stall(STALLED_BODY) },
    Attack { name: "64 stalled chunks", clients: 64, manner: Manner::Stall(SLOW_CHUNKS) },
    Attack { name: "200 idle streams", clients: 200, manner: Manner::Stall(STREAM) },
    Attack { name: "an unread pipeline of 400 000", clients: 1, manner: Manner::Pipeline(400_000) },
    Attack { name: "64 unread pipelines of 20 000", clients: 64, manner: Manner::Pipeline(20_000) },
    Attack { name: "3000 resets", clients: 3000, manner: Manner::Reset },
    Attack { name: "200 HTTP/2 prefaces", clients: 200, manner: Manner::Stall(PREFACE) },
];

fn main() {
    for descriptors in [None, Some(64)] {
        let mut builder = Hive::builder().arg("--heartbeat-interval", "30s");
        let limit = descriptors.map_or("its own".to_owned(), |n: u64| n.to_string());
        if let Some(descriptors) = descriptors {
            builder = builder.descriptors(descriptors);
        }
        let mut hive = builder.start();
        println!("\nedge: limit of descriptors {limit}; health is asked for all the while, every 2 ms");
        println!(
            "{:<30} {:>9} {:>9} {:>9} {:>6} {:>7}  {:>8} {:>9} {:>16}   wanted: p99 < 20 ms, threads the same, < 20 MiB",
            "", "median ms", "p99 ms", "worst ms", "n", "cut off", "threads", "MiB more", "descriptors"
        );
        for attack in ATTACKS {
            suffer(&hive, &attack);
        }
        hive.signal(15);
        println!("exit code {:?}", hive.wait_exit().code());
    }
}

fn suffer(hive: &Hive, attack: &Attack) {
    let mut patient = Patient::new(hive.address);
    patient.ask();
    let idle = Holds::of(hive.pid());
    let over = AtomicBool::new(false);
    let (mut most, mut after) = (idle, idle);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                patient.ask();
                std::thread::sleep(Duration::from_millis(2));
            }
            patient
        });
        let held = attack.begin(hive.address);
        let began = Instant::now();
        while began.elapsed() < HELD {
            most = most.max(Holds::of(hive.pid()));
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(held);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            after = Holds::of(hive.pid());
            if after.descriptors <= idle.descriptors {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::Relaxed);
        let patient = asking.join().unwrap();
        let mut times = Times::default();
        patient.times.iter().for_each(|time| times.push(*time));
        let [median, p99, worst] = [50, 99, 100].map(|percent| times.percentile_ms(percent));
        let mib = (most.kib.saturating_sub(idle.kib)) as f64 / 1024.0;
        println!(
            "{:<30} {median:>9.3} {p99:>9.3} {worst:>9.3} {:>6} {:>7}  {:>3} → {:<3} {mib:>8.2} {:>5} → {:>3} → {:>3}",
            attack.name,
            times.count(),
            patient.cut_off,
            idle.threads,
            most.threads,
            idle.descriptors,
            most.descriptors,
            after.descriptors
        );
    });
}
