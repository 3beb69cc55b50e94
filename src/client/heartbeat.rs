//! The queen's side of a heartbeat: what is one, and which of two is newer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::checked;
use crate::api::{Heartbeat, HeartbeatWorker};
use crate::limits::{
    HEARTBEAT_BYTES_MAX, HEARTBEAT_TEXT_BYTES_MAX, HIVE_ID_BYTES_MAX, REALM_HIVES_MAX, REALM_PAST_BOOTS_MAX,
    WORKERS_MAX,
};

/// What is wrong with bytes that are no heartbeat. Holds nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAHeartbeat {
    /// More than [`HEARTBEAT_BYTES_MAX`].
    TooLong,
    /// No JSON, or a field is missing or of another type.
    Shape,
    /// A field says what no hive would say.
    Field {
        /// Its name.
        field: &'static str,
        /// What would be right.
        right: &'static str,
    },
}

impl fmt::Display for NotAHeartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a heartbeat has at most {HEARTBEAT_BYTES_MAX} bytes"),
            Self::Shape => f.write_str("it is not the JSON of a heartbeat"),
            Self::Field { field, right } => write!(f, "{field} must be {right}"),
        }
    }
}

impl std::error::Error for NotAHeartbeat {}

impl Heartbeat {
    /// Reads what a hive has posted, and checks it: lengths and numbers are bounded, names are names, URLs can be asked
    /// with a [`HiveClient`](super::HiveClient), no text has control characters, no worker is told twice. Fields that are not known are
    /// passed over: a later version may have them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    ///
    /// ```
    /// use rbee_hive::api::Heartbeat;
    /// let body = br#"{"hive_id":"h-1","timestamp":"2026-01-01T00:00:00.000Z","status":"ready",
    ///     "url":"http://10.0.0.7:8600","version":"0.1.0","boot_id":"b-1","sequence":1,"workers":[]}"#;
    /// assert_eq!(Heartbeat::parse(body)?.hive_id, "h-1");
    /// assert!(Heartbeat::parse(b"{}").is_err());
    /// # Ok::<(), rbee_hive::client::NotAHeartbeat>(())
    /// ```
    pub fn parse(body: &[u8]) -> Result<Self, NotAHeartbeat> {
        if body.len() > HEARTBEAT_BYTES_MAX {
            return Err(NotAHeartbeat::TooLong);
        }
        let beat: Self = serde_json::from_slice(body).map_err(|_| NotAHeartbeat::Shape)?;
        let is_id_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        let is_id = |id: &str| (1..=HIVE_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_id_byte);
        let right = "1 to 64 characters of A-Z, a-z, 0-9, . and -";
        check(is_id(&beat.hive_id), "hive_id", right)?;
        check(is_id(&beat.boot_id), "boot_id", right)?;
        check(is_text(&beat.timestamp), "timestamp", TEXT)?;
        check(is_text(&beat.version), "version", TEXT)?;
        check(is_url(&beat.url), "url", URL)?;
        check(beat.workers.len() <= WORKERS_MAX, "workers", "at most 1024")?;
        let mut ids = BTreeSet::new();
        for worker in &beat.workers {
            check(ids.insert(&worker.worker_id), "worker_id", "that of one worker")?;
            check_worker(worker)?;
        }
        Ok(beat)
    }
}

const TEXT: &str = "at most 1024 visible ASCII characters";
const URL: &str = "an http or https URL without user and query";

fn check_worker(worker: &HeartbeatWorker) -> Result<(), NotAHeartbeat> {
    check(is_url(&worker.url), "url", URL)?;
    check(is_text(&worker.model_ref), "model_ref", TEXT)?;
    check(is_text(&worker.device), "device", TEXT)?;
    check(worker.last_heartbeat.as_deref().is_none_or(is_text), "last_heartbeat", TEXT)?;
    check(worker.slots_available <= worker.slots_total, "slots_available", "at most slots_total")
}

fn check(is_right: bool, field: &'static str, right: &'static str) -> Result<(), NotAHeartbeat> {
    if is_right { Ok(()) } else { Err(NotAHeartbeat::Field { field, right }) }
}

