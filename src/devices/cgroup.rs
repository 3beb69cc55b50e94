//! The cgroups that this process is in, from its own up to the highest that can be seen from here.
//!
//! A limit may stand at any level: a container's above the process, a systemd unit's in the middle. The
//! hierarchies are those of version 1 (one for each controller), of version 2, or both side by side; in a
//! namespace of its own a process sees its cgroup as `/`.
//!
//! Formats: cgroups(7), proc_pid_mountinfo(5), the kernel's `admin-guide/cgroup-v2` and
//! `admin-guide/cgroup-v1`.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::probe::{read, read_number};

/// The folders of a process's cgroups, the narrowest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cgroups {
    unified: Vec<PathBuf>,
    memory: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
}

/// The room within one cgroup's limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub limit: u64,
    pub available: u64,
}

impl Cgroups {
    /// Those of this process; none where the kernel has none.
    pub fn find(procfs: &Path, sysfs: &Path) -> io::Result<Self> {
        let optional = |path: PathBuf| match read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        };
        let own = optional(procfs.join("self/cgroup"))?;
        let mounts = optional(procfs.join("self/mountinfo"))?;
        let mounts: Vec<Mount> = mounts.lines().filter_map(|line| Mount::parse(line, sysfs)).collect();
        let mut cgroups = Self::default();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let is = |name| controllers.split(',').any(|controller| controller == name);
            if controllers.is_empty() {
                cgroups.unified = levels(&mounts, None, path);
            }
            if is("memory") {
                cgroups.memory = levels(&mounts, Some("memory"), path);
            }
            if is("cpu") {
                cgroups.cpu = levels(&mounts, Some("cpu"), path);
            }
        }
        Ok(cgroups)
    }

    /// The room in each cgroup that has a limit of memory. File cache that can be dropped is room.
    pub fn memory(&self) -> impl Iterator<Item = Room> {
        let unified = self
            .unified
            .iter()
            .filter_map(|dir| room(dir, "memory.max", "memory.current", ["inactive_file", "active_file"]));
        let split = self.memory.iter().filter_map(|dir| {
            let cache = ["total_inactive_file", "total_active_file"];
            room(dir, "memory.limit_in_bytes", "memory.usage_in_bytes", cache)
        });
        unified.chain(split)
    }

    /// The limit of processes and threads in each cgroup of version 2 that has one.
    pub fn tasks(&self) -> impl Iterator<Item = u64> {
        self.unified.iter().filter_map(|dir| read_number(&dir.join("pids.max")))
    }

    /// Where the kernel may count whom it kills in the narrowest of them, the best first.
    pub fn oom_files(&self) -> impl Iterator<Item = PathBuf> {
        let unified = self.unified.first().map(|dir| dir.join("memory.events"));
        unified.into_iter().chain(self.memory.first().map(|dir| dir.join("memory.oom_control")))
    }

    /// The processor time that each cgroup with a quota may use, in whole cores, at least 1.
    pub fn cores(&self) -> impl Iterator<Item = u32> {
        let unified = self.unified.iter().filter_map(|dir| {
            let line = read(&dir.join("cpu.max")).ok()?;
            let (quota, period) = line.split_once(' ')?;
            cores(quota.parse().ok()?, period.parse().ok()?)
        });
        let split = self.cpu.iter().filter_map(|dir| {
            // Without a quota it is -1.
            let quota = read_number(&dir.join("cpu.cfs_quota_us"))?;
            cores(quota, read_number(&dir.join("cpu.cfs_period_us"))?)
        });
        unified.chain(split)
    }
}

fn cores(quota: u64, period: u64) -> Option<u32> {
    Some(u32::try_from(quota.checked_div(period)?).ok()?.max(1))
}

fn room(dir: &Path, limit: &str, usage: &str, cache: [&str; 2]) -> Option<Room> {
    let limit = read_number(&dir.join(limit))?; // "max" is no number
    let usage = read_number(&dir.join(usage))?;
    let stat = read(&dir.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| cache.contains(name))
        .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    Some(Room { limit, available: limit.saturating_sub(usage.saturating_sub(reclaimable)) })
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The cgroup that is seen at the mount point.
    root: PathBuf,
    point: PathBuf,
    /// Of version 1: its controllers. `None`: version 2.
    controllers: Option<Vec<String>>,
}

