//! Judges what a worker says, by the rules by which a hive takes it. Pure: a body in, mistakes out.

use serde_json::{Map, Value};

use crate::limits::PARALLEL_MAX;

/// How a worker was started, as far as it must say it again.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub(super) worker_id: String,
    pub(super) url: String,
    pub(super) model_ref: String,
    pub(super) backend: String,
    pub(super) device: String,
}

/// What a worker says of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Said {
    /// `state`: whether it is busy.
    pub(super) busy: Option<bool>,
    pub(super) total: Option<u64>,
    pub(super) available: Option<u64>,
}

impl Said {
    /// What a hive makes of it: numbers win over the word. `None`: nothing.
    pub(super) fn is_busy(self) -> Option<bool> {
        self.available.map(|available| available == 0).or(self.busy)
    }

    /// Whether word and number say two things.
    pub(super) fn contradicts_itself(self) -> bool {
        matches!((self.busy, self.available), (Some(busy), Some(available)) if busy != (available == 0))
    }
}

/// A body, and what was found wrong with it.
struct Judge<'a> {
    fields: Option<&'a Map<String, Value>>,
    wrong: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(body: Option<&'a Value>) -> Self {
        let fields = body.and_then(Value::as_object);
        let wrong = if fields.is_none() { vec!["the body is no JSON object".to_owned()] } else { Vec::new() };
        Self { fields, wrong }
    }

    /// A field; null is the same as absent.
    fn field(&self, name: &str) -> Option<&'a Value> {
        self.fields?.get(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str, wanted: Option<&str>) {
        if self.fields.is_none() {
            return;
        }
        match (self.field(name).map(Value::as_str), wanted) {
            (None, _) => self.wrong.push(format!("{name} is missing")),
            (Some(None), _) => self.wrong.push(format!("{name} is no text")),
            (Some(Some(text)), Some(wanted)) if text != wanted => {
                self.wrong.push(format!("{name} is {text:?} instead of {wanted:?}"));
            }
            (Some(Some(_)), _) => {}
        }
    }

    fn word(&mut self, name: &str, words: [&str; 2]) -> Option<bool> {
        let value = self.field(name)?;
        let found = words.iter().position(|word| value.as_str() == Some(word));
        if found.is_none() {
            self.wrong.push(format!("{name} is {value} instead of {:?} or {:?}", words[0], words[1]));
        }
        found.map(|at| at == 1)
    }

    fn number(&mut self, name: &str, least: u64) -> Option<u64> {
        let value = self.field(name)?;
        let number = value.as_u64().filter(|n| (least..=u64::from(PARALLEL_MAX)).contains(n));
        if number.is_none() {
            self.wrong.push(format!("{name} is {value} instead of {least} to {PARALLEL_MAX}"));
        }
        number
    }
}

/// What is wrong with a ready callback, and the slots in it.
pub(super) fn ready(body: Option<&Value>, started: &Started) -> (Vec<String>, Option<u64>) {
    let mut judge = Judge::new(body);
    judge.text("worker_id", Some(&started.worker_id));
    judge.text("url", Some(&started.url));
    judge.text("model_ref", Some(&started.model_ref));
    judge.text("backend", Some(&started.backend));
    judge.text("device", Some(&started.device));
    let total = judge.number("slots_total", 1);
    (judge.wrong, total)
}

/// What is wrong with a heartbeat, and what it says of slots.
pub(super) fn heartbeat(body: Option<&Value>, started: &Started) -> (Vec<String>, Said) {
    let mut judge = Judge::new(body);
    judge.text("worker_id", Some(&started.worker_id));
    judge.text("timestamp", None);
    if judge.fields.is_some() && judge.field("health_status").is_none() {
        judge.wrong.push("health_status is missing".to_owned());
    }
    judge.word("health_status", ["healthy", "degraded"]);
    let busy = judge.word("state", ["ready", "busy"]);
    let total = judge.number("slots_total", 1);
    let available = judge.number("slots_available", 0);
    if let (Some(total), Some(available)) = (total, available)
        && available > total
    {
        judge.wrong.push(format!("slots_available is {available}, more than slots_total, {total}"));
    }
    (judge.wrong, Said { busy, total, available })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn started() -> Started {
        let [worker_id, url, model_ref, backend, device] =
            ["w-1", "http://h:1", "hf:o/r", "cpu", "cpu"].map(str::to_owned);
        Started { worker_id, url, model_ref, backend, device }
    }

    #[test]
    fn each_mistake_of_a_ready_is_named() {
        let good = json!({"worker_id": "w-1", "url": "http://h:1", "model_ref": "hf:o/r", "backend": "cpu",
            "device": "cpu", "slots_total": 2, "more": true});
        assert_eq!(ready(Some(&good), &started()), (Vec::new(), Some(2)));
        for (field, value, wrong) in [
            ("worker_id", json!("w-2"), "worker_id is \"w-2\" instead of \"w-1\""),
            ("url", json!(null), "url is missing"),
            ("backend", json!(7), "backend is no text"),
            ("slots_total", json!(0), "slots_total is 0 instead of 1 to 1024"),
        ] {
            let mut body = good.clone();
            body[field] = value;
            assert_eq!(ready(Some(&body), &started()).0, [wrong]);
        }
        assert_eq!(ready(None, &started()).0, ["the body is no JSON object"]);
    }

    #[test]
    fn each_mistake_of_a_heartbeat_is_named() {
        let good = json!({"worker_id": "w-1", "timestamp": "now", "health_status": "degraded"});
        assert_eq!(heartbeat(Some(&good), &started()), (Vec::new(), Said::default()));
        for (more, wrong) in [
            (json!({"state": "idle"}), "state is \"idle\" instead of \"ready\" or \"busy\""),
            (json!({"health_status": null}), "health_status is missing"),
            (
                json!({"slots_available": 3, "slots_total": 2}),
                "slots_available is 3, more than slots_total, 2",
            ),
            (json!({"slots_available": -1}), "slots_available is -1 instead of 0 to 1024"),
        ] {
            let mut body = good.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(heartbeat(Some(&body), &started()).0, [wrong]);
        }
    }

    #[test]
    fn numbers_win_over_the_word() {
        let said = Said { busy: Some(true), total: Some(2), available: Some(1) };
        assert!(said.is_busy() == Some(false) && said.contradicts_itself());
        assert_eq!(Said { available: None, ..said }.is_busy(), Some(true));
        assert_eq!(Said::default().is_busy(), None);
    }
}
