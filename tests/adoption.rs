//! What becomes of workers when their hive dies or is replaced: the next one takes them over, the guardian ends them,
//! and nobody else is touched.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::{Builder, Hive, eventually, is_alive, kill, variable};

/// What must be the same before and after.
fn essence(worker: &Value) -> Value {
    let fields = ["worker_id", "url", "kind", "model_ref", "device", "state", "pid", "port", "slots_total"];
    let more = ["restart_count", "reserved_bytes"];
    fields
        .iter()
        .chain(&more)
        .map(|field| ((*field).to_owned(), worker[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn essences(hive: &Hive) -> Vec<Value> {
    hive.workers().iter().map(essence).collect()
}

fn pid(worker: &Value) -> u32 {
    u32::try_from(worker["pid"].as_u64().expect("it has a process")).unwrap()
}

fn builder() -> Builder {
    Hive::builder()
}

/// A native worker and one that is asked, both ready.
fn two_ready(hive: &Hive) -> [String; 2] {
    let ids = [hive.spawn("mock", ""), hive.spawn("mock-probe", "")];
    for id in &ids {
        hive.wait_state(id, "ready");
        // The disk comes after the news.
        eventually("that is written down", || hive.record(id).contains("serving"));
    }
    ids
}

/// The guardian of this hive.
fn guardian(hive: &Hive) -> Option<u32> {
    let folder = hive.folder.path().join("data");
    let is_it = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"guard") && words.next() == Some(folder.as_os_str().as_encoded_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_it(&line)) && is_alive(*pid)
    })
}

fn cascade(mut hive: Hive) {
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    assert!(hive.processes().is_empty(), "{}", hive.log());
    // That of a hive before it looks from time to time whether there is another one.
    eventually("no guardian is left", || guardian(&hive).is_none());
    assert!(hive.records().is_empty(), "{:?}", hive.records());
}

#[test]
fn the_next_hive_takes_over_what_a_killed_one_left() {
    let mut hive = builder().start();
    let [native, probed] = two_ready(&hive);
    let before = essences(&hive);
    let log = hive.get(&format!("/v1/workers/{native}/logs")).text;
    hive.kill();
    let hive = hive.restart(builder());
    eventually("both are there", || essences(&hive) == before);
    assert!(hive.get(&format!("/v1/workers/{native}/logs")).text.starts_with(&log));
    // It is watched on: it says, or answers, that it lives.
    for id in [&native, &probed] {
        let worker = || hive.worker(id);
        eventually("it is heard", || {
            worker()["last_heartbeat"].is_string() && worker()["memory_bytes"].is_u64()
        });
    }
    // Its port is its own.
    let third = hive.spawn("mock", "");
    let third = hive.wait_state(&third, "ready");
    assert!(before.iter().all(|worker| worker["port"] != third["port"]));
    // It can be stopped, and how it ended nobody tells but its parent.
    let mut events = hive.events();
    hive.delete(&format!("/v1/workers/{native}"));
    let (_, last) = hive.story(&mut events, &native);
    assert_eq!((&last["exit"]["reason"], &last["exit"]["code"]), (&json!("stopped"), &Value::Null));
    cascade(hive);
}

#[test]
fn a_hive_is_ready_when_those_that_it_adopted_have_answered_or_had_their_time() {
    let mut hive = builder().start();
    let id = hive.spawn("mock-probe", "");
    let worker = pid(&hive.wait_state(&id, "ready"));
    eventually("that is written down", || hive.record(&id).contains("serving"));
    hive.kill();
    // Not before: the kernel ends a stopped process whose parent dies.
    kill(worker, 19);
    let hive = hive.restart(builder());
    let ready = hive.get("/ready");
    assert_eq!((ready.status, &ready.json()["reason"]), (503, &json!("starting")), "{}", ready.text);
    let refused = hive.post("/v1/workers/spawn", &json!({"model_ref": hive.model_ref(), "kind": "mock"}));
    assert_eq!(refused.status, 202, "{}", refused.text);
    eventually("it is ready all the same", || hive.get("/ready").status == 200);
    kill(worker, 18);
    eventually("it answers", || hive.worker(&id)["last_heartbeat"].is_string());
    cascade(hive);
}

#[test]
fn an_adopted_worker_that_dies_is_seen_at_once_and_started_again() {
    let mut hive = builder().start();
    let [native, probed] = two_ready(&hive);
    hive.kill();
    let hive = hive.restart(builder());
    for id in [&native, &probed] {
        let worker = hive.wait_state(id, "ready");
        kill(pid(&worker), 9);
        let dead = hive.wait(id, "seen dead", |worker| worker["phase"] == "backoff");
        let message = dead["exit"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("adopted") && dead["exit"]["code"].is_null(), "{dead}");
        let again = hive.wait(id, "ready again", |again| again["state"] == "ready");
        assert_ne!(again["pid"], worker["pid"]);
        assert_eq!(again["restart_count"], 1);
    }
    cascade(hive);
}

#[test]
fn what_an_adopted_worker_leaves_in_its_group_or_outside_dies_with_it() {
    let mut hive = builder().start();
    let id = hive.spawn("mock", "grandchild,daemon");
    let leader = pid(&hive.wait_state(&id, "ready"));
    eventually("all three are there", || hive.processes().len() >= 3);
    hive.kill();
    let hive = hive.restart(builder().arg("--restart-limit", "0"));
    let before = hive.processes();
    assert!(before.contains(&leader));
    kill(leader, 9);
    hive.wait_state(&id, "gone");
    assert!(before.iter().all(|pid| !is_alive(*pid)), "{}", hive.log());
    cascade(hive);
}

/// Ends the hive by `end`, which leaves its workers; the next one has them.
fn upgraded(end: impl FnOnce(&Hive)) {
    let mut hive = builder().start();
    two_ready(&hive);
    let before = essences(&hive);
    end(&hive);
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    assert!(before.iter().all(|worker| is_alive(pid(worker))));
    assert!(guardian(&hive).is_some(), "they are guarded meanwhile");
    let hive = hive.restart(builder());
    eventually("both are there", || essences(&hive) == before);
    cascade(hive);
}

#[test]
fn a_hive_that_is_told_to_keep_its_workers_leaves_them_to_the_next_one() {
    upgraded(|hive| {
        let wrong = hive.post("/v1/shutdown", &json!({"workers": "all"}));
        assert_eq!((wrong.status, &wrong.json()["error"]["details"]["field"]), (400, &json!("workers")));
        let reply = hive.post("/v1/shutdown", &json!({"workers": "keep"}));
        assert_eq!((reply.status, &reply.json()["workers"]), (202, &json!(2)), "{}", reply.text);
    });
    upgraded(|hive| hive.signal(12));
    upgraded(|hive| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
        let output = command.args(["shutdown", "--keep-workers", "--url", &hive.url]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "this hive ends, and its workers go on (workers kept: 2)\n");
    });
}

