//! What everybody but the supervisor sees: the newest picture of all workers, and the ring of changes that
//! led to it. Readers take an [`Arc`] and never wait for the supervisor's work.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;

use crate::api::{self, HeartbeatWorker, HiveStatus, State, WorkerHealth};
use crate::capacity::ledger::Placement;
use crate::clock::Clock;
use crate::devices::Picture as DevicesPicture;
use crate::id::{Device, DownloadId, Run, Token, WorkerId};
use crate::limits::EVENTS_KEPT;

use super::event::ExitStatus;
use super::fleet::View;
use super::state::End;

/// A worker in a picture.
#[derive(Debug)]
pub struct Entry {
    /// As listed.
    pub worker: api::Worker,
    /// Its present launch.
    pub run: Run,
    /// What opens `ready` and `heartbeat` for this launch.
    pub token: Token,
    /// The model on disk: a GGUF or a snapshot's folder.
    pub model_path: PathBuf,
    /// What it was promised, and where.
    pub placement: Arc<Placement>,
    json: OnceLock<Arc<[u8]>>,
}

impl Entry {
    /// The worker as JSON, made once.
    pub fn json(&self) -> Arc<[u8]> {
        Arc::clone(self.json.get_or_init(|| to_json(&self.worker).into()))
    }
}

/// All workers at one moment. Never changes.
#[derive(Debug)]
pub struct Snapshot {
    /// What the hive does.
    pub status: HiveStatus,
    /// Those that live, by name.
    pub workers: Vec<Arc<Entry>>,
    /// Those that ended and are still askable, oldest first.
    pub gone: Vec<Arc<Entry>>,
    list: OnceLock<Arc<[u8]>>,
}

impl Snapshot {
    /// The worker called `id`, if it lives.
    pub fn worker(&self, id: &WorkerId) -> Option<&Arc<Entry>> {
        let at = self.workers.binary_search_by(|entry| entry.worker.worker_id.cmp(id)).ok()?;
        self.workers.get(at)
    }

    /// The last picture of the worker called `id`, if it ended.
    pub fn gone(&self, id: &WorkerId) -> Option<&Arc<Entry>> {
        self.gone.iter().find(|entry| entry.worker.worker_id == *id)
    }

    /// The worker that has this token.
    pub fn by_token(&self, token: &str) -> Option<&Arc<Entry>> {
        self.workers.iter().find(|entry| entry.token.matches(token))
    }

    /// The body of `GET /v1/workers/list`, made once.
    pub fn list_json(&self) -> Arc<[u8]> {
        let make = || {
            let mut out = Vec::from(&b"{\"workers\":["[..]);
            for (at, entry) in self.workers.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(&entry.json());
            }
            out.extend_from_slice(b"]}");
            out.into()
        };
        Arc::clone(self.list.get_or_init(make))
    }

    /// What workers that live were promised of the memory of `device`, in bytes.
    pub fn promised_bytes(&self, device: Device, devices: &DevicesPicture) -> u64 {
        let each = self.workers.iter().map(|entry| entry.placement.bytes_of(device, devices));
        each.fold(0, u64::saturating_add)
    }

    /// The workers as the queen gets them.
    pub fn heartbeat_workers(&self) -> Vec<HeartbeatWorker> {
        self.workers.iter().map(|entry| heartbeat_worker(&entry.worker)).collect()
    }

    fn with(&self, status: HiveStatus, workers: Vec<Arc<Entry>>, gone: Vec<Arc<Entry>>) -> Self {
        Self { status, workers, gone, list: OnceLock::new() }
    }
}

/// The newest [`Snapshot`] and the ring of changes.
pub struct Picture {
    /// Which hive, for the `hive` event.
    hive_id: String,
    boot_id: String,
    worker_host: String,
    newest: Mutex<Newest>,
}

struct Newest {
    snapshot: Arc<Snapshot>,
    counts: Counts,
    /// Downloads that have not ended, as their events have them.
    downloads: BTreeMap<DownloadId, Vec<u8>>,
    /// Number of the first change in the ring.
    first: u64,
    ring: VecDeque<Arc<[u8]>>,
}

/// What happened since the hive was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Restarts of workers after crashes.
    pub restarts: u64,
    /// Workers that ended, by the reason of their end.
    pub ends: BTreeMap<&'static str, u64>,
    /// Changes that a follower could not be told one by one, for it was too far behind.
    pub events_dropped: u64,
}

/// What a follower of changes gets next.
pub(crate) struct Changes {
    /// Server-sent events, each whole.
    pub events: Vec<Arc<[u8]>>,
    /// Where to go on.
    pub next: u64,
}

