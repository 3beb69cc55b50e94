//! What probes have in common: the trait, what they see, how they fail, and where they look.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Driver;
use crate::id::Backend;
use crate::limits;

/// Where probes look. The defaults are right wherever the system is laid out as usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// NVIDIA's library: a name that the loader finds, or a path.
    pub nvml: PathBuf,
    /// NVIDIA's command: a name on `PATH`, or a path.
    pub nvidia_smi: PathBuf,
    /// Where sysfs and, in it, the cgroups are mounted.
    pub sysfs: PathBuf,
    /// Where procfs is mounted, for memory and limits; the workers' processes are always looked up in `/proc`.
    pub procfs: PathBuf,
    /// This program, for the probe child.
    pub program: PathBuf,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            nvml: "libnvidia-ml.so.1".into(),
            nvidia_smi: "nvidia-smi".into(),
            sysfs: "/sys".into(),
            procfs: "/proc".into(),
            // What runs, even if an upgrade has replaced the file.
            program: "/proc/self/exe".into(),
        }
    }
}

impl ProbeConfig {
    /// The defaults, but for what `RBEE_HIVE_NVML_LIBRARY`, `RBEE_HIVE_NVIDIA_SMI`, `RBEE_HIVE_SYSFS` and
    /// `RBEE_HIVE_PROCFS` say. An empty variable counts as none.
    pub fn from_env(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = Self::default();
        Self {
            nvml: path("RBEE_HIVE_NVML_LIBRARY").unwrap_or(usual.nvml),
            nvidia_smi: path("RBEE_HIVE_NVIDIA_SMI").unwrap_or(usual.nvidia_smi),
            sysfs: path("RBEE_HIVE_SYSFS").unwrap_or(usual.sysfs),
            procfs: path("RBEE_HIVE_PROCFS").unwrap_or(usual.procfs),
            program: usual.program,
        }
    }
}

/// One way to find out about devices.
pub(super) trait Probe {
    /// What it finds out.
    type Facts;
    /// What it is called in logs.
    fn name(&self) -> &'static str;
    /// Looks once.
    fn look(&mut self) -> Result<Self::Facts, Failed>;
}

/// Why a probe has nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// What it would ask is not on this machine.
    Absent(String),
    /// It is there, and does not answer as it should.
    Broken(String),
}

impl Failed {
    pub fn absent(why: impl fmt::Display) -> Self {
        Self::Absent(why.to_string())
    }

    pub fn broken(why: impl fmt::Display) -> Self {
        Self::Broken(why.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(why) => write!(f, "not here: {why}"),
            Self::Broken(why) => write!(f, "failed: {why}"),
        }
    }
}

/// A GPU as its driver tells of it. It has no number yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Card {
    pub bus: Bus,
    pub uuid: Option<String>,
    pub name: Option<String>,
    pub backend: Backend,
    pub driver: Driver,
    /// `None` if it is lost or has none of its own.
    pub memory: Option<Memory>,
    /// Its memory, or a part of it, is the processor's.
    pub shares_memory: bool,
    pub temperature_c: Option<u32>,
    pub utilization_percent: Option<u32>,
    pub lost: bool,
    /// Who holds memory on it; `None` if the driver does not tell.
    pub users: Option<Vec<User>>,
    /// In MIG mode: its instances. It is not to be used itself then.
    pub instances: Option<Vec<Instance>>,
}

/// A MIG instance: a part of a GPU with memory of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Instance {
    /// The GPU instance id.
    pub id: u16,
    pub uuid: Option<String>,
    pub name: Option<String>,
    pub memory: Memory,
    pub users: Option<Vec<User>>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    pub total: u64,
    pub free: u64,
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub pid: u32,
    /// `None` if the driver does not tell.
    pub bytes: Option<u64>,
}

/// Where a card sits: domain, bus, device and function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Bus {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl std::str::FromStr for Bus {
    type Err = ();
    /// `0000:01:00.0`; NVIDIA writes eight digits for the domain.
    fn from_str(s: &str) -> Result<Self, ()> {
        let number = |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| ());
        let small = |digits: &str| u8::try_from(number(digits)?).map_err(|_| ());
        let mut parts = s.trim().split(':');
        let (Some(domain), Some(bus), Some(rest), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let (device, function) = rest.split_once('.').ok_or(())?;
        Ok(Self {
            domain: number(domain)?,
            bus: small(bus)?,
            device: small(device)?,
            function: small(function)?,
        })
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// Takes what a pipe that does not block holds; false at its end. Beyond `most` bytes in all it fails.
pub(super) fn drain(from: &mut impl io::Read, into: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let mut block = [0; 16 * 1024];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(false),
            Ok(length) => into.extend_from_slice(&block[..length]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if into.len() > most {
            return Err(io::Error::other("it says too much"));
        }
    }
}

/// A small file of the kernel, without the white space around it.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limits::KERNEL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// The number that a file holds.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_id_means_the_same_however_many_digits_it_has() {
        let bus: Bus = "00000000:0A:00.0".parse().unwrap();
        assert_eq!(bus, "0000:0a:00.0".parse().unwrap());
        assert_eq!(bus.to_string(), "0000:0a:00.0");
        assert!(bus < "0000:10:00.0".parse().unwrap());
        assert!(bus < "00010000:00:00.0".parse().unwrap());
        for wrong in ["", "0a:00.0", "0000:0a:00", "0000:1ff:00.0", "0000:0a:00.0:1", "x:0a:00.0"] {
            assert_eq!(wrong.parse::<Bus>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn the_environment_says_where_to_look() {
        let config = ProbeConfig::from_env(&|name| match name {
            "RBEE_HIVE_NVML_LIBRARY" => Some("/run/opengl-driver/lib/libnvidia-ml.so.1".into()),
            "RBEE_HIVE_SYSFS" => Some("".into()),
            _ => None,
        });
        assert_eq!(config.nvml, Path::new("/run/opengl-driver/lib/libnvidia-ml.so.1"));
        assert_eq!(ProbeConfig { nvml: ProbeConfig::default().nvml, ..config }, ProbeConfig::default());
    }
}
