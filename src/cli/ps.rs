//! `rbee-hive ps`: the workers of a hive.

use std::time::Duration;

use jiff::Timestamp;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::screen::{Colour, Screen};
use super::table::{Cell, size, span, table};
use super::{CliError, Environment, Output, Task, json, task};
use crate::api::{Phase, State, Worker, WorkerHealth, WorkerList};

/// How they are shown.
#[derive(Debug)]
struct Command {
    hive: Hive,
    json: bool,
    screen: Screen,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "ps",
    summary: "Show the workers",
    about: "Show the workers of a hive: what each serves, where, and since when.",
    notes: "\
SLOTS are those with a request, of all. MEMORY is what its processes hold, or
`+` and what it is promised as long as it has not been looked at.
",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 3] = [JSON, URL, TOKEN_FILE];

fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    Ok(Command { hive: Hive::new(typed, env)?, json: typed.json, screen: Screen::of_stdout(env) })
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        let workers = self.hive.ask(|hive| hive.workers())?;
        if self.json {
            return Ok(json(&WorkerList { workers }));
        }
        Ok(for_people(self.screen, &workers, Timestamp::now()).into())
    }
}

/// The table of `workers` as they are at `now`.
pub(super) fn for_people(screen: Screen, workers: &[Worker], now: Timestamp) -> String {
    let row = |worker: &Worker| {
        let (state, colour) = state(worker);
        let since = worker.started_at.as_deref().and_then(|time| since(time, now));
        let busy = worker.slots_total.saturating_sub(worker.slots_available);
        let memory = worker.memory_bytes.map_or_else(|| format!("+{}", size(worker.reserved_bytes)), size);
        vec![
            Cell::from(worker.worker_id.to_string()),
            Cell::coloured(
                since.map_or(state.to_owned(), |since| format!("{state} {}", span(since))),
                colour,
            ),
            Cell::from(&*worker.device),
            Cell::from(if worker.state.serves() {
                format!("{busy}/{}", worker.slots_total)
            } else {
                "-".to_owned()
            }),
            Cell::from(memory),
            Cell::coloured(
                worker.restart_count.to_string(),
                (worker.restart_count > 0).then_some(Colour::Doubtful),
            ),
            Cell::from(&*worker.model_ref),
        ]
    };
    let rows: Vec<_> = workers.iter().map(row).collect();
    table(screen, &["ID", "STATE", "DEVICE", ">SLOTS", ">MEMORY", ">RESTARTS", "~MODEL"], &rows)
}

/// What it does, in a word: of a worker that is spawning what it does for that, of one that is not well that.
pub(super) fn state(worker: &Worker) -> (&'static str, Option<Colour>) {
    match (worker.state, worker.phase, worker.health) {
        (State::Spawning, Some(Phase::Backoff), _) => ("backoff", Some(Colour::Bad)),
        (State::Spawning, Some(Phase::Provisioning), _) => ("provisioning", Some(Colour::Doubtful)),
        (State::Spawning, Some(Phase::Launching), _) => ("launching", Some(Colour::Doubtful)),
        (State::Spawning, _, _) => ("loading", Some(Colour::Doubtful)),
        (State::Ready | State::Busy, _, Some(WorkerHealth::Stale)) => ("stale", Some(Colour::Bad)),
        (State::Ready | State::Busy, _, Some(WorkerHealth::Degraded)) => ("degraded", Some(Colour::Bad)),
        (State::Ready, _, _) => ("ready", Some(Colour::Good)),
        (State::Busy, _, _) => ("busy", Some(Colour::Good)),
        (State::Stopping, _, _) => ("stopping", Some(Colour::Faint)),
        (State::Gone, _, _) => ("gone", Some(Colour::Faint)),
    }
}

/// How long ago a time of the wire is; nothing if it is none. Another machine's clock may be ahead.
pub(super) fn since(time: &str, now: Timestamp) -> Option<Duration> {
    let ms = now.as_millisecond() - time.parse::<Timestamp>().ok()?.as_millisecond();
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::id::Backend;

    pub const NOW: &str = "2026-01-02T03:04:05.000Z";

    /// A worker that is ready, with one of its two slots at work.
    pub fn worker() -> Worker {
        Worker {
            worker_id: "w-d1a11e39bb68".parse().unwrap(),
            url: "http://127.0.0.1:8601".to_owned(),
            kind: "llama-server".to_owned(),
            model_ref: "hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M".to_owned(),
            backend: Backend::Cuda,
            device: "gpu0".to_owned(),
            state: State::Ready,
            phase: None,
            download_id: None,
            health: Some(WorkerHealth::Healthy),
            pid: Some(1),
            port: 8601,
            slots_total: 2,
            slots_available: 1,
            restart_count: 0,
            reserved_bytes: 5 << 30,
            memory_bytes: Some(3 << 29),
            started_at: Some("2026-01-01T23:52:00.000Z".to_owned()),
            last_heartbeat: None,
            last_activity: None,
            exit: None,
        }
    }

    #[test]
    fn people_get_a_table_that_fits() {
        let crashed = Worker {
            worker_id: "w-5f".parse().unwrap(),
            state: State::Spawning,
            phase: Some(Phase::Backoff),
            restart_count: 2,
            memory_bytes: None,
            started_at: None,
            model_ref: "file:/m.gguf".to_owned(),
            device: "gpu0,gpu1".to_owned(),
            ..worker()
        };
        let expected = "\
ID              STATE        DEVICE     SLOTS    MEMORY  RESTARTS  MODEL
w-d1a11e39bb68  ready 3h12m  gpu0         1/2   1.5 GiB         0  hf:bar…Q4_K_M
w-5f            backoff      gpu0,gpu1      -  +5.0 GiB         2  file:/m.gguf
";
        let text = for_people(Screen::PLAIN, &[worker(), crashed], NOW.parse().unwrap());
        assert_eq!(text, expected);
    }
}