impl Picture {
    /// A picture without workers. `worker_host` is the address that workers are announced with.
    pub fn new(hive_id: String, boot_id: String, worker_host: &str) -> Self {
        let worker_host =
            if worker_host.contains(':') { format!("[{worker_host}]") } else { worker_host.to_owned() };
        let snapshot = Snapshot {
            status: HiveStatus::Ready,
            workers: Vec::new(),
            gone: Vec::new(),
            list: OnceLock::new(),
        };
        let newest = Newest {
            snapshot: Arc::new(snapshot),
            counts: Counts::default(),
            downloads: BTreeMap::new(),
            first: 1,
            ring: VecDeque::new(),
        };
        Self { hive_id, boot_id, worker_host, newest: Mutex::new(newest) }
    }

    /// The start of the hive that this is of.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.lock().snapshot)
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Downloads that have not ended.
    pub fn downloads(&self) -> usize {
        self.lock().downloads.len()
    }

    /// Where a worker on `port` serves.
    pub fn worker_url(&self, port: u16) -> String {
        format!("http://{}:{port}", self.worker_host)
    }

    /// Shows `news` (changes, oldest first), `touched` (what moves all the time), and no more of
    /// `forgotten`.
    pub(super) fn publish(&self, clock: &Clock, news: Vec<View>, touched: Vec<View>, forgotten: &[WorkerId]) {
        let ends = news.iter().filter(|view| view.state == State::Gone).filter_map(|view| view.end.as_ref());
        let ends: Vec<&'static str> = ends.map(|end| end.reason.as_str()).collect();
        let news: Vec<Arc<Entry>> = news.iter().map(|view| Arc::new(self.entry(view, clock))).collect();
        let touched = touched.iter().map(|view| Arc::new(self.entry(view, clock)));
        let mut newest = self.lock();
        ends.into_iter().for_each(|reason| *newest.counts.ends.entry(reason).or_default() += 1);
        let mut workers = newest.snapshot.workers.clone();
        let mut gone = newest.snapshot.gone.clone();
        gone.retain(|entry| !forgotten.contains(&entry.worker.worker_id));
        for entry in touched {
            if let Ok(at) = position(&workers, &entry) {
                workers[at] = entry;
            }
        }
        for entry in news {
            newest.push("worker", &entry.json());
            match (position(&workers, &entry), entry.worker.state) {
                (Ok(at), State::Gone) => {
                    workers.remove(at);
                    gone.push(entry);
                }
                (Ok(at), _) => {
                    let (before, now) = (workers[at].worker.restart_count, entry.worker.restart_count);
                    newest.counts.restarts += u64::from(now.saturating_sub(before));
                    workers[at] = entry;
                }
                (Err(_), State::Gone) => gone.push(entry),
                (Err(at), _) => workers.insert(at, entry),
            }
        }
        let status = newest.snapshot.status;
        newest.snapshot = Arc::new(newest.snapshot.with(status, workers, gone));
    }

    /// Shows another status of the hive.
    pub(super) fn publish_status(&self, status: HiveStatus) {
        let mut newest = self.lock();
        let event = self.hive_event(status);
        newest.push("hive", &event);
        let (workers, gone) = (newest.snapshot.workers.clone(), newest.snapshot.gone.clone());
        newest.snapshot = Arc::new(newest.snapshot.with(status, workers, gone));
    }

    /// Shows how far a download is; `is_over`: it has ended.
    pub(crate) fn publish_download(&self, id: &DownloadId, data: Vec<u8>, is_over: bool) {
        let mut newest = self.lock();
        newest.push("download", &data);
        if is_over {
            newest.downloads.remove(id);
        } else {
            newest.downloads.insert(id.clone(), data);
        }
    }

    /// What a follower gets that has seen all changes before `next`; without `next`, or if the ring does
    /// not reach back so far, the whole picture. At most about `room` bytes, at least one event.
    pub(crate) fn changes(&self, next: Option<u64>, room: usize) -> Changes {
        let mut newest = self.lock();
        let end = newest.first + newest.ring.len() as u64;
        // Of an id from another start of the hive nothing is known.
        let dropped = next.filter(|next| *next < newest.first).map_or(0, |next| newest.first - next);
        newest.counts.events_dropped += dropped;
        let Some(mut next) = next.filter(|next| (newest.first..=end).contains(next)) else {
            let mut events: Vec<Arc<[u8]>> = newest
                .snapshot
                .workers
                .iter()
                .map(|entry| server_sent(None, "worker", &entry.json()))
                .collect();
            events.extend(newest.downloads.values().map(|data| server_sent(None, "download", data)));
            // Only the last event of the picture has an id: who lost its connection before, begins again.
            let hive = self.hive_event(newest.snapshot.status);
            events.push(server_sent(Some(end - 1), "hive", &hive));
            return Changes { events, next: end };
        };
        let (mut events, mut bytes) = (Vec::new(), 0);
        while next < end && (events.is_empty() || bytes < room) {
            let event = &newest.ring[(next - newest.first) as usize];
            bytes += event.len();
            events.push(Arc::clone(event));
            next += 1;
        }
        Changes { events, next }
    }

