//! What the hive's own process takes.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::procfs::TICKS_PER_SECOND;

/// The hive's own process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Own {
    /// Time that it computed, in the kernel as well.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Virtual memory.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// How many there may be; `None`: there is no limit.
    pub max_fds: Option<u64>,
}

/// Looks at it. Reads no disk: what is in `/proc` of a process itself is in memory.
pub fn look() -> Option<Own> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<u64> =
        stat.rsplit_once(") ")?.1.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // By their number in proc(5), of which the first two are cut off.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Own {
        cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS_PER_SECOND,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * rustix::param::page_size() as u64,
        open_fds: open_fds(),
        max_fds: getrlimit(Resource::Nofile).current,
    })
}

/// Linux 6.2 and later tells the number as the folder's length; before, they are counted.
fn open_fds() -> u64 {
    let told = fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
    // The one that lists them is not counted.
    let count = || fs::read_dir("/proc/self/fd").map_or(0, |all| (all.count() as u64).saturating_sub(1));
    if told > 0 { told } else { count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_memory_threads_and_descriptors() {
        let own = look().unwrap();
        assert!(own.resident_bytes > 100_000 && own.virtual_bytes > own.resident_bytes, "{own:?}");
        assert!(own.threads > 0 && own.open_fds > 2, "{own:?}");
        assert!(own.max_fds.is_none_or(|most| most >= own.open_fds), "{own:?}");
        assert!(own.cpu_seconds < 1e6, "{own:?}");
    }
}
