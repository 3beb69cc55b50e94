//! One download from its beginning to its end, on a thread `download-n`.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::disk::check;
use super::speed::Speed;
use super::{Download, Shared, Stage};
use crate::limits::PROGRESS_INTERVAL;
use crate::models::layout::{BlobLock, Repository};
use crate::models::remote::{HubError, RemoteFile};
use crate::models::selection::Selection;
use crate::models::transfer::{self, Meter, TransferError};

/// How much of a download is here, which never falls.
struct Tally<'a> {
    download: &'a Download,
    total_bytes: u64,
    /// Of the files that are done.
    done_bytes: u64,
    /// Of those, what was not there before.
    came_bytes: u64,
    /// Of those, what is in the counts of all downloads.
    counted_bytes: u64,
    /// The most that was shown.
    shown_bytes: u64,
    speed: Speed,
}

impl Shared {
    pub(super) fn drive(&self, download: &Download) {
        let fetched = self.fetch_all(download);
        let mut written = BTreeSet::new();
        loop {
            let revisions = download.state().revisions.clone();
            let noted = fetched.and_then(|()| self.note(download, revisions.difference(&written)));
            let mut known = self.known();
            // Nobody else can ask for it by another name now.
            if noted.is_ok() && download.state().revisions != revisions {
                written = revisions;
                continue;
            }
            let end = noted.map_or_else(Stage::Failed, |()| Stage::Complete);
            return self.end(&mut known, download, end);
        }
    }

    /// Notes that these branches and tags are at the commit.
    fn note<'a>(
        &self,
        download: &Download,
        mut revisions: impl Iterator<Item = &'a String>,
    ) -> Result<(), TransferError> {
        let Selection { hub, commit, .. } = &*download.selection;
        let repository = Repository::new(&self.model_dir, hub);
        revisions.try_for_each(|revision| repository.write_ref(revision, commit)).map_err(disk)
    }

    fn fetch_all(&self, download: &Download) -> Result<(), TransferError> {
        let selection = &download.selection;
        let repository = Repository::new(&self.model_dir, &selection.hub);
        // It may have waited for hours.
        check(&self.model_dir, selection, std::iter::empty()).map_err(|_| TransferError::DiskFull)?;
        let mut tally = Tally {
            download,
            total_bytes: selection.bytes(),
            done_bytes: 0,
            came_bytes: 0,
            counted_bytes: 0,
            shown_bytes: 0,
            speed: Speed::default(),
        };
        // Linked once all are there, so that nobody takes a part of a model for a whole one.
        let mut locks = Vec::new();
        for (index, file) in selection.files.iter().enumerate() {
            locks.push(self.fetch_one(&repository, index, file, &mut tally)?);
        }
        let mut links = selection.files.iter();
        links.try_for_each(|file| repository.link(&selection.commit, &file.path, &file.digest)).map_err(disk)
    }

    /// Fetches a file, and shows how far it is meanwhile.
    fn fetch_one(
        &self,
        repository: &Repository,
        index: usize,
        file: &RemoteFile,
        tally: &mut Tally<'_>,
    ) -> Result<BlobLock, TransferError> {
        let Download { selection, cut, .. } = tally.download;
        if cut.is_cut() {
            return Err(TransferError::Hub(HubError::Cut));
        }
        let origin = self.hub.origin(&selection.hub, &selection.commit, cut);
        let meter = Meter::default();
        let lock = std::thread::scope(|scope| {
            let (ending, ended) = bounded::<()>(0);
            let fetch = || {
                let _ending = ending; // dropped at the end, however that comes
                transfer::fetch(&origin, repository, file, cut, &meter)
            };
            let thread = std::thread::Builder::new().name("transfer".to_owned()).spawn_scoped(scope, fetch);
            let thread = thread.map_err(disk)?;
            // At first only until what an earlier run left is counted.
            let mut wait = PROGRESS_INTERVAL / 10;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
                self.show(index, &meter, tally);
                wait = PROGRESS_INTERVAL;
            }
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        meter.bytes.store(file.bytes, Ordering::Relaxed);
        self.show(index, &meter, tally);
        tally.done_bytes += file.bytes;
        tally.came_bytes += meter.came.load(Ordering::Relaxed);
        Ok(lock)
    }

    fn show(&self, file: usize, meter: &Meter, tally: &mut Tally<'_>) {
        let now = Instant::now();
        let here = tally.done_bytes + meter.bytes.load(Ordering::Relaxed);
        let came = tally.came_bytes + meter.came.load(Ordering::Relaxed);
        self.counts.bytes.fetch_add(came.saturating_sub(tally.counted_bytes), Ordering::Relaxed);
        tally.counted_bytes = tally.counted_bytes.max(came);
        tally.shown_bytes = tally.shown_bytes.max(here).min(tally.total_bytes);
        let is_last = file + 1 == tally.download.selection.files.len();
        let stage = if is_last && meter.verifying.load(Ordering::Relaxed) {
            Stage::Verifying
        } else {
            Stage::Downloading {
                bytes: tally.shown_bytes,
                total_bytes: tally.total_bytes,
                bytes_per_second: tally.speed.at(came, now),
                file,
                attempt: meter.attempt.load(Ordering::Relaxed).max(1),
            }
        };
        let _known = self.known();
        if let Some(loud) = tally.download.show(stage, now) {
            self.watcher.changed(tally.download, loud);
        }
    }
}

fn disk(error: std::io::Error) -> TransferError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => TransferError::DiskFull,
        kind => TransferError::Disk(kind),
    }
}
