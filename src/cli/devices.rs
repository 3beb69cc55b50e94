//! `rbee-hive devices`: what a machine has to compute with.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::screen::Screen;
use super::table::{bar, gib, table};
use super::{CliError, Environment, Output, Task, json, resolve, task};
use crate::api;
use crate::devices::{self, ProbeConfig};
use crate::models::cache;
use crate::sys;

/// What is to be shown, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    source: Source,
    json: bool,
    screen: Screen,
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    Hive(Hive),
    /// This machine, without a hive.
    Local {
        probes: ProbeConfig,
        model_dir: Option<PathBuf>,
    },
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "devices",
    summary: "Show what a machine has to compute with",
    about: "Show processor, memory and GPUs: what they have, and what is free of it.",
    notes: "",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 4] = [
    Flag::switch("local", "a hive is asked", "Look at this machine, without a hive", |typed, _| {
        typed.local = true;
        Ok(())
    }),
    JSON,
    URL,
    TOKEN_FILE,
];

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let source = if typed.local {
        Source::Local { probes: ProbeConfig::from_env(env), model_dir: resolve::model_dir(env).ok() }
    } else {
        Source::Hive(Hive::new(typed, env)?)
    };
    Ok(Command { source, json: typed.json, screen: Screen::of_stdout(env) })
}

impl Task for Command {
    /// Looks, and gives what is to be printed on stdout.
    ///
    /// # Errors
    /// If no hive answers, or it says no; with `--local`, if `/proc` cannot be read.
    fn run(&self) -> Result<Output, CliError> {
        let devices = match &self.source {
            Source::Hive(hive) => hive.ask(|hive| hive.devices())?,
            Source::Local { probes, model_dir } => {
                let failed =
                    |e: io::Error| CliError::runtime(format!("this machine cannot be looked at: {e}"));
                sys::close_inherited_on_exec().map_err(failed)?;
                let (_thread, devices) = devices::start(probes.clone(), Vec::new, |_| {}).map_err(failed)?;
                let picture = devices.look();
                let models = model_dir.as_deref().map_or(0, cache::count);
                let disk = model_dir.as_deref().and_then(devices::disk);
                devices::wire(&picture, &BTreeSet::new(), |_| 0, models, 0, disk, Instant::now())
            }
        };
        if self.json {
            return Ok(json(&devices));
        }
        Ok(for_people(self.screen, &devices).into())
    }
}

fn for_people(screen: Screen, devices: &api::Devices) -> String {
    let or_none = |figure: Option<u32>, unit: &str| figure.map_or("-".to_owned(), |n| format!("{n}{unit}"));
    let memory = |total: u64, free: u64| [gib(total), gib(free), bar(total.saturating_sub(free), 0, total)];
    let cpu = &devices.cpu;
    let cores = format!("{} {}", cpu.cores, if cpu.cores == 1 { "core" } else { "cores" });
    let row = |id: &str, name: String, memory: [String; 3], rest: [String; 3]| {
        [id.to_owned(), name].into_iter().chain(memory).chain(rest).collect::<Vec<_>>()
    };
    let none = || "-".to_owned();
    let ram = memory(cpu.ram_total_bytes, cpu.ram_available_bytes);
    let mut rows = vec![row("cpu", cores, ram, [none(), none(), String::new()])];
    for gpu in &devices.gpus {
        let notes =
            [(true, gpu.driver.as_str()), (gpu.lost, "lost"), (gpu.shared_memory, "memory shared with cpu")];
        let notes: Vec<&str> = notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note).collect();
        let figures = match gpu.vram_total_bytes {
            0 => [none(), none(), none()],
            total => memory(total, gpu.vram_free_bytes),
        };
        let rest =
            [or_none(gpu.temperature_c, " C"), or_none(gpu.utilization_percent, "%"), notes.join(", ")];
        rows.push(row(&gpu.id, short(&gpu.name).to_owned(), figures, rest));
    }
    let mut text =
        table(screen, &["DEVICE", "~NAME", ">MEMORY", ">FREE", "USED", ">TEMP", ">LOAD", "~NOTE"], &rows);
    let backends: Vec<&str> = devices.backends.iter().map(|backend| backend.as_str()).collect();
    text.push_str(&format!("\nbackends  {}\n", backends.join(", ")));
    text.push_str(&format!("models    {}\n", devices.models));
    if let Some(disk) = devices.disk {
        text.push_str(&format!(
            "disk      {} free of {}\n",
            gib(disk.available_bytes),
            gib(disk.total_bytes)
        ));
    }
    if devices.stale {
        let age = devices.age_s.unwrap_or_default();
        text.push_str(&format!("\nA driver does not answer: the GPUs are as they were {age} s ago.\n"));
    }
    text
}

/// A card's name without its vendor's.
pub(super) fn short(name: &str) -> &str {
    ["NVIDIA ", "AMD ", "Intel "].iter().find_map(|vendor| name.strip_prefix(vendor)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Backend;

    #[test]
    fn people_get_a_table() {
        const GIB: u64 = 1 << 30;
        let gpu = |id: &str| api::Gpu {
            id: id.to_owned(),
            name: "NVIDIA GeForce RTX 3090".to_owned(),
            vram_gb: 24,
            vram_total_bytes: 24 * GIB,
            vram_free_bytes: 6 * GIB,
            promised_bytes: 0,
            uuid: None,
            backend: Backend::Cuda,
            temperature_c: Some(61),
            utilization_percent: Some(97),
            driver: "nvml".to_owned(),
            lost: false,
            shared_memory: false,
        };
        let lost = api::Gpu {
            name: "NVIDIA GPU".to_owned(),
            vram_total_bytes: 0,
            temperature_c: None,
            utilization_percent: None,
            lost: true,
            ..gpu("gpu1")
        };
        let devices = api::Devices {
            cpu: api::Cpu {
                cores: 8,
                ram_gb: 32,
                ram_total_bytes: 32 * GIB,
                ram_available_bytes: 30 * GIB,
                promised_bytes: 0,
            },
            gpus: vec![gpu("gpu0"), lost],
            models: 2,
            workers: 0,
            disk: Some(api::Disk { total_bytes: 100 * GIB, available_bytes: 40 * GIB }),
            backends: vec![Backend::Cpu, Backend::Cuda],
            stale: true,
            age_s: Some(7),
        };
        let expected = "\
DEVICE  NAME              MEMORY      FREE  USED          TEMP  LOAD  NOTE
cpu     8 cores         32.0 GiB  30.0 GiB  [#.........]     -     -
gpu0    GeForce…X 3090  24.0 GiB   6.0 GiB  [########..]  61 C   97%  nvml
gpu1    GPU                    -         -  -                -     -  nvml, lost

backends  cpu, cuda
models    2
disk      40.0 GiB free of 100.0 GiB

A driver does not answer: the GPUs are as they were 7 s ago.
";
        assert_eq!(for_people(Screen::PLAIN, &devices), expected);
    }
}