fn is_text(text: &str) -> bool {
    text.len() <= HEARTBEAT_TEXT_BYTES_MAX && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

fn is_url(url: &str) -> bool {
    is_text(url) && checked(url).is_some()
}

/// The last word of each hive.
///
/// Within a boot the sequence decides. A boot that was never heard of takes the place of the one before it, which does
/// not come back: what arrives of it later was late on its way. No clock is needed for that.
///
/// What cannot be known: a heartbeat of an old boot that was *never* heard of, and arrives after one of the newer boot,
/// is taken for a newer one still. The boot that it drove out comes back when it is heard twice, with nothing of the
/// other one in between: one interval later than it should. A boot that is over is not heard twice: a hive sends one
/// heartbeat after the other, and two cannot be late without the living one between them unless that is silent itself.
///
/// ```
/// use rbee_hive::api::Heartbeat;
/// use rbee_hive::client::{Heard, Realm};
/// # let beat = |boot: &str, sequence: u64| Heartbeat::parse(serde_json::json!({"hive_id": "h-1", "timestamp": "t",
/// #     "status": "ready", "url": "http://10.0.0.7:8600", "version": "0.1.0", "boot_id": boot, "sequence": sequence,
/// #     "workers": []}).to_string().as_bytes()).expect("it is one");
/// let mut realm = Realm::default();
/// assert_eq!(realm.hear(beat("first", 7)), Heard::New);
/// assert_eq!(realm.hear(beat("second", 1)), Heard::New);
/// assert_eq!(realm.hear(beat("first", 8)), Heard::Old);
/// assert_eq!(realm.hives().next().expect("there is one").boot_id, "second");
/// ```
#[derive(Debug, Default)]
pub struct Realm(BTreeMap<String, Hive>);

#[derive(Debug)]
struct Hive {
    last: Heartbeat,
    /// Boots that have been replaced, oldest first, and the highest number heard of each.
    past: VecDeque<(String, u64)>,
    /// The past boot that was heard since the present one was.
    returning: Option<String>,
}

/// What a heartbeat was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is the newest of its hive.
    New,
    /// A newer one is known already; it was dropped.
    Old,
    /// [`REALM_HIVES_MAX`] other hives are known; it was dropped.
    Full,
}

impl Realm {
    /// Takes `heartbeat` if it is the newest of its hive.
    pub fn hear(&mut self, heartbeat: Heartbeat) -> Heard {
        if let Some(hive) = self.0.get_mut(&heartbeat.hive_id) {
            return hive.hear(heartbeat);
        }
        if self.0.len() == REALM_HIVES_MAX {
            return Heard::Full;
        }
        let hive = Hive { last: heartbeat, past: VecDeque::new(), returning: None };
        self.0.insert(hive.last.hive_id.clone(), hive);
        Heard::New
    }

    /// The last heartbeat of the hive called so.
    pub fn hive(&self, hive_id: &str) -> Option<&Heartbeat> {
        self.0.get(hive_id).map(|hive| &hive.last)
    }

    /// The last heartbeat of each hive, by name.
    pub fn hives(&self) -> impl Iterator<Item = &Heartbeat> {
        self.0.values().map(|hive| &hive.last)
    }

    /// Forgets a hive: one that is gone for good makes room.
    pub fn forget(&mut self, hive_id: &str) {
        self.0.remove(hive_id);
    }
}

