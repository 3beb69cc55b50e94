//! What is wrong with the hive itself at present: why `/health` says `degraded`.
//!
//! Whoever meets a condition sets it, as often as it is met, and clears it once it is mended. Only beginning and
//! end are logged, so that a fault that lasts floods no log. There are as many as [`Condition`] has variants.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use log::{info, warn};

use crate::api::HealthReason;
use crate::capacity::ledger::Rules;
use crate::clock::rfc3339;
use crate::devices::{Driver, Gpu, Picture};
use crate::sys::Bell;

/// Something that an operator should look at, while the hive goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Logs or records cannot be written.
    DataDir,
    /// There is no data directory any more.
    DataDirGone,
    /// Logs and records will soon find no room.
    DiskNearlyFull,
    /// The figures of the GPUs are old.
    DevicesStale,
    /// A GPU cannot be used any more.
    GpuLost,
    /// It is not known who uses the GPUs.
    GpuUsersUnknown,
    /// Nobody hears of the workers.
    QueenUnreachable,
    /// What an earlier hive wrote down of some worker could not be read.
    RecordsSetAside,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::DataDir,
        Self::DataDirGone,
        Self::DiskNearlyFull,
        Self::DevicesStale,
        Self::GpuLost,
        Self::GpuUsersUnknown,
        Self::QueenUnreachable,
        Self::RecordsSetAside,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DataDir => "data_dir",
            Self::DataDirGone => "data_dir_gone",
            Self::DiskNearlyFull => "disk_nearly_full",
            Self::DevicesStale => "devices_stale",
            Self::GpuLost => "gpu_lost",
            Self::GpuUsersUnknown => "gpu_users_unknown",
            Self::QueenUnreachable => "queen_unreachable",
            Self::RecordsSetAside => "records_set_aside",
        }
    }

    /// For a person; details may follow.
    fn text(self) -> &'static str {
        match self {
            Self::DataDir => "the data directory cannot be written",
            Self::DataDirGone => "the data directory is gone; the next launch makes it anew",
            Self::DiskNearlyFull => "the disk of the data directory is nearly full",
            Self::DevicesStale => "the driver of the GPUs does not answer; its last figures stand",
            Self::GpuLost => "a GPU has fallen off the bus, or its driver says so",
            Self::GpuUsersUnknown => {
                "the driver names no process that is seen from here, as in a container without the host's process \
                 ids: a worker counts as having taken what it was promised"
            }
            Self::QueenUnreachable => "the queen does not take heartbeats",
            Self::RecordsSetAside => {
                "at the start, records of workers were torn or not ours; they were set aside, and what ran for them killed"
            }
        }
    }
}

/// The conditions of one hive. Cheap to clone; nothing here blocks.
#[derive(Debug, Clone)]
pub struct Conditions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    standing: Mutex<BTreeMap<Condition, Standing>>,
    begun: Bell,
}

#[derive(Debug)]
struct Standing {
    detail: String,
    since: SystemTime,
    began: Instant,
    count: u64,
}

impl Conditions {
    /// All is well.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared { standing: Mutex::default(), begun: Bell::new()? })))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Condition, Standing>> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was met. `detail`: what a person needs beyond its text, without paths; may be empty.
    pub fn set(&self, condition: Condition, detail: &str) {
        let mut standing = self.lock();
        if let Some(known) = standing.get_mut(&condition) {
            known.count = known.count.saturating_add(1);
            detail.clone_into(&mut known.detail);
            return;
        }
        let (since, began) = (SystemTime::now(), Instant::now());
        standing.insert(condition, Standing { detail: detail.to_owned(), since, began, count: 1 });
        drop(standing);
        warn!("degraded code={} detail={detail:?}", condition.as_str());
        self.0.begun.ring();
    }

    /// It was met as this error.
    pub fn failed(&self, condition: Condition, error: &io::Error) {
        self.set(condition, &plain(error));
    }

