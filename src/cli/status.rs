//! `rbee-hive status`: a hive on one screen.

use jiff::Timestamp;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::devices::short;
use super::ps::{self, since};
use super::screen::{Colour, Screen};
use super::table::{Cell, bar, elided, gib, size, span, table};
use super::{CliError, Environment, Output, Task, json, task};
use crate::api::{Devices, DownloadEvent, HiveStatus, Progress, State, Status, Worker};
use crate::logging::is_hazard;

/// How it is shown.
#[derive(Debug)]
struct Command {
    hive: Hive,
    json: bool,
    screen: Screen,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "status",
    summary: "Show a hive on one screen",
    about: "Show a hive on one screen: what runs where, the memory of its devices, what is\nbeing fetched, and what is wrong.",
    notes: "\
In a bar `#` is memory in use, `+` what is promised to workers that have not
taken it yet, and `.` what is free.
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
        let status = self.hive.ask(|hive| hive.status())?;
        if self.json {
            return Ok(json(&status));
        }
        Ok(for_people(self.screen, &status, Timestamp::now()).into())
    }
}

fn for_people(screen: Screen, status: &Status, now: Timestamp) -> String {
    let mut text = head(screen, status, now);
    text.push_str(&format!("\n{}", devices(screen, &status.devices, &status.workers)));
    if status.workers.is_empty() {
        text.push_str("\nno workers\n");
    } else {
        text.push_str(&format!("\n{}", ps::for_people(screen, &status.workers, now)));
    }
    if !status.downloads.is_empty() {
        text.push_str(&format!("\n{}", downloads(screen, &status.downloads)));
    }
    let wrong = wrong(status, now);
    if !wrong.is_empty() {
        text.push('\n');
    }
    for (colour, line) in wrong {
        let line = elided(&line.replace(is_hazard, "?"), screen.width.saturating_sub(2)).into_owned();
        text.push_str(&format!("{} {line}\n", screen.paint(colour, "!")));
    }
    text
}

fn head(screen: Screen, status: &Status, now: Timestamp) -> String {
    let (word, colour) = match status.status {
        HiveStatus::Ready if status.reasons.is_empty() => ("ready", Colour::Good),
        HiveStatus::Ready => ("ready, degraded", Colour::Doubtful),
        HiveStatus::Starting => ("starting", Colour::Doubtful),
        HiveStatus::Draining => ("draining", Colour::Doubtful),
        HiveStatus::Stopping => ("stopping", Colour::Bad),
        HiveStatus::Stopped => ("stopped", Colour::Bad),
    };
    let up = since(&status.started_at, now).map_or("?".to_owned(), span);
    let plain = |text: &str| text.replace(is_hazard, "?");
    let mut text = format!("hive   {}: {}\n", plain(&status.hive_id), screen.paint(colour, word));
    text.push_str(&format!("       {}, rbee-hive {}, up {up}\n", plain(&status.url), plain(&status.version)));
    let queen = match &status.queen {
        None => "none".to_owned(),
        Some(queen) => {
            let heard = queen.last_success_at.as_deref().and_then(|time| since(time, now));
            let heard =
                heard.map_or("has not heard of it yet".to_owned(), |ago| format!("heard {} ago", span(ago)));
            match queen.failures_in_a_row {
                0 => heard,
                1 => format!("{heard}; the last heartbeat failed"),
                failed => format!("{heard}; the last {failed} heartbeats failed"),
            }
        }
    };
    text + &format!("queen  {queen}\n")
}