#[test]
fn a_worker_that_listens_where_the_next_hive_has_none_is_stopped() {
    let mut hive = builder().start();
    let [native, probed] = two_ready(&hive);
    hive.kill();
    let hive = hive.restart(builder().arg("--worker-host", "127.0.0.2"));
    for id in [native, probed] {
        assert_eq!(hive.wait_state(&id, "gone")["exit"]["reason"], "stopped");
    }
    cascade(hive);
}

#[test]
fn a_worker_that_was_being_stopped_is_stopped_by_the_next_hive() {
    let mut hive = builder().arg("--shutdown-timeout", "1h").start();
    let id = hive.spawn("mock", "ignore-term,ignore-shutdown");
    hive.wait_state(&id, "ready");
    hive.delete(&format!("/v1/workers/{id}"));
    eventually("that is written down", || hive.record(&id).contains("stopping"));
    hive.kill();
    let hive = hive.restart(builder().arg("--shutdown-timeout", "1s"));
    let gone = hive.wait_state(&id, "gone");
    assert_eq!(gone["exit"]["reason"], "stopped");
    cascade(hive);
}

#[test]
fn with_orphans_kill_nothing_outlives_the_hive() {
    let mut hive = builder().arg("--orphans", "kill").start();
    let id = hive.spawn("mock", "ignore-term,grandchild,daemon");
    hive.wait_state(&id, "ready");
    hive.kill();
    eventually("the guardian kills them", || hive.processes().is_empty());
    eventually("and ends", || guardian(&hive).is_none());
    assert!(hive.records().is_empty());
    // Without one, the next hive does.
    let mut hive = hive.restart(builder());
    let id = hive.spawn("mock", "ignore-term,grandchild,daemon");
    hive.wait_state(&id, "ready");
    hive.signal(19);
    kill(guardian(&hive).unwrap(), 9);
    hive.kill();
    assert!(hive.processes().len() >= 3);
    let hive = hive.restart(builder().arg("--orphans", "kill"));
    assert!(hive.workers().is_empty() && hive.records().is_empty());
    eventually("they are dead", || hive.processes().is_empty());
    cascade(hive);
}

