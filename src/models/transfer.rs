//! Fetches one file of the hub into the cache.
//!
//! ```text
//!  origin ── line ──┐ pwrite                      ┌── hash: reads behind the frontier, in file order
//!  origin ── line ──┼────────▶ <etag>.incomplete ─┤      (with several lines <etag>.parallel.incomplete)
//!  origin ── line ──┘ then     <etag>.incomplete.parts   which bytes are there
//!                                   │ all there, hash agrees: fsync, rename, fsync of the folder
//!                                   ▼
//!                              <etag>
//! ```
//! [`crew`] is who works on it, [`line`] a connection's loop, [`hash`] what follows them; [`queue`], [`ramp`] and
//! [`retry`] decide and do nothing; [`partial`] and [`record`] are what lies on the disk.
//!
//! Invariants: the blob's name is only ever given to bytes that were hashed from the file itself and brought to
//! the disk. A kill at any moment leaves the whole blob or what the next run resumes; lost are at most the bytes
//! that the lines had in their hands, a buffer each.

mod crew;
mod hash;
mod line;
mod partial;
mod queue;
mod ramp;
pub(crate) mod record;
pub(crate) mod retry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Instant;

use log::info;

use super::layout::{BlobLock, Repository};
use super::remote::{HubError, Origin, RemoteFile};
use crate::limits::{
    BLOB_LOCK_IDLE_MAX, BLOB_LOCK_LOOK, BLOB_LOCK_TELL, CORRUPT_REFETCHES, TRANSFER_BACKOFF_FIRST,
};
use crate::net::{Cut, WasCut};
use crew::{Crew, Task};
use partial::Partial;

/// How far a transfer is; read by others while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of the file that are on the disk, those of an earlier run included. Falls if they have to be
    /// fetched anew.
    pub bytes: AtomicU64,
    /// Bytes that came in this transfer, those that had to be thrown away included.
    pub came: AtomicU64,
    /// Which attempt this is, from 1.
    pub attempt: AtomicU32,
    /// All bytes are here; they are being compared and brought to the disk.
    pub verifying: AtomicBool,
}

/// Why a file was not fetched. What is here of it stays for resuming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferError {
    /// The hub does not give it; of what may pass, the last of all attempts.
    Hub(HubError),
    /// The bytes are not those that the hub says they are, however often they are fetched. They are removed.
    Corrupt,
    /// Somebody else has the file's lock, and does not go on.
    Locked,
    /// The disk is full.
    DiskFull,
    /// The disk fails.
    Disk(ErrorKind),
}

/// Fetches `file` from `origin`: after it, [`Repository::blob`] is whole, verified and on the disk. One that is there
/// already, with the right length, is not looked at closer. As long as its lock is kept, nobody deletes it: whoever
/// links it does that before.
///
/// Waits for whoever else fetches it, here or with `huggingface_hub`. What an earlier run left is resumed, whatever
/// ended it. All threads have ended when it returns, which is within a second of `cut`.
///
/// # Errors
/// [`TransferError`]; after [`TransferError::Corrupt`] nothing is left of the file, else all that came.
pub(crate) fn fetch(
    origin: &dyn Origin,
    repository: &Repository,
    file: &RemoteFile,
    cut: &Cut,
    meter: &Meter,
) -> Result<BlobLock, TransferError> {
    let backoff_first = TRANSFER_BACKOFF_FIRST;
    let task = Task { origin, file, cut, meter, backoff_first, lines_first: 1, refetches: 0 };
    carry_out(task, repository)
}

fn carry_out(mut task: Task<'_>, repository: &Repository) -> Result<BlobLock, TransferError> {
    let Task { file, meter, .. } = task;
    let failed = |error: io::Error| disk(&error);
    let blob = repository.blob(&file.digest);
    let lock = wait_for_lock(task, repository)?;
    repository.make().map_err(failed)?;
    if fs::metadata(&blob).is_ok_and(|there| there.is_file() && there.len() == file.bytes) {
        meter.bytes.store(file.bytes, Relaxed);
        // Of a run that was killed right after it was done, or of one that another program overtook.
        return Partial::discard(repository, file).map_err(failed).map(|()| lock);
    }
    loop {
        let (partial, gaps) = Partial::open(repository, file).map_err(failed)?;
        if Crew::new(task, &partial, gaps).run()? {
            return partial.keep(&blob).map_err(failed).map(|()| lock);
        }
        drop(partial);
        Partial::discard(repository, file).map_err(failed)?;
        meter.verifying.store(false, Relaxed);
        meter.bytes.store(0, Relaxed);
        if task.refetches == CORRUPT_REFETCHES {
            return Err(TransferError::Corrupt);
        }
        task.refetches += 1;
    }
}

/// Waits as long as whoever has the lock goes on.
fn wait_for_lock(task: Task<'_>, repository: &Repository) -> Result<BlobLock, TransferError> {
    let blob = task.file.digest.to_string();
    let began = Instant::now();
    let (mut looked, mut moved, mut there, mut told) = (began, began, 0, false);
    loop {
        if let Some(lock) = repository.try_lock(&blob).map_err(|error| disk(&error))? {
            return Ok(lock);
        }
        task.cut.pause(BLOB_LOCK_LOOK).map_err(|WasCut| TransferError::Hub(HubError::Cut))?;
        let now = Instant::now();
        if now.duration_since(looked) < BLOB_LOCK_TELL {
            continue;
        }
        looked = now;
        if !std::mem::replace(&mut told, true) {
            info!("waiting for whoever else fetches a file blob={blob}");
        }
        let bytes = repository.partial_disk_bytes(&blob);
        if bytes != there {
            (there, moved) = (bytes, now);
        } else if now.duration_since(moved) >= BLOB_LOCK_IDLE_MAX {
            return Err(TransferError::Locked);
        }
    }
}

fn disk(error: &io::Error) -> TransferError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => TransferError::DiskFull,
        kind => TransferError::Disk(kind),
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(error) => error.fmt(f),
            Self::Corrupt => f.write_str("the bytes that came are not those that the hub says it has"),
            Self::Locked => {
                f.write_str("another program has the lock of a file of the model, and does not go on with it")
            }
            Self::DiskFull => f.write_str("the disk is full; what was fetched is kept for resuming"),
            Self::Disk(kind) => write!(f, "the model cache cannot be written: {kind}"),
        }
    }
}

impl std::error::Error for TransferError {}
