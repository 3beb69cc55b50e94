//! Whom the kernel kills for want of memory: a counter, for it tells nobody else.
//!
//! The counter is that of this process's own cgroup, in which its workers are: `memory.events` of version 2 (since
//! Linux 4.13) or `memory.oom_control` of version 1 (4.13), else that of the whole machine, `/proc/vmstat` (4.13). It
//! is read when a worker is launched and when one has ended. What is not known is who was killed: a worker that
//! somebody kills with SIGKILL, after the kernel has killed something else in the same cgroup since the last launch or
//! end of a worker, is taken for one that the kernel killed.

use std::path::{Path, PathBuf};

use super::cgroup::Cgroups;
use super::probe::read;

/// Kills for want of memory, and how many of them no end of a worker was explained by yet.
#[derive(Debug)]
pub struct OomKills {
    /// `None`: the system does not count them.
    file: Option<PathBuf>,
    count: u64,
    unexplained: u64,
}

impl OomKills {
    /// Begins to count. `procfs` and `sysfs` are where these are mounted.
    pub fn new(procfs: &Path, sysfs: &Path) -> Self {
        let cgroups = Cgroups::find(procfs, sysfs).unwrap_or_default();
        let files = cgroups.oom_files().chain([procfs.join("vmstat")]);
        let file = files.into_iter().find(|file| read_count(file).is_some());
        let mut kills = Self { file, count: 0, unexplained: 0 };
        kills.forget();
        kills
    }

    /// A worker begins: what was killed before is no end of it.
    pub fn forget(&mut self) {
        self.read();
        self.unexplained = 0;
    }

    /// A worker has failed: whether the kernel has killed it, or a process of it, as far as can be known. Each kill
    /// explains one end.
    pub fn explains_an_end(&mut self) -> bool {
        self.read();
        let explains = self.unexplained > 0;
        self.unexplained = self.unexplained.saturating_sub(1);
        explains
    }

    fn read(&mut self) {
        // A file that cannot be read now is as one that has not changed.
        let Some(count) = self.file.as_deref().and_then(read_count) else { return };
        self.unexplained += count.saturating_sub(self.count);
        self.count = count;
    }
}

fn read_count(file: &Path) -> Option<u64> {
    let text = read(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A machine with these files.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            files.iter().for_each(|(path, text)| machine.write(path, text));
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn kills(&self) -> OomKills {
            OomKills::new(&self.0.path().join("proc"), &self.0.path().join("sys"))
        }
    }

    const VMSTAT: (&str, &str) = ("proc/vmstat", "nr_free_pages 5\noom_kill 7\nnuma_hit 1\n");
    const V2: [(&str, &str); 3] = [
        ("proc/self/cgroup", "0::/system.slice/hive.service\n"),
        ("proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ("sys/fs/cgroup/system.slice/hive.service/memory.events", "low 0\nmax 9\noom 4\noom_kill 3\n"),
    ];

    #[test]
    fn each_kill_in_the_own_cgroup_explains_one_end() {
        let machine = Machine::new(&V2);
        machine.write(VMSTAT.0, VMSTAT.1);
        let mut kills = machine.kills();
        assert!(!kills.explains_an_end(), "what was killed before counts for nothing");
        machine.write(VMSTAT.0, "oom_kill 9\n");
        assert!(!kills.explains_an_end(), "another cgroup's");
        machine.write(V2[2].0, "oom 6\noom_kill 5\noom_group_kill 0\n");
        assert_eq!([(); 3].map(|()| kills.explains_an_end()), [true, true, false]);
        machine.write(V2[2].0, "oom_kill 6\n");
        kills.forget();
        assert!(!kills.explains_an_end(), "a worker was launched since");
    }

    #[test]
    fn in_a_cgroup_of_version_1_its_own_file_counts() {
        let mount = "31 30 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let machine = Machine::new(&[
            VMSTAT,
            ("proc/self/cgroup", "4:memory:/docker/abc\n0::/\n"),
            ("proc/self/mountinfo", mount),
        ]);
        let control = "sys/fs/cgroup/memory/memory.oom_control";
        machine.write(control, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let mut kills = machine.kills();
        machine.write(control, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert!(kills.explains_an_end());
    }

    #[test]
    fn without_a_controller_the_machines_counter_counts_and_without_any_nothing_is_said() {
        let machine = Machine::new(&[VMSTAT, V2[0], V2[1]]);
        let mut kills = machine.kills();
        machine.write(VMSTAT.0, "nr_free_pages 5\noom_kill 8\n");
        assert!(kills.explains_an_end());
        fs::remove_file(machine.0.path().join(VMSTAT.0)).unwrap();
        assert!(!kills.explains_an_end());
        let nothing = Machine::new(&[("proc/vmstat", "nr_free_pages 5\n")]);
        assert!(!nothing.kills().explains_an_end());
    }
}