#[test]
fn workers_that_no_hive_fetches_are_ended_by_the_guardian() {
    let mut hive = builder().arg("--orphan-timeout", "500ms").start();
    two_ready(&hive);
    hive.kill();
    eventually("they are ended", || hive.processes().is_empty() && guardian(&hive).is_none());
    assert!(hive.records().is_empty());
    let log = std::fs::read_to_string(hive.log_file("guardian.log")).unwrap();
    assert!(log.contains("no hive came within 500ms"), "{log}");
    let hive = hive.restart(builder());
    assert!(hive.workers().is_empty());
    cascade(hive);
}

#[test]
fn a_guardian_whose_workers_have_died_with_their_hive_ends_before_its_time() {
    let mut hive = builder().arg("--orphan-timeout", "1h").start();
    two_ready(&hive);
    hive.kill();
    assert!(guardian(&hive).is_some(), "they are guarded meanwhile");
    hive.processes().into_iter().for_each(|pid| kill(pid, 9));
    eventually("nothing is left to guard", || guardian(&hive).is_none());
    let hive = hive.restart(builder());
    assert!(hive.workers().is_empty() && hive.records().is_empty());
    cascade(hive);
}

#[test]
fn what_a_dead_hive_was_about_to_start_keeps_its_guardian_from_nothing() {
    let mut hive = builder().arg("--orphan-timeout", "100ms").start();
    two_ready(&hive);
    hive.kill();
    // As such a process has it until its exec.
    let lock =
        std::fs::OpenOptions::new().write(true).open(hive.folder.path().join("data/hive.lock")).unwrap();
    let whole = nix::libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    nix::fcntl::fcntl(&lock, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400)); // there is no event: nothing is to happen
    assert_eq!(hive.processes().len(), 2);
    assert!(guardian(&hive).is_some());
    drop(lock);
    eventually("they are ended", || hive.processes().is_empty() && guardian(&hive).is_none());
}

#[test]
fn a_guardian_that_is_stopped_goes_on_when_its_hive_dies() {
    let mut hive = builder().arg("--orphan-timeout", "100ms").start();
    two_ready(&hive);
    kill(guardian(&hive).unwrap(), 19);
    hive.kill();
    eventually("they are ended", || hive.processes().is_empty() && guardian(&hive).is_none());
}

#[test]
fn a_start_that_fails_takes_no_worker_from_its_guardian() {
    let mut hive = builder().arg("--orphan-timeout", "2s").start();
    let [native, _] = two_ready(&hive);
    let guard = guardian(&hive).unwrap();
    hive.kill();
    kill(guard, 19); // it has time, and is to find what has come of the start
    with_record(&hive, &native, |record| record["format"] = 2.into());
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command.args(["serve", "--bind", "127.0.0.1:0", "--data-dir"]).arg(hive.folder.path().join("data"));
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    kill(guard, 18);
    eventually("they are ended", || hive.processes().is_empty() && guardian(&hive).is_none());
}

#[test]
fn a_hive_waits_a_moment_for_an_address_that_its_predecessor_still_holds() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    std::thread::scope(|scope| {
        let hive = scope.spawn(|| builder().arg("--bind", address).start());
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(held);
        assert_eq!(hive.join().unwrap().address, address);
    });
}

#[test]
fn a_guardian_runs_while_workers_do_and_is_replaced_when_it_dies() {
    let hive = builder().start();
    assert_eq!(guardian(&hive), None);
    let [native, probed] = two_ready(&hive);
    let first = guardian(&hive).expect("it runs");
    kill(first, 9);
    eventually("another one takes its place", || guardian(&hive).is_some_and(|pid| pid != first));
    let second = guardian(&hive).unwrap();
    kill(second, 19); // one that is stopped is no obstacle
    for id in [native, probed] {
        hive.delete(&format!("/v1/workers/{id}"));
        hive.wait_state(&id, "gone");
    }
    eventually("it goes with the last worker", || guardian(&hive).is_none());
    cascade(hive);
}