    fn hive_event(&self, status: HiveStatus) -> Vec<u8> {
        let (hive_id, boot_id) = (self.hive_id.clone(), self.boot_id.clone());
        to_json(&api::HiveEvent { status, hive_id, boot_id })
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, view: &View, clock: &Clock) -> Entry {
        let text = |at: Option<std::time::Instant>| at.map(|at| clock.text(at));
        let worker = api::Worker {
            worker_id: view.id.clone(),
            url: self.worker_url(view.port),
            kind: view.plan.kind.name.clone(),
            model_ref: view.plan.model_ref.clone(),
            backend: view.placement.backend,
            device: view.placement.device(),
            state: view.state,
            phase: view.phase,
            download_id: view.download.as_ref().map(ToString::to_string),
            health: view.health,
            pid: view.pgid.map(|pgid| pgid.0),
            port: view.port,
            slots_total: view.slots.total,
            slots_available: view.slots.available,
            restart_count: view.restarts,
            reserved_bytes: view.placement.bytes(),
            memory_bytes: view.memory_bytes,
            started_at: text(view.started_at),
            last_heartbeat: text(view.last_heartbeat),
            last_activity: text(view.last_activity),
            exit: view.end.as_ref().map(exit),
        };
        Entry {
            worker,
            run: view.run,
            token: view.token.clone(),
            model_path: view.plan.model_path.clone(),
            placement: Arc::clone(&view.placement),
            json: OnceLock::new(),
        }
    }
}

impl Newest {
    fn push(&mut self, event: &str, data: &[u8]) {
        let id = self.first + self.ring.len() as u64;
        self.ring.push_back(server_sent(Some(id), event, data));
        if self.ring.len() > EVENTS_KEPT {
            self.ring.pop_front();
            self.first += 1;
        }
    }
}

fn position(workers: &[Arc<Entry>], entry: &Entry) -> Result<usize, usize> {
    workers.binary_search_by(|other| other.worker.worker_id.cmp(&entry.worker.worker_id))
}

fn server_sent(id: Option<u64>, event: &str, data: &[u8]) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(data.len() + 48);
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    out.extend_from_slice(format!("event: {event}\ndata: ").as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
    out.into()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("wire types are valid JSON")
}

/// `SIGKILL` for 9; the number for one without a name.
pub(super) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

fn exit(end: &End) -> api::Exit {
    let (code, signal) = match end.status {
        Some(ExitStatus::Code(code)) => (Some(code), None),
        Some(ExitStatus::Signal(signal)) => (None, Some(signal_name(signal))),
        Some(ExitStatus::Unknown) | None => (None, None),
    };
    let unknown = (end.status == Some(ExitStatus::Unknown)).then(|| {
        "it was adopted from an earlier hive: how it ended, the kernel told only its parent".to_owned()
    });
    api::Exit {
        code,
        signal,
        reason: end.reason.as_str().to_owned(),
        message: end.message.clone().or(unknown),
        log: end.log.clone(),
    }
}

fn heartbeat_worker(worker: &api::Worker) -> HeartbeatWorker {
    HeartbeatWorker {
        worker_id: worker.worker_id.clone(),
        state: worker.state,
        health_status: worker.health.unwrap_or(WorkerHealth::Healthy),
        last_heartbeat: worker.last_heartbeat.clone(),
        url: worker.url.clone(),
        model_ref: worker.model_ref.clone(),
        backend: worker.backend,
        device: worker.device.clone(),
        slots_total: worker.slots_total,
        slots_available: worker.slots_available,
        pid: worker.pid,
        restart_count: worker.restart_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_a_follower_is_too_late_for_are_counted() {
        let picture = Picture::new("test".to_owned(), "boot".to_owned(), "127.0.0.1");
        let id = DownloadId::parse("d-0123456789abcdef").unwrap();
        let first = picture.changes(None, usize::MAX).next;
        for _ in 0..EVENTS_KEPT + 3 {
            picture.publish_download(&id, b"{}".to_vec(), false);
        }
        picture.changes(Some(first + 3), usize::MAX);
        assert_eq!(picture.counts().events_dropped, 0, "all that it has not seen is still there");
        picture.changes(Some(first), usize::MAX);
        assert_eq!(picture.counts().events_dropped, 3);
        // An id of another start of the hive lies ahead, and says nothing.
        picture.changes(Some(u64::MAX), usize::MAX);
        assert_eq!((picture.counts().events_dropped, picture.downloads()), (3, 1));
    }
}