impl Hive {
    fn hear(&mut self, heartbeat: Heartbeat) -> Heard {
        if !heartbeat.supersedes(&self.last) {
            return Heard::Old;
        }
        if heartbeat.boot_id != self.last.boot_id {
            let past = self.past.iter_mut().find(|(boot, _)| *boot == heartbeat.boot_id);
            if let Some((boot, highest)) = past {
                if heartbeat.sequence <= *highest {
                    return Heard::Old;
                }
                *highest = heartbeat.sequence;
                if self.returning.as_ref() != Some(boot) {
                    self.returning = Some(boot.clone());
                    return Heard::Old;
                }
                self.past.retain(|(boot, _)| *boot != heartbeat.boot_id);
            }
            if self.past.len() == REALM_PAST_BOOTS_MAX {
                self.past.pop_front();
            }
            self.past.push_back((self.last.boot_id.clone(), self.last.sequence));
        }
        (self.last, self.returning) = (heartbeat, None);
        Heard::New
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn json(hive: &str, boot: &str, sequence: u64) -> Value {
        json!({"hive_id": hive, "timestamp": "2026-01-01T00:00:00.000Z", "status": "ready",
            "url": "http://127.0.0.1:8600", "version": "0.1.0", "boot_id": boot, "sequence": sequence,
            "workers": [{"worker_id": "w-1", "state": "ready", "health_status": "healthy",
                "last_heartbeat": null, "url": "http://127.0.0.1:8601", "model_ref": "hf:org/tiny",
                "backend": "cpu", "device": "cpu", "slots_total": 2, "slots_available": 1, "pid": 7,
                "restart_count": 0}]})
    }

    fn beat(hive: &str, boot: &str, sequence: u64) -> Heartbeat {
        Heartbeat::parse(json(hive, boot, sequence).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_heartbeat_is_what_a_hive_would_say() {
        assert_eq!(beat("h", "a", 1).workers.len(), 1);
        let long = "x".repeat(HEARTBEAT_TEXT_BYTES_MAX + 1);
        let wrong = [
            ("/hive_id", json!(""), "hive_id"),
            ("/hive_id", json!("x".repeat(65)), "hive_id"),
            ("/hive_id", json!("a b"), "hive_id"),
            ("/boot_id", json!("é"), "boot_id"),
            ("/url", json!("file:///etc"), "url"),
            ("/url", json!("http://u:p@hive"), "url"),
            ("/version", json!("1\n2"), "version"),
            ("/timestamp", json!(long), "timestamp"),
            ("/workers/0/url", json!("gopher://x"), "url"),
            ("/workers/0/model_ref", json!("hf:\u{1b}[2J"), "model_ref"),
            ("/workers/0/slots_available", json!(3), "slots_available"),
        ];
        for (place, value, field) in wrong {
            let mut beat = json("h", "a", 1);
            *beat.pointer_mut(place).unwrap() = value;
            let error = Heartbeat::parse(beat.to_string().as_bytes()).unwrap_err();
            assert!(matches!(error, NotAHeartbeat::Field { field: f, .. } if f == field), "{place}: {error}");
        }
        for place in ["/workers/0/worker_id", "/sequence", "/status"] {
            let mut beat = json("h", "a", 1);
            *beat.pointer_mut(place).unwrap() = json!("no such thing");
            assert_eq!(Heartbeat::parse(beat.to_string().as_bytes()), Err(NotAHeartbeat::Shape), "{place}");
        }
        let mut twice = json("h", "a", 1);
        let worker = twice["workers"][0].clone();
        twice["workers"].as_array_mut().unwrap().push(worker);
        assert!(Heartbeat::parse(twice.to_string().as_bytes()).is_err());
        let flood = vec![b' '; HEARTBEAT_BYTES_MAX + 1];
        assert_eq!(Heartbeat::parse(&flood), Err(NotAHeartbeat::TooLong));
    }

    #[test]
    fn the_largest_hive_has_its_say() {
        let mut beat = json("h", "a", 1);
        let worker = beat["workers"][0].clone();
        let model_ref = format!("hf:org/{}", "x".repeat(249));
        let device: Vec<String> = (0..16).map(|n| format!("gpu{n}")).collect();
        let workers = (0..WORKERS_MAX).map(|n| {
            let mut worker = worker.clone();
            worker["worker_id"] = json!(format!("w-{n:012x}"));
            worker["model_ref"] = json!(model_ref);
            worker["device"] = json!(device.join(","));
            worker
        });
        beat["workers"] = workers.collect();
        assert!(Heartbeat::parse(beat.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn within_a_boot_the_sequence_decides() {
        let mut realm = Realm::default();
        assert_eq!(realm.hear(beat("h", "a", 2)), Heard::New);
        assert_eq!(realm.hear(beat("h", "a", 1)), Heard::Old);
        assert_eq!(realm.hear(beat("h", "a", 2)), Heard::Old);
        assert_eq!(realm.hear(beat("h", "a", 9)), Heard::New);
        assert_eq!(realm.hive("h"), Some(&beat("h", "a", 9)));
    }

    #[test]
    fn a_new_boot_begins_anew_and_the_old_one_does_not_come_back() {
        let mut realm = Realm::default();
        realm.hear(beat("h", "a", 100));
        assert_eq!(realm.hear(beat("h", "b", 1)), Heard::New);
        // Its last word, and one that two ways have brought.
        assert_eq!(realm.hear(beat("h", "a", 101)), Heard::Old);
        assert_eq!(realm.hear(beat("h", "a", 101)), Heard::Old);
        assert_eq!(realm.hear(beat("h", "b", 2)), Heard::New);
        assert_eq!(realm.hear(beat("h", "a", 102)), Heard::Old);
        assert!(realm.hives().eq([&beat("h", "b", 2)]));
    }

    #[test]
    fn a_boot_that_a_late_stranger_drove_out_comes_back() {
        let mut realm = Realm::default();
        realm.hear(beat("h", "b", 1));
        assert_eq!(realm.hear(beat("h", "a", 50)), Heard::New, "nobody can know that it is older");
        assert_eq!(realm.hear(beat("h", "b", 2)), Heard::Old);
        assert_eq!(realm.hear(beat("h", "b", 3)), Heard::New);
        assert_eq!(realm.hear(beat("h", "a", 51)), Heard::Old);
        assert_eq!(realm.hear(beat("h", "b", 4)), Heard::New);
        assert_eq!(realm.hive("h"), Some(&beat("h", "b", 4)));
    }

    #[test]
    fn hives_do_not_mix_and_are_bounded() {
        let mut realm = Realm::default();
        for n in 0..REALM_HIVES_MAX {
            assert_eq!(realm.hear(beat(&n.to_string(), "a", 1)), Heard::New);
        }
        assert_eq!(realm.hear(beat("another", "a", 1)), Heard::Full);
        assert_eq!(realm.hear(beat("7", "a", 2)), Heard::New, "who is known is still heard");
        realm.forget("7");
        assert_eq!(realm.hear(beat("another", "a", 1)), Heard::New);
        for boot in 0..3 * REALM_PAST_BOOTS_MAX {
            realm.hear(beat("8", &format!("b-{boot}"), 1));
        }
        assert!(realm.0["8"].past.len() <= REALM_PAST_BOOTS_MAX);
    }
}
