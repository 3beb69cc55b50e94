//! How long what an engine says takes to be told by the hive: printed, not asserted.

use std::time::{Duration, Instant};

use crate::stage::{self, Watch};
use crate::stops::Dice;
use crate::wire::{self, Answering};

const STARTS: usize = 15;
const ROUNDS: usize = 10;

/// From one moment to another, which may have come before it, in milliseconds.
fn ms(from: Instant, to: Instant) -> f64 {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    if to >= from { ms(to - from) } else { -ms(from - to) }
}

fn print(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:.0} ms, {least:.0} to {most:.0} ms, {} times", times.len());
}

#[test]
#[ignore = "needs an engine and a model"]
fn ready_is_told_soon_after_the_engine_is() {
    let hive = stage::builder().start();
    let order = stage::order(&stage::place_model(&hive, "model.gguf"));
    let watch = Watch::of(&hive);
    let times = [(); STARTS].map(|()| {
        let (id, port) = stage::spawn(&hive, &order);
        let answered = wire::health_until_ready(port).pop().unwrap().1;
        let (told, _) = watch.state(&id, "ready");
        stage::ask(&hive, "DELETE", &format!("/v1/workers/{id}?force=true"), None);
        watch.state(&id, "gone");
        ms(answered, told)
    });
    print("from the engine's first 200 to the event that tells of ready", times.to_vec());
}

#[test]
#[ignore = "needs an engine and a model"]
fn busy_is_told_soon_after_no_slot_is_free() {
    let hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, "model.gguf")));
    watch.state(&id, "ready");
    let mut dice = Dice::new(1);
    let (mut busy, mut free) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // At any time between two questions of the hive.
        std::thread::sleep(dice.up_to(Duration::from_millis(500)));
        let answers = [Answering::begin(port), Answering::begin(port)];
        let full = wire::slots_until(port, 2);
        busy.push(ms(full, watch.state(&id, "busy").0));
        drop(answers);
        let idle = wire::slots_until(port, 0);
        free.push(ms(idle, watch.wait(&id, "idle", |worker| worker["slots_available"] == 2).0));
    }
    print("from the moment that /slots shows no free slot to the event that tells of busy", busy);
    print("from the moment that /slots shows all free to the event that tells of it", free);
}
