//! Scenarios against the real daemon: a step waits for what the fleet in memory is told.

use serde_json::Value;

use super::World;
use super::support::{Hive, kill};

pub struct Daemon {
    hive: Option<Hive>,
    id: String,
    last: Value,
    work: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    pub fn new() -> Self {
        Self { hive: None, id: String::new(), last: Value::Null, work: None }
    }

    fn hive(&self) -> &Hive {
        self.hive.as_ref().expect("a scenario begins with a hive")
    }
}

impl World for Daemon {
    fn given(&mut self, setting: Option<(&str, u64)>) {
        let builder = match setting {
            None => Hive::builder(),
            Some((name, value)) => Hive::builder().arg(&format!("--{}", name.replace(' ', "-")), value),
        };
        self.hive = Some(builder.start());
    }

    fn spawn(&mut self, probed: bool) {
        let kind = if probed { "mock-probe" } else { "mock" };
        let order = serde_json::json!({"model_ref": self.hive().model_ref(), "kind": kind});
        // What it is told at once: it may be ready before anybody can look.
        self.last = self.hive().post("/v1/workers/spawn", &order).json();
        self.id = self.last["worker_id"].as_str().expect("it is accepted").to_owned();
    }

    fn launched(&mut self) {
        self.last = self.hive().wait(&self.id, "launched", |worker| worker["pid"].is_u64());
    }

    fn becomes_ready(&mut self) {
        self.last = self.hive().wait_state(&self.id, "ready");
    }

    fn take_slots(&mut self) {
        let worker = self.hive().wait_state(&self.id, "ready");
        let url = format!("{}/v1/completions", worker["url"].as_str().expect("a ready worker has a url"));
        self.work = Some(std::thread::spawn(move || {
            let answer = ureq::post(&url).send(r#"{"prompt":"hello","ms":700}"#);
            assert!(answer.is_ok(), "the worker does not work: {answer:?}");
        }));
    }

    fn free_slot(&mut self) {
        self.work.take().expect("there was work").join().expect("the work was done");
    }

    fn killed_by(&mut self, signal: &str) {
        assert_eq!(signal, "SIGKILL");
        let worker = self.hive().worker(&self.id);
        kill(u32::try_from(worker["pid"].as_u64().expect("it runs")).expect("a pid"), 9);
    }

    fn stop(&mut self, force: bool) {
        let path = format!("/v1/workers/{}?force={force}", self.id);
        assert_eq!(self.hive().delete(&path).status, 202);
    }

    fn cascade(&mut self) {
        let mut events = self.hive().events();
        let reply = self.hive().post("/v1/shutdown", &serde_json::json!({}));
        assert_eq!(reply.status, 202);
        // After the cascade nobody answers: its events tell.
        while let Some((event, worker)) = events.next_event() {
            if event == "worker" && worker["state"] == "gone" {
                self.last = worker;
            }
        }
    }

    fn drain(&mut self, drain: bool, stop_idle: bool) {
        let reply =
            self.hive().post("/v1/drain", &serde_json::json!({"drain": drain, "stop_idle": stop_idle}));
        assert_eq!((reply.status, &reply.json()["draining"]), (200, &Value::Bool(drain)), "{}", reply.text);
    }

    fn expect_spawns_refused(&mut self) {
        let order = serde_json::json!({"model_ref": self.hive().model_ref(), "kind": "mock"});
        let reply = self.hive().post("/v1/workers/spawn", &order);
        assert_eq!((reply.status, reply.code().as_str()), (503, "DRAINING"));
    }

    fn backoff_over(&mut self) {
        self.hive().wait(&self.id, "launched again", |worker| worker["phase"] != "backoff");
    }

    fn made_up(&mut self, step: &str) -> bool {
        step.ends_with(" seconds pass") // they do, and what comes of it is waited for
    }

    fn expect_state(&mut self, state: &str) {
        if self.last["state"] != state {
            self.last = self.hive().wait_state(&self.id, state);
        }
    }

    fn expect(&mut self, what: &str, value: &str) {
        let field = what.replace(' ', "_");
        let seen = match what.strip_prefix("exit ") {
            Some(part) => self.last["exit"][part].clone(),
            None => self.last[field.as_str()].clone(),
        };
        let seen = seen.as_str().map_or_else(|| seen.to_string(), str::to_owned);
        assert_eq!(seen, value, "{what} of {}", self.last);
    }

    fn expect_end(&mut self) {
        let status = self.hive.as_mut().expect("a hive").wait_exit();
        assert!(status.success(), "{status}");
    }
}
