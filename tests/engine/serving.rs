//! An engine loads, serves, is full, dies, and is stopped at any time.

use std::thread;

use serde_json::json;

use crate::stage::{self, Watch, pid_of, port_of};
use crate::support::{descendants_of, is_alive, kill};
use crate::wire::{self, Answering};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const SIGUSR2: i32 = 12;

#[test]
#[ignore = "needs an engine and a model"]
fn a_worker_is_ready_when_its_engine_is_and_not_before() {
    let hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, "model.gguf")));
    let health = wire::health_until_ready(port);
    let statuses: Vec<u16> = health.iter().map(|(status, _)| *status).collect();
    // An engine may listen before it is asked for the first time, and may have loaded by then.
    assert!([0, 503, 200].ends_with(&statuses), "refused, loading, ready: {statuses:?}");
    let told = watch.until(&id, "ready", |worker| worker["state"] == "ready");
    let phases: Vec<_> = told.iter().map(|(_, worker)| worker["phase"].as_str().unwrap_or("ready")).collect();
    assert_eq!(phases, ["launching", "loading", "ready"]);
    let since = |at: std::time::Instant| (at - told[0].0).as_millis();
    let ready_at = told[2].0;
    for (status, at) in &health {
        println!("load: {status} after {} ms (0: refused)", since(*at));
        // Whoever said ready before was wrong.
        assert!(*status == 200 || ready_at > *at, "ready while it loads");
    }
    println!("      told as ready after {} ms", since(ready_at));
    println!("      it writes {:?}", wire::complete(port, 16));
}

#[test]
#[ignore = "needs an engine and a model"]
fn four_completions_on_two_slots_are_counted_one_by_one_and_full_is_busy() {
    let hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, "model.gguf")));
    let mut told = vec![watch.state(&id, "ready")];
    let free = |count: u64| move |worker: &serde_json::Value| worker["slots_available"] == count;
    thread::scope(|scope| {
        // The first one writes longer than the three others, which share the second slot.
        let first = scope.spawn(|| wire::complete(port, 600));
        told.extend(watch.until(&id, "at work", free(1)));
        let others = [(); 3].map(|()| scope.spawn(|| wire::complete(port, 60)));
        told.extend(watch.until(&id, "full", free(0)));
        told.extend(watch.until(&id, "free again", free(2)));
        for answer in others.into_iter().chain([first]) {
            assert!(!answer.join().unwrap().is_empty());
        }
    });
    let mut counts: Vec<u64> = Vec::new();
    for (_, worker) in &told {
        let count = worker["slots_available"].as_u64().unwrap();
        assert_eq!(worker["state"], if count == 0 { "busy" } else { "ready" }, "{worker}");
        if counts.last() != Some(&count) {
            counts.push(count);
        }
    }
    assert!(counts.starts_with(&[2, 1, 0]) && counts.ends_with(&[1, 2]), "{counts:?}");
    println!("busy: four completions on two slots, all answered; free slots as told: {counts:?}");
}

#[test]
#[ignore = "needs an engine and a model"]
fn an_engine_that_is_killed_while_it_answers_is_started_again_and_answers() {
    let hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, "model.gguf")));
    let (_, worker) = watch.state(&id, "ready");
    let mut answer = Answering::begin(port);
    answer.tokens(5);
    kill(pid_of(&worker), SIGKILL);
    answer.expect_cut();
    let (_, crashed) = watch.wait(&id, "backing off", |worker| worker["phase"] == "backoff");
    assert_eq!(crashed["exit"]["signal"], "SIGKILL", "{crashed}");
    let (_, again) = watch.state(&id, "ready");
    assert_eq!((&again["restart_count"], port_of(&again)), (&json!(1), port), "{again}");
    assert_ne!(again["pid"], worker["pid"]);
    println!("killed in the middle of an answer: restart {}", again["restart_count"]);
    println!("      it writes again {:?}", wire::complete(port, 16));
}