    /// It is mended, or was never there.
    pub fn clear(&self, condition: Condition) {
        if let Some(Standing { began, count, .. }) = self.lock().remove(&condition) {
            let ms = began.elapsed().as_millis();
            info!("not degraded any more code={} after_ms={ms} count={count}", condition.as_str());
        }
    }

    /// Sets it or clears it.
    pub fn judge(&self, condition: Condition, is_met: bool, detail: &str) {
        if is_met {
            self.set(condition, detail);
        } else {
            self.clear(condition);
        }
    }

    /// Takes what is wrong with the devices that the hive offers. `uses_gpu`: some worker computes on one.
    pub fn judge_devices(&self, devices: &Picture, rules: &Rules, uses_gpu: bool) {
        let gpus = || devices.gpus.iter().filter(|gpu| !rules.hides(gpu.device));
        // A driver that never says who uses its GPUs (AMD's) is nothing to look at.
        let is_unknown = |gpu: &Gpu| !gpu.lost && !gpu.knows_users && gpu.driver != Driver::Sysfs;
        self.judge(Condition::DevicesStale, devices.stale_for(Instant::now()).is_some(), "");
        self.judge(Condition::GpuLost, gpus().any(|gpu| gpu.lost), "");
        self.judge(Condition::GpuUsersUnknown, uses_gpu && gpus().any(is_unknown), "");
    }

    /// How often it was met since it began; 0: it is not there.
    pub fn count(&self, condition: Condition) -> u64 {
        self.lock().get(&condition).map_or(0, |standing| standing.count)
    }

    /// Whether it was met and is not mended.
    pub fn has(&self, condition: Condition) -> bool {
        self.lock().contains_key(&condition)
    }

    /// All of them, as `/health` tells them.
    pub fn reasons(&self) -> Vec<HealthReason> {
        let standing = self.lock();
        let reason = |(condition, standing): (&Condition, &Standing)| {
            let colon = if standing.detail.is_empty() { "" } else { ": " };
            HealthReason {
                code: condition.as_str().to_owned(),
                message: format!("{}{colon}{}", condition.text(), standing.detail),
                since: rfc3339(standing.since),
                count: standing.count,
            }
        };
        standing.iter().map(reason).collect()
    }

    /// Forgets that conditions began; see [`AsFd`].
    pub fn silence(&self) {
        self.0.begun.silence();
    }
}

/// Readable from the beginning of a condition to [`Conditions::silence`], for the one thread that looks whether
/// the disk is well again.
impl AsFd for Conditions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.begun.as_fd()
    }
}

/// An error in the system's words, for a person, without paths: `no space left on device`.
pub fn plain(error: &io::Error) -> String {
    let text = if error.raw_os_error().is_some() { error.to_string() } else { error.kind().to_string() };
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_stands_once_from_its_first_meeting_until_it_is_mended() {
        let conditions = Conditions::new().unwrap();
        assert_eq!(conditions.reasons(), []);
        conditions.set(Condition::GpuLost, "");
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        conditions.failed(Condition::DataDir, &full);
        let since = conditions.reasons()[0].since.clone();
        conditions.failed(Condition::DataDir, &io::Error::from(io::ErrorKind::PermissionDenied));
        let reasons = conditions.reasons();
        assert_eq!(reasons.len(), 2);
        assert_eq!((reasons[0].code.as_str(), reasons[0].count, &reasons[0].since), ("data_dir", 2, &since));
        assert_eq!(reasons[0].message, "the data directory cannot be written: permission denied");
        conditions.clear(Condition::DataDir);
        conditions.clear(Condition::DataDir);
        assert!(conditions.has(Condition::GpuLost) && !conditions.has(Condition::DataDir));
    }

    #[test]
    fn an_error_of_the_system_is_told_in_its_words() {
        let text = |errno: rustix::io::Errno| plain(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(text(rustix::io::Errno::NOSPC), "no space left on device");
        assert_eq!(text(rustix::io::Errno::ROFS), "read-only file system");
        assert_eq!(plain(&io::Error::other("/a/path")), "other error");
    }
}
