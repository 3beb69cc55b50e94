//! What a daemon asks of the kernel once, when it starts, and the eventfd that wakes a thread which polls.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use log::warn;
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::FdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Wakes a thread that waits in poll or epoll: readable from a ring to the next [`Bell::silence`].
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable. Never blocks.
    pub fn ring(&self) {
        // The one possible error, a counter that is full, leaves it readable: what was wanted.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable until the next ring.
    pub fn silence(&self) {
        // An error says that it did not ring.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `wait` as poll and epoll take it, rounded up to the next microsecond so that nobody wakes too early.
pub fn timespec(wait: Duration) -> Timespec {
    let wait = wait + Duration::from_micros(1);
    Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    }
}

/// Raises how many descriptors this process may have to `wanted`, or to what it may at most, and gives the
/// limit as it was.
///
/// The usual soft limit, 1024, is there for programs that call `select`; this one does not.
pub fn allow_descriptors(wanted: usize) -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let wanted = wanted as u64;
    let allowed = before.maximum.map_or(wanted, |most| most.min(wanted));
    if allowed < wanted {
        warn!("descriptors may run out: the hard limit is low limit={allowed} wanted={wanted}");
    }
    if before.current.is_some_and(|current| current < allowed)
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), ..before })
    {
        warn!("the limit of descriptors cannot be raised wanted={wanted} error={e}");
    }
    before
}

/// How many of the `wanted` connections there may be: half of the descriptors that are free are for everything else.
pub fn connections_within_limits(wanted: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return wanted };
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let free = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(open);
    let possible = (free / 2).max(1);
    if possible < wanted {
        warn!(
            "fewer connections than wanted: the limit of descriptors is low connections={possible} wanted={wanted}"
        );
    }
    wanted.min(possible)
}

/// Makes orphaned descendants children of this process instead of init's, so that it can reap them.
///
/// # Errors
/// If the kernel refuses, which it does not since Linux 3.4.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Makes dead children wait for being reaped even if whoever started this process ignored SIGCHLD:
/// without it their exit status is lost, and their process group's number is free at once.
///
/// # Errors
/// If `/proc` cannot be read, or no handler can be installed.
pub fn keep_dead_children() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if ignored & 1 << (signal_hook::consts::SIGCHLD - 1) != 0 {
        signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Marks every inherited descriptor but stdin, stdout and stderr close-on-exec, so that no worker gets
/// what the hive's parent left open. To be called first in `main`, before there are other threads.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn close_inherited_on_exec() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|fd| *fd > 2) else {
            continue;
        };
        // JUSTIFICATION: a descriptor that this process did not open has no safe owner to borrow it from,
        // and rustix does not offer close_range.
        // SAFETY: the descriptor was listed a moment ago and no other thread closes any; the borrow ends
        // with this call, which changes one flag and neither closes nor reads anything. The listing's own
        // descriptor, which is open as long as the loop, is marked already.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// The GPU instance id of a MIG device; `None` if the driver does not tell.
#[cfg(not(target_env = "musl"))]
pub fn mig_instance_id(nvml: &nvml_wrapper::Nvml, device: &nvml_wrapper::Device<'_>) -> Option<u32> {
    let function = nvml.lib().nvmlDeviceGetGpuInstanceId.as_ref().ok()?;
    let mut id = 0;
    // JUSTIFICATION: nvml-wrapper finds MIG devices and has no call for their ids, by which they are named.
    // SAFETY: the function is that of the library which made the handle; both live as long as the borrows,
    // and it writes one number to where the pointer leads.
    let code = unsafe { function(device.handle(), &raw mut id) };
    (code == 0).then_some(id)
}