#[test]
fn a_data_directory_has_one_hive_and_two_directories_have_two() {
    let hive = builder().start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command.args(["serve", "--bind", "127.0.0.1:0", "--data-dir"]).arg(hive.folder.path().join("data"));
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let wanted = format!("error: --data-dir: another hive (pid {}) uses it\n", hive.pid());
    assert!(said.ends_with(&wanted), "{said}");

    // Another one with the very same ports: neither gives a port that the other has, nor touches its workers.
    let (first, last) = (*hive.ports.start(), *hive.ports.end());
    let mut other = builder().arg("--worker-ports", format!("{first}-{last}")).start();
    let [mine, _] = two_ready(&hive);
    let [its, _] = two_ready(&other);
    other.kill();
    let other = other.restart(builder().arg("--worker-ports", format!("{first}-{last}")));
    other.wait_state(&its, "ready");
    assert_eq!((hive.workers().len(), other.workers().len()), (2, 2));
    assert_eq!(hive.worker(&mine)["restart_count"], 0);
    cascade(other);
    assert_eq!(hive.wait_state(&mine, "ready")["restart_count"], 0);
    cascade(hive);
}

/// What a start in the place of `hive` says that fails for want of so many descriptors, or by itself.
fn failed_start(hive: &Hive, descriptors: u32) -> String {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -n $0 && exec \"$@\"", &descriptors.to_string()]);
    shell.arg(env!("CARGO_BIN_EXE_rbee-hive")).args(["serve", "--bind", "127.0.0.1:0", "--data-dir"]);
    shell.arg(hive.folder.path().join("data")).arg("--model-dir").arg(&hive.models);
    shell.env_clear().env("RBEE_HIVE_NVML_LIBRARY", "/nowhere").env("RBEE_HIVE_NVIDIA_SMI", "/nowhere");
    let output = shell.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_start_that_fails_halfway_leaves_workers_to_the_next_one() {
    let mut hive = builder().start();
    two_ready(&hive);
    let before = essences(&hive);
    hive.kill();
    for descriptors in 10..=22 {
        let said = failed_start(&hive, descriptors);
        assert!(before.iter().all(|worker| is_alive(pid(worker))), "{descriptors}: {said}");
        assert!(guardian(&hive).is_some(), "they are guarded meanwhile: {said}");
    }
    let hive = hive.restart(builder());
    eventually("both are there", || essences(&hive) == before);
    cascade(hive);
}

#[test]
fn a_start_that_fails_does_not_relieve_the_guardian() {
    let mut hive = builder().arg("--orphan-timeout", "2s").start();
    let [native, _] = two_ready(&hive);
    hive.kill();
    with_record(&hive, &native, |record| record["format"] = 2.into());
    let said = failed_start(&hive, 1024);
    assert!(said.contains("a later version"), "{said}");
    eventually("all are ended", || hive.processes().is_empty() && guardian(&hive).is_none());
}

#[test]
fn a_guardian_that_ends_workers_spares_those_of_a_hive_that_came_and_went_meanwhile() {
    let mut hive = builder().arg("--orphan-timeout", "1ms").arg("--shutdown-timeout", "4s").start();
    let [polite, _] = two_ready(&hive);
    let rude = hive.spawn("mock", "ignore-term");
    let (polite, rude) = (pid(&hive.worker(&polite)), pid(&hive.wait_state(&rude, "ready")));
    let first = guardian(&hive).unwrap();
    hive.kill();
    eventually("they are asked to end", || !is_alive(polite));
    let mut hive = hive.restart(builder());
    hive.signal(12);
    hive.wait_exit();
    eventually("the first guardian ends", || !is_alive(first));
    assert!(is_alive(rude) && guardian(&hive).is_some());
    let hive = hive.restart(builder());
    assert_eq!(pid(&hive.workers()[0]), rude);
    hive.post("/v1/shutdown", &json!({}));
    cascade(hive);
}

