//! What this machine has to compute with: processor, memory, GPUs, and who uses how much of them.
//!
//! ```text
//!  callers ── look, refresh ──▶ devices ── a line ──▶ probe child ──▶ NVML, else nvidia-smi; sysfs
//!     ▲                            │ ◀── a line of JSON ──┘
//!     └─────── Arc<Picture> ───────┘ reads memory, limits and the workers' trees itself
//! ```
//! The thread `devices` ([`watch`]) takes a picture when somebody asks for one. Drivers are asked by a child
//! process ([`child`]; [`ask`] is the thread's end of it), for one that hangs in the kernel can be neither
//! ended nor waited for, and one that crashes takes its process along: the child is killed, or left behind,
//! and the last picture stands with its age.
//!
//! Invariants: a device's name never comes to mean another card ([`numbers`]); who uses how much was read
//! before what is free, so that nothing is counted as taken that still looks free.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::id::{Backend, Device, Pgid};
use crate::limits;

mod ask;
mod cgroup;
pub mod child;
mod cpu;
mod numbers;
#[cfg_attr(target_env = "musl", path = "no_nvml.rs")]
mod nvml;
mod oom;
mod probe;
mod smi;
mod sysfs;
mod watch;
mod wire;

pub use oom::OomKills;
pub use probe::ProbeConfig;
pub use watch::{Devices, start};
pub use wire::{disk, wire};

/// The tightest limit of processes and threads that a cgroup of this process has.
pub fn tasks_max() -> Option<u64> {
    cgroup::Cgroups::find("/proc".as_ref(), "/sys".as_ref()).ok()?.tasks().min()
}

/// All devices at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// When it was taken: no figure in it is older, but for those of GPUs.
    pub taken_at: Instant,
    /// When the GPUs' figures were taken: the same, or earlier if the driver did not answer.
    pub gpus_taken_at: Instant,
    /// The processor and its memory.
    pub cpu: Cpu,
    /// GPUs and MIG instances that can be named, in the order of PCI bus ids; the parent of MIG instances is
    /// not among them.
    pub gpus: Vec<Gpu>,
}

impl Picture {
    /// Nothing is known yet: no memory, no GPU.
    pub fn unknown() -> Arc<Self> {
        let now = Instant::now();
        let cpu = Cpu { cores: 1, total_bytes: 0, available_bytes: 0, used_by: BTreeMap::new() };
        Arc::new(Self { taken_at: now, gpus_taken_at: now, cpu, gpus: Vec::new() })
    }

    /// How old the GPUs' figures are, if they are too old because a driver hangs or fails.
    pub fn stale_for(&self, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.gpus_taken_at);
        (self.gpus_taken_at < self.taken_at && age > limits::DEVICES_STALE_AFTER).then_some(age)
    }
}

/// The processor and its memory, as far as this process may use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Cores, at least 1: the machine's, or fewer by cpuset or quota.
    pub cores: u32,
    /// Memory in bytes: the machine's, or the tightest limit of a cgroup.
    pub total_bytes: u64,
    /// What can be taken without swapping, within the same limits.
    pub available_bytes: u64,
    /// Memory of each worker's process tree that no other use can displace: anonymous and shared, in bytes.
    /// Mapped files are not in it: they count as available to the kernel.
    pub used_by: BTreeMap<Pgid, u64>,
}

/// One GPU, or one MIG instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Its name here; never another card's while the hive runs.
    pub device: Device,
    /// The product's name.
    pub name: String,
    /// What the driver calls it: `GPU-…` or `MIG-…`; what `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: Option<String>,
    /// [`Backend::Cuda`] or [`Backend::Rocm`].
    pub backend: Backend,
    /// All its memory, in bytes; 0 if it is lost and was never seen well.
    pub total_bytes: u64,
    /// What is free of it now, in bytes; 0 if it is lost.
    pub free_bytes: u64,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Percent of the last sample period in which it computed.
    pub utilization_percent: Option<u32>,
    /// Who told.
    pub driver: Driver,
    /// It fell off the bus, or its driver says so.
    pub lost: bool,
    /// Its memory is the processor's: what is taken here is taken there.
    pub shares_memory: bool,
    /// Bytes that each worker's process tree holds on it.
    pub used_by: BTreeMap<Pgid, u64>,
    /// Whether `used_by` can be trusted: false where the driver does not tell, or tells the process ids of
    /// another namespace.
    pub knows_users: bool,
}

/// Where facts about a GPU come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// NVIDIA's library.
    Nvml,
    /// NVIDIA's command.
    NvidiaSmi,
    /// The kernel's files (AMD).
    Sysfs,
}