fn devices(screen: Screen, devices: &Devices, workers: &[Worker]) -> String {
    let none = || Cell::from("-");
    let figure =
        |figure: Option<u32>, unit: &str| figure.map_or_else(none, |n| Cell::from(format!("{n}{unit}")));
    let memory = |total: u64, free: u64, untaken: u64, promised: u64| {
        let used = total.saturating_sub(free);
        [bar(used, untaken, total), gib(free), gib(promised), gib(total)].map(Cell::from)
    };
    let cpu = &devices.cpu;
    let on_cpu = workers.iter().filter(|worker| worker.device == "cpu");
    let untaken = on_cpu.map(|worker| worker.reserved_bytes.saturating_sub(worker.memory_bytes.unwrap_or(0)));
    let cores = format!("{} {}", cpu.cores, if cpu.cores == 1 { "core" } else { "cores" });
    let ram = memory(
        cpu.ram_total_bytes,
        cpu.ram_available_bytes,
        untaken.fold(0, u64::saturating_add),
        cpu.promised_bytes,
    );
    let row = |id: &str, name: Cell, memory: [Cell; 4], rest: [Cell; 2]| {
        [Cell::from(id), name].into_iter().chain(memory).chain(rest).collect::<Vec<_>>()
    };
    let mut rows = vec![row("cpu", cores.into(), ram, [none(), none()])];
    for gpu in &devices.gpus {
        let used = gpu.vram_total_bytes.saturating_sub(gpu.vram_free_bytes);
        // Others may use it, too: at least so much is not taken yet.
        let untaken = gpu.promised_bytes.saturating_sub(used);
        let figures = memory(gpu.vram_total_bytes, gpu.vram_free_bytes, untaken, gpu.promised_bytes);
        let name = match gpu.lost {
            true => Cell::coloured("lost", Some(Colour::Bad)),
            false => Cell::from(short(&gpu.name)),
        };
        let rest = [figure(gpu.temperature_c, " C"), figure(gpu.utilization_percent, "%")];
        rows.push(row(&gpu.id, name, figures, rest));
    }
    let headings = ["DEVICE", "~NAME", "MEMORY", ">FREE", ">PROMISED", ">TOTAL", ">TEMP", ">LOAD"];
    table(screen, &headings, &rows)
}

fn downloads(screen: Screen, downloads: &[DownloadEvent]) -> String {
    let row = |download: &DownloadEvent| {
        let (of, bar, done, speed) = match &download.progress {
            Progress::Downloading { bytes_downloaded, bytes_total, speed_mbps, file, .. } => (
                file.clone(),
                bar(*bytes_downloaded, 0, *bytes_total),
                format!("{} of {}", size(*bytes_downloaded), size(*bytes_total)),
                // 10^6 bits a second, as the API has it.
                format!("{:.1} MB/s", speed_mbps / 8.0),
            ),
            _ => (String::new(), "verifying".to_owned(), String::new(), String::new()),
        };
        vec![download.download_id.clone(), of, bar, done, speed]
    };
    let rows: Vec<_> = downloads.iter().map(row).collect();
    table(screen, &["DOWNLOAD", "~FILE", "", ">DONE", ">SPEED"], &rows)
}