#[test]
fn a_hive_that_stops_its_workers_does_not_say_that_it_keeps_them() {
    let hive = builder().arg("--shutdown-timeout", "1h").start();
    let id = hive.spawn("mock", "ignore-term,ignore-shutdown");
    let worker = pid(&hive.wait_state(&id, "ready"));
    assert_eq!(hive.post("/v1/shutdown", &json!({})).status, 202);
    let refused = hive.post("/v1/shutdown", &json!({"workers": "keep"}));
    assert_eq!((refused.status, refused.code().as_str()), (503, "SHUTTING_DOWN"), "{}", refused.text);
    hive.signal(12); // no reason to let it go either
    hive.delete(&format!("/v1/workers/{id}?force=true"));
    let mut hive = hive;
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    assert!(!is_alive(worker));
}

/// The record of a worker, changed by `change` while no hive runs.
fn with_record(hive: &Hive, id: &str, change: impl FnOnce(&mut Value)) {
    let file = hive.folder.path().join(format!("data/workers/{id}.json"));
    let mut record = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut record);
    std::fs::write(&file, record.to_string()).unwrap();
}

#[test]
fn a_process_that_only_looks_like_ours_is_left_alone() {
    let mut hive = builder().start();
    let [native, probed] = two_ready(&hive);
    let workers = [&native, &probed].map(|id| pid(&hive.worker(id)));
    // The same program, started by hand with everything but the mark of this hive.
    let mark = variable(workers[0].into(), "RBEE_OWNER").unwrap();
    let foreign = format!("{}{}", if mark.starts_with('0') { '1' } else { '0' }, &mark[1..]);
    let mut bystander = Command::new("/bin/sleep")
        .arg("1000")
        .env("RBEE_OWNER", &foreign)
        .env_remove("PATH")
        .spawn()
        .unwrap();
    hive.kill();
    // A number that was given to somebody else, and a start of the machine that is over.
    with_record(&hive, &native, |record| record["leader"]["pid"] = bystander.id().into());
    with_record(&hive, &probed, |record| record["leader"]["boot_id"] = "another".into());
    let hive = hive.restart(builder());
    assert!(hive.workers().is_empty(), "{:?}", hive.workers());
    assert_eq!(bystander.try_wait().unwrap(), None, "{mark} {foreign} {}", hive.log());
    // What bears our mark and is nobody's goes.
    eventually("the workers are gone", || workers.iter().all(|pid| !is_alive(*pid)));
    cascade(hive);
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn records_that_are_torn_or_foreign_are_set_aside_and_one_of_a_later_version_stops_the_start() {
    let mut hive = builder().start();
    let [native, probed] = two_ready(&hive);
    let folder = hive.folder.path().join("data/workers");
    hive.kill();
    let file = folder.join(format!("{native}.json"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    std::fs::write(folder.join("notes.json"), "{}").unwrap();
    std::fs::write(folder.join(".w-1.new"), "half").unwrap();
    let hive = hive.restart(builder());
    hive.wait_state(&probed, "ready");
    assert_eq!(hive.workers().len(), 1);
    let health = hive.get("/health").json();
    let reasons = health["reasons"].as_array().unwrap();
    let aside = reasons.iter().find(|reason| reason["code"] == "records_set_aside");
    assert_eq!(aside.expect("it is told")["count"], 2, "{health}");
    let left = ["notes.json.broken".to_owned(), format!("{native}.json.broken"), format!("{probed}.json")];
    let has = |names: Vec<String>| names.len() == left.len() && left.iter().all(|name| names.contains(name));
    eventually("these are left", || has(hive.records()));
    let mut hive = hive;
    hive.signal(12);
    hive.wait_exit();
    with_record(&hive, &probed, |record| record["format"] = 2.into());
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command.args(["serve", "--bind", "127.0.0.1:0", "--data-dir"]).arg(hive.folder.path().join("data"));
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let record = folder.join(format!("{probed}.json"));
    let wanted = format!("error: --data-dir: {}: a later version of rbee-hive wrote it", record.display());
    assert!(said.contains(&wanted), "{said}");
    with_record(&hive, &probed, |record| record["format"] = 1.into());
    let hive = hive.restart(builder());
    hive.wait_state(&probed, "ready");
    left.iter().filter(|name| name.ends_with(".broken")).for_each(|name| {
        std::fs::remove_file(folder.join(name)).unwrap();
    });
    cascade(hive);
}
