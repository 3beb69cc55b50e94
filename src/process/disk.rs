//! Whether the data directory is there, can be written, and has room.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::health::{Condition, Conditions, plain};
use crate::limits;

/// The data directory, as the thread `log-keep` looks at it.
pub(super) struct DataDir {
    path: PathBuf,
    conditions: Conditions,
    looked_at: Option<Instant>,
    /// How often it could not be written, by the last look.
    failures: u64,
}

impl DataDir {
    pub fn new(path: PathBuf, conditions: Conditions) -> Self {
        Self { path, conditions, looked_at: None, failures: 0 }
    }

    /// When to look again: only while something is wrong.
    pub fn next_look(&self) -> Option<Instant> {
        let wrong = [Condition::DataDir, Condition::DataDirGone, Condition::DiskNearlyFull];
        let again = wrong.into_iter().any(|condition| self.conditions.has(condition));
        self.looked_at.filter(|_| again).map(|at| at + limits::DISK_RETRY)
    }

    pub fn look(&mut self, now: Instant) {
        self.looked_at = Some(now);
        let conditions = &self.conditions;
        let disk = match statvfs(&self.path) {
            Err(rustix::io::Errno::NOENT) => return conditions.set(Condition::DataDirGone, ""),
            Err(e) => return conditions.failed(Condition::DataDir, &e.into()),
            Ok(disk) => disk,
        };
        conditions.clear(Condition::DataDirGone);
        let [left, all] = [disk.f_bavail, disk.f_blocks].map(|blocks| blocks.saturating_mul(disk.f_frsize));
        let mut least = limits::DISK_NEARLY_FULL_BYTES.min(all / 100 * limits::DISK_NEARLY_FULL_PERCENT);
        if conditions.has(Condition::DiskNearlyFull) {
            least += least / 4; // so that what comes and goes is one story
        }
        let detail = format!("{} MiB are left", left >> 20);
        conditions.judge(Condition::DiskNearlyFull, left < least, &detail);
        if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let detail = plain(&rustix::io::Errno::ROFS.into());
            conditions.set(Condition::DataDir, &detail);
            return;
        }
        let failures = conditions.count(Condition::DataDir);
        // Somebody could not write: that it is over is known by writing, and only if nobody else failed meanwhile.
        if failures > 0 {
            match self.try_to_write() {
                Ok(()) if failures == self.failures => conditions.clear(Condition::DataDir),
                Ok(()) => {}
                Err(e) => conditions.failed(Condition::DataDir, &e),
            }
        }
        self.failures = failures;
    }

    /// Makes a file as long as a log's line or a record, and removes it.
    fn try_to_write(&self) -> io::Result<()> {
        let path = self.path.join(".try");
        let written = fs::File::create(&path).and_then(|mut file| file.write_all(&[b'\n'; 4096]));
        // It is there if it could be made.
        let removed = fs::remove_file(&path);
        written.and(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_gone_or_could_not_be_written_is_well_again_when_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let conditions = Conditions::new().unwrap();
        let mut disk = DataDir::new(folder.path().join("data"), conditions.clone());
        let codes = || conditions.reasons().into_iter().map(|reason| reason.code).collect::<Vec<_>>();
        disk.look(Instant::now());
        assert_eq!(codes(), ["data_dir_gone"]);
        assert!(disk.next_look().is_some());
        conditions.failed(Condition::DataDir, &rustix::io::Errno::IO.into());
        fs::create_dir_all(&disk.path).unwrap();
        fs::create_dir(disk.path.join(".try")).unwrap(); // in the way
        disk.look(Instant::now());
        let told = conditions.reasons().remove(0);
        assert_eq!((told.code.as_str(), told.count), ("data_dir", 2));
        fs::remove_dir(disk.path.join(".try")).unwrap();
        disk.look(Instant::now());
        assert!(codes().contains(&"data_dir".to_owned()), "somebody failed since the look before");
        disk.look(Instant::now());
        assert!(!codes().contains(&"data_dir".to_owned()));
        assert_eq!(fs::read_dir(&disk.path).unwrap().count(), 0);
    }
}
