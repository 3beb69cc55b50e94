//! `GET /metrics`: what is counted where it happens, and what the newest pictures show. Waits for nobody: it is answered
//! while the supervisor, a disk or a driver hangs. No figure is named after a model, a path or an address.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use crate::api::{HiveStatus, State};
use crate::health::Condition;
use crate::http::endpoints::ENDPOINTS;
use crate::http::metrics::{Figures, Kind};
use crate::http::{Answer, Body};
use crate::id::Device;
use crate::lifecycle::picture::Snapshot;
use crate::lifecycle::state::Reason;
use crate::process::own;

use super::Api;

/// Spawns by what was answered: `accepted`, or the code of the refusal.
#[derive(Debug)]
pub struct Spawns(Mutex<BTreeMap<&'static str, u64>>);

impl Default for Spawns {
    fn default() -> Self {
        let spawn = ENDPOINTS.iter().filter(|endpoint| endpoint.name == "spawn");
        let refusals = spawn.flat_map(|endpoint| endpoint.errors.iter().copied().flatten());
        let words = refusals.map(|code| code.wire().1).chain(["accepted"]);
        Self(Mutex::new(words.map(|word| (word, 0)).collect()))
    }
}

impl Spawns {
    pub(super) fn count(&self, result: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(result).or_default() += 1;
    }
}

pub(super) fn metrics(api: &Api) -> Answer {
    let snapshot = api.picture.snapshot();
    let mut out = Figures::default();
    hive(api, &snapshot, &mut out);
    workers(api, &snapshot, &mut out);
    devices(api, &snapshot, &mut out);
    queen(api, &mut out);
    downloads(api, &mut out);
    api.requests.write(&mut out);
    process(api, &mut out);
    let body = Body::Owned(out.into_text().into_bytes());
    Answer::bytes(200, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn hive(api: &Api, snapshot: &Snapshot, out: &mut Figures) {
    api.keeper.asked();
    out.family("rbee_build_info", Kind::Gauge, "Always 1; its label says which version runs.");
    out.sample("rbee_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.family("rbee_hive_status", Kind::Gauge, "1 for what the hive does, 0 for all else.");
    let now = match snapshot.status {
        HiveStatus::Stopped => HiveStatus::Stopping,
        status => status,
    };
    for (word, status) in [
        ("starting", HiveStatus::Starting),
        ("ready", HiveStatus::Ready),
        ("draining", HiveStatus::Draining),
        ("stopping", HiveStatus::Stopping),
    ] {
        out.sample("rbee_hive_status", &[("status", word)], u8::from(now == status));
    }
    out.family("rbee_hive_degraded", Kind::Gauge, "1 while this is wrong with the hive, as /health says.");
    for condition in Condition::ALL {
        let is_met = u8::from(api.conditions.has(condition));
        out.sample("rbee_hive_degraded", &[("code", condition.as_str())], is_met);
    }
}

fn workers(api: &Api, snapshot: &Snapshot, out: &mut Figures) {
    let workers = || snapshot.workers.iter().map(|entry| &entry.worker);
    out.family("rbee_workers", Kind::Gauge, "Workers that live, by state.");
    for state in [State::Spawning, State::Ready, State::Busy, State::Stopping] {
        let count = workers().filter(|worker| worker.state == state).count();
        out.sample("rbee_workers", &[("state", state.as_str())], count);
    }
    let serving = || workers().filter(|worker| worker.state.serves());
    let slots: u64 = serving().map(|worker| u64::from(worker.slots_total)).sum();
    let free: u64 = serving().map(|worker| u64::from(worker.slots_available)).sum();
    out.single("rbee_worker_slots", Kind::Gauge, "Requests that workers can serve at once.", slots);
    out.single("rbee_worker_slots_free", Kind::Gauge, "Further requests that they could serve now.", free);

    out.family(
        "rbee_spawns_total",
        Kind::Counter,
        "Spawns, by what was answered: accepted, or the code of the refusal.",
    );
    for (result, count) in &*api.spawns.0.lock().unwrap_or_else(PoisonError::into_inner) {
        out.sample("rbee_spawns_total", &[("result", result)], count);
    }
    let counts = api.picture.counts();
    let text = "Restarts of workers after crashes.";
    out.single("rbee_worker_restarts_total", Kind::Counter, text, counts.restarts);
    out.family("rbee_worker_ends_total", Kind::Counter, "Workers that are gone, by the reason of their end.");
    for reason in Reason::ALL.map(Reason::as_str) {
        let count = counts.ends.get(reason).copied().unwrap_or(0);
        out.sample("rbee_worker_ends_total", &[("reason", reason)], count);
    }
    let text = "Changes that a follower of /v1/events got as a new picture, for it was too far behind.";
    out.single("rbee_events_dropped_total", Kind::Counter, text, counts.events_dropped);
}

/// As they were last seen. Who asks has them looked at, for the next who asks.
fn devices(api: &Api, snapshot: &Snapshot, out: &mut Figures) {
    api.devices.refresh();
    let Some(picture) = api.devices.last() else { return };
    let gpus: Vec<_> = picture.gpus.iter().filter(|gpu| !api.rules.hides(gpu.device)).collect();
    let cpu = (Device::Cpu, picture.cpu.total_bytes, picture.cpu.available_bytes);
    let gpu = gpus.iter().map(|gpu| (gpu.device, gpu.total_bytes, gpu.free_bytes));
    let all: Vec<(String, u64, u64, u64)> = std::iter::once(cpu)
        .chain(gpu)
        .map(|(device, total, free)| {
            (device.to_string(), total, free, snapshot.promised_bytes(device, &picture))
        })
        .collect();
    type Column = fn(&(String, u64, u64, u64)) -> u64;
    let columns: [(&str, &str, Column); 3] = [
        ("rbee_device_memory_bytes", "Memory of a device.", |device| device.1),
        (
            "rbee_device_memory_free_bytes",
            "Memory of a device that is free, or can be taken without swapping.",
            |device| device.2,
        ),
        (
            "rbee_device_memory_promised_bytes",
            "Memory of a device that workers were promised, taken or not.",
            |device| device.3,
        ),
    ];
    for (name, text, column) in columns {
        out.family(name, Kind::Gauge, text);
        all.iter().for_each(|device| out.sample(name, &[("device", &device.0)], column(device)));
    }
    let names: Vec<String> = gpus.iter().map(|gpu| gpu.device.to_string()).collect();
    out.family("rbee_gpu_temperature_celsius", Kind::Gauge, "Temperature of a GPU, where its driver tells.");
    for (gpu, name) in gpus.iter().zip(&names) {
        if let Some(degrees) = gpu.temperature_c {
            out.sample("rbee_gpu_temperature_celsius", &[("device", name)], degrees);
        }
    }
    let text = "The part of the last sample period in which a GPU computed, where its driver tells.";
    out.family("rbee_gpu_utilization_ratio", Kind::Gauge, text);
    for (gpu, name) in gpus.iter().zip(&names) {
        if let Some(percent) = gpu.utilization_percent {
            out.sample("rbee_gpu_utilization_ratio", &[("device", name)], f64::from(percent) / 100.0);
        }
    }
    out.family("rbee_gpu_lost", Kind::Gauge, "1 for a GPU that fell off the bus.");
    for (gpu, name) in gpus.iter().zip(&names) {
        out.sample("rbee_gpu_lost", &[("device", name)], u8::from(gpu.lost));
    }
    let age = Instant::now().saturating_duration_since(picture.gpus_taken_at).as_secs_f64();
    out.single("rbee_devices_age_seconds", Kind::Gauge, "How old the figures of the GPUs are.", age);
}

fn queen(api: &Api, out: &mut Figures) {
    let Some(posts) = &api.posts else { return };
    out.family(
        "rbee_queen_heartbeats_total",
        Kind::Counter,
        "Heartbeats to the queen, by whether she took them.",
    );
    out.sample("rbee_queen_heartbeats_total", &[("result", "taken")], posts.taken());
    out.sample("rbee_queen_heartbeats_total", &[("result", "failed")], posts.failed());
    if let Some(at) = posts.last_taken_at() {
        let text = "When the queen last took a heartbeat.";
        out.single("rbee_queen_last_success_timestamp_seconds", Kind::Gauge, text, unix_seconds(at));
    }
}

fn downloads(api: &Api, out: &mut Figures) {
    let counts = api.downloads.counts();
    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    out.single("rbee_downloads", Kind::Gauge, "Downloads that have not ended.", api.picture.downloads());
    let text = "Bytes of models that came from the hub, those that had to be thrown away included.";
    out.single("rbee_download_bytes_total", Kind::Counter, text, load(&counts.bytes));
    out.family("rbee_downloads_ended_total", Kind::Counter, "Downloads that ended, by how.");
    for (result, count) in
        [("complete", &counts.complete), ("cancelled", &counts.cancelled), ("failed", &counts.failed)]
    {
        out.sample("rbee_downloads_ended_total", &[("result", result)], load(count));
    }
}

fn process(api: &Api, out: &mut Figures) {
    let started = unix_seconds(api.about.started_at);
    out.single("process_start_time_seconds", Kind::Gauge, "When the process was started.", started);
    let Some(own) = own::look() else { return };
    out.single(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Time that the process computed.",
        own.cpu_seconds,
    );
    out.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory.", own.resident_bytes);
    out.single("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory.", own.virtual_bytes);
    out.single("process_threads", Kind::Gauge, "Threads.", own.threads);
    out.single("process_open_fds", Kind::Gauge, "Open descriptors.", own.open_fds);
    if let Some(most) = own.max_fds {
        out.single("process_max_fds", Kind::Gauge, "Descriptors that may be open.", most);
    }
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