/// What is wrong: with the hive, with workers that crashed.
fn wrong(status: &Status, now: Timestamp) -> Vec<(Colour, String)> {
    let mut lines = Vec::new();
    for reason in &status.reasons {
        let since = since(&reason.since, now).map_or(String::new(), |ago| format!(" (since {})", span(ago)));
        lines.push((Colour::Bad, format!("{}{since}", reason.message)));
    }
    if status.devices.stale {
        let age = status.devices.age_s.unwrap_or_default();
        lines.push((Colour::Bad, format!("a driver does not answer: the GPUs are as they were {age} s ago")));
    }
    for worker in status.workers.iter().filter(|worker| worker.state == State::Spawning) {
        let Some(exit) = &worker.exit else { continue };
        let why = exit.message.as_deref().unwrap_or(&exit.reason);
        lines.push((Colour::Doubtful, format!("{} crashed: {why}", worker.worker_id)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::{NOW, worker};
    use super::*;
    use crate::api::{Cpu, Exit, Gpu, HealthReason, Phase, QueenContact};
    use crate::id::Backend;

    const GIB: u64 = 1 << 30;

    fn status() -> Status {
        let gpu = Gpu {
            id: "gpu0".to_owned(),
            name: "NVIDIA GeForce RTX 3090".to_owned(),
            vram_gb: 24,
            vram_total_bytes: 24 * GIB,
            vram_free_bytes: 18 * GIB,
            promised_bytes: 12 * GIB,
            uuid: None,
            backend: Backend::Cuda,
            temperature_c: Some(61),
            utilization_percent: Some(97),
            driver: "nvml".to_owned(),
            lost: false,
            shared_memory: false,
        };
        let crashed = Worker {
            worker_id: "w-5f".parse().unwrap(),
            state: State::Spawning,
            phase: Some(Phase::Backoff),
            restart_count: 2,
            started_at: None,
            exit: Some(Exit {
                code: Some(1),
                signal: None,
                reason: "exited".to_owned(),
                message: Some("the model file is truncated".to_owned()),
                log: Vec::new(),
            }),
            ..worker()
        };
        Status {
            hive_id: "box-1".to_owned(),
            url: "http://box-1:8600".to_owned(),
            version: "0.1.0".to_owned(),
            boot_id: "b".to_owned(),
            started_at: "2026-01-01T00:00:00.000Z".to_owned(),
            status: HiveStatus::Ready,
            reasons: vec![HealthReason {
                code: "queen_unreachable".to_owned(),
                message: "the queen does not answer".to_owned(),
                since: "2026-01-02T03:03:00.000Z".to_owned(),
                count: 3,
            }],
            queen: Some(QueenContact {
                last_success_at: Some("2026-01-02T03:02:53.000Z".to_owned()),
                failures_in_a_row: 3,
            }),
            devices: Devices {
                cpu: Cpu {
                    cores: 8,
                    ram_gb: 32,
                    ram_total_bytes: 32 * GIB,
                    ram_available_bytes: 30 * GIB,
                    promised_bytes: 0,
                },
                gpus: vec![gpu],
                models: 2,
                workers: 2,
                disk: None,
                backends: vec![Backend::Cpu, Backend::Cuda],
                stale: false,
                age_s: None,
            },
            workers: vec![worker(), crashed],
            downloads: vec![DownloadEvent {
                download_id: "d-1".to_owned(),
                progress: Progress::Downloading {
                    bytes_downloaded: GIB,
                    bytes_total: 4 * GIB,
                    speed_mbps: 800.0,
                    file: "SmolLM2-135M-Instruct-Q4_K_M.gguf".to_owned(),
                    attempt: 1,
                },
            }],
        }
    }

    #[test]
    fn a_hive_fits_one_screen() {
        let expected = "\
hive   box-1: ready, degraded
       http://box-1:8600, rbee-hive 0.1.0, up 1d03h
queen  heard 1m12s ago; the last 3 heartbeats failed

DEVICE  NAME              MEMORY            FREE  PROMISED     TOTAL  TEMP  LOAD
cpu     8 cores           [#.........]  30.0 GiB   0.0 GiB  32.0 GiB     -     -
gpu0    GeForce RTX 3090  [###++.....]  18.0 GiB  12.0 GiB  24.0 GiB  61 C   97%

ID              STATE        DEVICE  SLOTS   MEMORY  RESTARTS  MODEL
w-d1a11e39bb68  ready 3h12m  gpu0      1/2  1.5 GiB         0  hf:barto…F:Q4_K_M
w-5f            backoff      gpu0        -  1.5 GiB         2  hf:barto…F:Q4_K_M

DOWNLOAD  FILE                                                  DONE       SPEED
d-1       SmolLM2-135M…Q4_K_M.gguf  [###.......]  1.0 GiB of 4.0 GiB  100.0 MB/s

! the queen does not answer (since 1m05s)
! w-5f crashed: the model file is truncated
";
        let text = for_people(Screen::PLAIN, &status(), NOW.parse().unwrap());
        assert_eq!(text, expected);
    }
}