impl Mount {
    /// A line of `mountinfo`, if it is of a cgroup hierarchy.
    fn parse(line: &str, sysfs: &Path) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (unescaped(mount.next()?), unescaped(mount.next()?));
        let mut kind = kind.split(' ');
        let version = kind.next()?;
        let options = kind.nth(1)?;
        let controllers = match version {
            "cgroup2" => None,
            "cgroup" => Some(options.split(',').map(str::to_owned).collect()),
            _ => return None,
        };
        let point = match Path::new(&point).strip_prefix("/sys") {
            Ok(inside) => sysfs.join(inside),
            Err(_) => point.into(),
        };
        Some(Self { root: root.into(), point, controllers })
    }
}

/// A path as `mountinfo` writes it: what would part the fields is written as `\040` and the like.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The folders from the cgroup `path` up to its mount point.
fn levels(mounts: &[Mount], controller: Option<&str>, path: &str) -> Vec<PathBuf> {
    let holds = |mount: &&Mount| match (controller, &mount.controllers) {
        (None, None) => true,
        (Some(name), Some(controllers)) => controllers.iter().any(|controller| controller == name),
        _ => false,
    };
    // Mounted more than once: where the most of it is seen.
    let Some(mount) = mounts.iter().filter(holds).min_by_key(|mount| mount.root.components().count()) else {
        return Vec::new();
    };
    // A path that leads out of what is mounted here is that of another namespace: the mount point is the
    // nearest that can be seen.
    let inside = Path::new(path).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let inside = if inside.components().any(|c| c == Component::ParentDir) { Path::new("") } else { inside };
    inside.ancestors().map(|level| mount.point.join(level)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn find(root: &tempfile::TempDir) -> Cgroups {
        Cgroups::find(&root.path().join("proc"), &root.path().join("sys")).unwrap()
    }

    #[test]
    fn a_limit_counts_at_any_level_and_dropping_cache_makes_room() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/system.slice/hive.service/main\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "900\n"),
            ("sys/fs/cgroup/system.slice/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/system.slice/hive.service/memory.max", "1000\n"),
            ("sys/fs/cgroup/system.slice/hive.service/memory.current", "700\n"),
            (
                "sys/fs/cgroup/system.slice/hive.service/memory.stat",
                "anon 400\ninactive_file 200\nactive_file 50\n",
            ),
            ("sys/fs/cgroup/system.slice/hive.service/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/system.slice/hive.service/main/cpu.max", "10 100000\n"),
        ]);
        let cgroups = find(&root);
        assert_eq!(cgroups.memory().collect::<Vec<_>>(), [Room { limit: 1000, available: 550 }]);
        assert_eq!(cgroups.cores().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn both_versions_may_stand_side_by_side() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"),
            (
                "proc/self/mountinfo",
                "31 30 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                 32 30 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                 33 30 0:29 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "active_file 7\ntotal_active_file 400\ntotal_inactive_file 100\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
        ]);
        let cgroups = find(&root);
        assert_eq!(cgroups.memory().collect::<Vec<_>>(), [Room { limit: 4000, available: 3000 }]);
        assert_eq!(cgroups.cores().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_quota_of_minus_one_is_none() {
        let root = tree(&[
            ("proc/self/cgroup", "2:cpu,cpuacct:/\n"),
            ("proc/self/mountinfo", "32 30 0:28 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ]);
        assert_eq!(find(&root).cores().count(), 0);
    }

    #[test]
    fn in_a_namespace_the_mount_point_is_the_own_cgroup() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/../other\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/memory.max", "77"),
            ("sys/fs/cgroup/memory.current", "7"),
        ]);
        assert_eq!(find(&root).memory().collect::<Vec<_>>(), [Room { limit: 77, available: 70 }]);
    }

    #[test]
    fn without_cgroups_nothing_is_limited() {
        assert_eq!(find(&tree(&[])), Cgroups::default());
    }
}
