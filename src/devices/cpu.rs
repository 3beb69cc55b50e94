//! The processor and its memory: the kernel's figures, narrowed by affinity, quota and limits.

use std::collections::BTreeMap;
use std::io;

use super::Cpu;
use super::cgroup::Cgroups;
use super::probe::{Failed, Probe, ProbeConfig, read};

/// Reads procfs and the cgroups.
#[derive(Debug)]
pub(super) struct CpuProbe {
    config: ProbeConfig,
}

impl CpuProbe {
    pub fn new(config: ProbeConfig) -> Self {
        Self { config }
    }

    /// Cores that this process may run on: the machine's, or those of its cpuset and affinity.
    fn allowed(&self) -> Option<u32> {
        let status = read(&self.config.procfs.join("self/status")).ok()?;
        count(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())
    }
}

impl Probe for CpuProbe {
    type Facts = Cpu;

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn look(&mut self) -> Result<Cpu, Failed> {
        let failed = |what: &'static str| move |e: io::Error| Failed::broken(format_args!("{what}: {e}"));
        let meminfo = read(&self.config.procfs.join("meminfo")).map_err(failed("meminfo"))?;
        let bytes = |name: &str| -> Option<u64> {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
        };
        // Before Linux 3.14, and in some sandboxes, what is free is all that is known.
        let available = bytes("MemAvailable").or_else(|| bytes("MemFree"));
        let (Some(total), Some(available)) = (bytes("MemTotal"), available) else {
            return Err(Failed::broken("meminfo: no MemTotal, or neither MemAvailable nor MemFree"));
        };
        let allowed = self.allowed().ok_or_else(|| Failed::broken("status: no Cpus_allowed_list"))?;
        let cgroups = Cgroups::find(&self.config.procfs, &self.config.sysfs).map_err(failed("cgroups"))?;
        let mut cpu = Cpu {
            cores: cgroups.cores().chain([allowed]).min().unwrap_or(allowed),
            total_bytes: total,
            available_bytes: available,
            used_by: BTreeMap::new(),
        };
        for room in cgroups.memory() {
            cpu.total_bytes = cpu.total_bytes.min(room.limit);
            cpu.available_bytes = cpu.available_bytes.min(room.available);
        }
        Ok(cpu)
    }
}

/// How many numbers a list like `0-3,8` has.
fn count(list: &str) -> Option<u32> {
    let mut count: u32 = 0;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_in_ranges() {
        assert_eq!(count("0-3,8,10-11"), Some(7));
        assert_eq!(count("0"), Some(1));
        for wrong in ["", "3-1", "a", "0-", "0-4294967295"] {
            assert_eq!(count(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let cpu = CpuProbe::new(ProbeConfig::default()).look().unwrap();
        let known = std::thread::available_parallelism().unwrap().get();
        assert!(cpu.cores >= 1 && cpu.cores as usize <= known, "{cpu:?}, {known}");
        assert!(cpu.available_bytes > 1 << 20 && cpu.available_bytes <= cpu.total_bytes, "{cpu:?}");
    }
}