#[test]
#[ignore = "needs an engine and a model"]
fn an_engine_goes_on_in_the_middle_of_its_answer_while_its_hive_is_replaced_or_killed() {
    let mut hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, "model.gguf")));
    let (_, worker) = watch.state(&id, "ready");
    drop(watch);
    let mut answer = Answering::begin(port);
    answer.tokens(5);
    for (how, signal) in [("replaced", SIGUSR2), ("killed", SIGKILL)] {
        hive.signal(signal);
        hive = hive.restart(stage::builder());
        let watch = Watch::of(&hive);
        let (_, adopted) = watch.wait(&id, "at work", |worker| worker["slots_available"] == 1);
        assert_eq!((&adopted["pid"], &adopted["restart_count"]), (&worker["pid"], &json!(0)), "{adopted}");
        answer.tokens(5);
        println!("its hive is {how} in the middle of an answer: adopted, and it writes on");
    }
    assert_eq!(stage::ask(&hive, "DELETE", &format!("/v1/workers/{id}"), None).status, 202);
    let last = hive.wait_state(&id, "gone");
    assert_eq!(last["exit"]["reason"], "stopped");
    assert!(hive.processes().is_empty() && wire::get(port, "/health").is_none());
}

#[test]
#[ignore = "needs an engine and a model"]
fn a_worker_that_is_stopped_while_it_loads_leaves_nothing() {
    let hive = stage::builder().start();
    let model = stage::place_model(&hive, "model.gguf");
    for (what, loading) in [("refused", None), ("503", Some(503))] {
        // A load can be over before anybody saw it: then another one is stopped.
        let reason = (0..20).find_map(|_| {
            let watch = Watch::of(&hive);
            let (id, port) = stage::spawn(&hive, &stage::order(&model));
            watch.wait(&id, "loading", |worker| worker["phase"] == "loading");
            let seen = std::iter::repeat_with(|| wire::get(port, "/health").map(|(status, _)| status))
                .find(|status| *status == loading || *status == Some(200));
            assert_eq!(stage::ask(&hive, "DELETE", &format!("/v1/workers/{id}"), None).status, 202);
            let told = watch.until(&id, "gone", |worker| worker["state"] == "gone");
            assert_eq!(
                (hive.workers().len(), hive.processes(), wire::get(port, "/health")),
                (0, vec![], None)
            );
            let in_time = seen == Some(loading) && told.iter().all(|(_, worker)| worker["state"] != "ready");
            in_time.then(|| told.last().unwrap().1["exit"]["reason"].clone())
        });
        println!(
            "stopped while it loads ({what}): {}, nothing is left",
            reason.expect("a load that was seen")
        );
    }
}

#[test]
#[ignore = "needs an engine and a model"]
fn a_hive_that_ends_takes_an_engine_along_in_the_middle_of_its_answer() {
    let mut hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, "model.gguf")));
    let (_, worker) = watch.state(&id, "ready");
    let mut answer = Answering::begin(port);
    answer.tokens(5);
    hive.signal(SIGTERM);
    let status = hive.wait_exit();
    answer.expect_cut();
    assert_eq!(status.code(), Some(0), "{}", hive.log());
    assert!(!is_alive(pid_of(&worker)) && descendants_of(hive.folder.path()).is_empty());
    println!("cascade in the middle of an answer: {status}, nothing is left");
}

/// All that a file name can hold and a reference may: what a shell, a template or a URL would stumble over.
const NAME: &str = r#"a "b" 'c' $(touch ran) `touch ran` ${HOME} {port} {{ctx}} %41 #x ?y=1 &amp; ; | < > * ~ -- = @main:Q8_0 .gguf"#;

#[test]
#[ignore = "needs an engine and a model"]
fn a_file_name_is_a_file_name_whatever_stands_in_it() {
    let hive = stage::builder().start();
    let watch = Watch::of(&hive);
    let (id, port) = stage::spawn(&hive, &stage::order(&stage::place_model(&hive, NAME)));
    let (_, worker) = watch.state(&id, "ready");
    let line = std::fs::read(format!("/proc/{}/cmdline", pid_of(&worker))).unwrap();
    let path = hive.models.canonicalize().unwrap().join(NAME);
    assert!(line.split(|b| *b == 0).any(|arg| arg == path.as_os_str().as_encoded_bytes()), "one argument");
    println!("a file named {NAME:?} is served: it writes {:?}", wire::complete(port, 8));
    for (what, name) in [
        ("a backslash", r"a\b.gguf"),
        ("a line feed", "a\nb.gguf"),
        ("an umlaut", "ä.gguf"),
        ("..", "a..b.gguf"),
    ] {
        let refused = hive.post("/v1/workers/spawn", &stage::order(&stage::place_model(&hive, name)));
        assert_eq!((refused.status, refused.code().as_str()), (400, "INVALID_ARGUMENT"), "{}", refused.text);
        let answer = refused.json();
        assert_eq!(answer["error"]["details"]["field"], "model_ref");
        println!("      with {what} it is refused: {}", answer["error"]["message"]);
    }
}
