//! Fetches models: one transfer however many ask for it.
//!
//! A download is known by its [`Selection`], so that all who ask for the same files share one. Each of the
//! threads `download-n` drives one at a time: the transfer runs in a thread below it, while it looks at how far
//! that is. Who wants to know looks at the [`Download`]: there is no queue of events that a slow reader could
//! fill, only the present state and its number.
//!
//! Invariants: a download ends exactly once, and each worker that waits for it is told; how much is here never
//! falls; what is told of one id is told in the order in which it happened, for all of it is told under one lock;
//! nobody waits for a thread here, except at the end of the hive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::hub::Hub;
use super::remote::HubError;
use super::selection::Selection;
use super::transfer::TransferError;
use crate::id::{DownloadId, WorkerId};
use crate::limits::{DOWNLOAD_KEEP, DOWNLOADS_AT_ONCE, DOWNLOADS_KEPT_MAX, DOWNLOADS_MAX};
use crate::net::Cut;
use crate::thread::Joined;

mod disk;
mod drive;
pub(crate) mod speed;

pub use disk::NoSpace;

/// Who is told. Called from the threads of downloads, and from whoever cancels one; must not block.
pub trait Watcher: Send + Sync + 'static {
    /// A download is further than it was. `loud`: its stage changed, or a second has passed since the last loud
    /// one.
    fn changed(&self, download: &Download, loud: bool);
    /// The end of what a worker waited for; the reason of a failure is for a person.
    fn fetched(&self, worker: WorkerId, download: &DownloadId, result: Result<(), String>);
}

/// All downloads of a hive. Cheap to clone.
#[derive(Clone)]
pub struct Downloads(Arc<Shared>);

struct Shared {
    model_dir: PathBuf,
    hub: Hub,
    watcher: Arc<dyn Watcher>,
    known: Mutex<Known>,
    /// There is something to drive, or never will be.
    changed: Condvar,
    counts: Counts,
}

/// What happened since the hive was started, without a lock.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes that came, those that had to be thrown away included.
    pub bytes: AtomicU64,
    /// Downloads that are there.
    pub complete: AtomicU64,
    /// Those that somebody ended.
    pub cancelled: AtomicU64,
    /// Those that failed.
    pub failed: AtomicU64,
}

#[derive(Default)]
struct Known {
    downloads: BTreeMap<DownloadId, Arc<Download>>,
    /// What is to be driven.
    queue: VecDeque<Arc<Download>>,
    /// The hive ends.
    is_stopped: bool,
}

/// Too many downloads are under way, or the hive ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// [`DOWNLOADS_MAX`] have not ended.
    TooMany,
    /// The hive ends.
    Ended,
}

/// A download, under way or over.
pub struct Download {
    id: DownloadId,
    selection: Arc<Selection>,
    cut: Cut,
    state: Mutex<State>,
}

struct State {
    /// Grows with each change, also from one download of these files to the next.
    number: u64,
    stage: Stage,
    /// Branches and tags that it was asked for by.
    revisions: BTreeSet<String>,
    /// Somebody asked for it by itself.
    is_wanted: bool,
    /// Workers that wait for it.
    workers: BTreeSet<WorkerId>,
    ended_at: Option<Instant>,
    loud_at: Option<Instant>,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Bytes come, or will when it is its turn.
    Downloading {
        /// Those that are here, of all files; never fewer than before.
        bytes: u64,
        /// All there will be.
        total_bytes: u64,
        /// How fast they come.
        bytes_per_second: f64,
        /// Which of its files is being fetched.
        file: usize,
        /// Which attempt at that, from 1.
        attempt: u32,
    },
    /// All bytes are here, and are being compared and brought to the disk.
    Verifying,
    /// It is there.
    Complete,
    /// It failed, or was cancelled. What is here stays for resuming.
    Failed(TransferError),
}

impl Stage {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Complete | Self::Failed(_))
    }
}

impl Downloads {
    /// Starts the threads `download-0` and so on. They end when [`Downloads::stop`] was called.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(
        model_dir: &Path,
        hub: Hub,
        watcher: Arc<dyn Watcher>,
    ) -> io::Result<(Vec<Joined>, Downloads)> {
        let model_dir = model_dir.to_owned();
        let (known, changed) = (Mutex::default(), Condvar::new());
        let downloads =
            Self(Arc::new(Shared { model_dir, hub, watcher, known, changed, counts: Counts::default() }));
        let start = |n| {
            let (shared, stopped) = (Arc::clone(&downloads.0), downloads.clone());
            let body = move || {
                while let Some(download) = shared.next() {
                    shared.drive(&download);
                }
            };
            Joined::spawn_vital(["download-0", "download-1"][n], move || stopped.stop(), body)
        };
        let threads = (0..DOWNLOADS_AT_ONCE).map(start).collect::<io::Result<_>>()?;
        Ok((threads, downloads))
    }

    /// Fetches `selection`, or shares what is fetching it already. Somebody asked for it by itself: it goes on
    /// until it ends or is cancelled.
    ///
    /// # Errors
    /// As [`Refused`] says.
    pub fn fetch(&self, selection: &Arc<Selection>) -> Result<Arc<Download>, Refused> {
        self.ask(selection, |state| state.is_wanted = true)
    }

    /// Fetches `selection` for `worker`, which is told of the end. Does not touch a disk.
    pub fn fetch_for(&self, worker: &WorkerId, selection: &Arc<Selection>) {
        if let Err(refused) = self.ask(selection, |state| {
            state.workers.insert(worker.clone());
        }) {
            let why = match refused {
                Refused::TooMany => "too many downloads are under way",
                Refused::Ended => "the hive is shutting down",
            };
            self.0.watcher.fetched(worker.clone(), &selection.id(), Err(why.to_owned()));
        }
    }

    /// `worker` does not wait any more. What nobody else wants is cancelled.
    pub fn forsake(&self, worker: &WorkerId, id: &DownloadId) {
        let mut known = self.0.known();
        let Some(download) = known.downloads.get(id).cloned() else { return };
        let mut state = download.state();
        state.workers.remove(worker);
        let is_unwanted = !state.is_wanted && state.workers.is_empty();
        drop(state);
        if is_unwanted {
            self.0.cancel(&mut known, &download);
        }
    }

    /// Ends a download; what is here of it stays for resuming. One that is over stays what it is. Gives whether
    /// it is known.
    pub fn cancel(&self, id: &DownloadId) -> bool {
        let mut known = self.0.known();
        known.forget();
        let Some(download) = known.downloads.get(id).cloned() else { return false };
        self.0.cancel(&mut known, &download);
        true
    }

    /// The download called `id`; also [`DOWNLOAD_KEEP`] after its end.
    pub fn get(&self, id: &DownloadId) -> Option<Arc<Download>> {
        let mut known = self.0.known();
        known.forget();
        known.downloads.get(id).cloned()
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Those that have not ended, by name.
    pub fn active(&self) -> Vec<Arc<Download>> {
        self.0.known().active().cloned().collect()
    }

    /// Whether something of the repository whose folder is called `folder` is being fetched.
    pub fn is_fetching(&self, folder: &str) -> bool {
        let known = self.0.known();
        known.active().any(|download| download.selection.hub.folder() == folder)
    }

    /// Whether the disk has room for `selection` beside what is being fetched already.
    ///
    /// # Errors
    /// If it has not.
    pub fn check_disk(&self, selection: &Selection) -> Result<(), NoSpace> {
        let id = selection.id();
        let active = self.active();
        let others = active.iter().filter(|download| download.id != id);
        disk::check(&self.0.model_dir, selection, others.map(|download| &*download.selection))
    }

    /// The hive ends: cancels all, takes no more. Does not wait.
    pub fn stop(&self) {
        let mut known = self.0.known();
        known.is_stopped = true;
        let all: Vec<Arc<Download>> = known.active().cloned().collect();
        for download in &all {
            self.0.cancel(&mut known, download);
        }
        self.0.changed.notify_all();
    }

    fn ask(
        &self,
        selection: &Arc<Selection>,
        note: impl FnOnce(&mut State),
    ) -> Result<Arc<Download>, Refused> {
        let id = selection.id();
        let revision = selection.hub.revision().to_owned();
        let mut known = self.0.known();
        known.forget();
        if known.is_stopped {
            return Err(Refused::Ended);
        }
        let before = known.downloads.get(&id).cloned();
        if let Some(download) = &before {
            let mut state = download.state();
            if state.ended_at.is_none() {
                note(&mut state);
                state.revisions.insert(revision);
                drop(state);
                return Ok(Arc::clone(download));
            }
        }
        if known.active().count() >= DOWNLOADS_MAX {
            return Err(Refused::TooMany);
        }
        let number = before.map_or(1, |before| before.now().0 + 1);
        let download = Arc::new(Download::new(id.clone(), Arc::clone(selection), number));
        note(&mut download.state());
        download.state().revisions.insert(revision);
        known.downloads.insert(id, Arc::clone(&download));
        known.queue.push_back(Arc::clone(&download));
        self.0.watcher.changed(&download, true);
        self.0.changed.notify_one();
        drop(known);
        let Selection { files, commit, .. } = &**selection;
        let (id, count, bytes) = (&download.id, files.len(), selection.bytes());
        info!(
            "download begins download={id} repository={} commit={commit} files={count} bytes={bytes}",
            selection.hub.folder()
        );
        Ok(download)
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next download to drive; none once the hive ends.
    fn next(&self) -> Option<Arc<Download>> {
        let mut known = self.known();
        loop {
            if known.is_stopped {
                return None;
            }
            if let Some(download) = known.queue.pop_front() {
                return Some(download);
            }
            known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a download at once, unless it is over. Its threads follow, and hold its locks until then.
    fn cancel(&self, known: &mut Known, download: &Arc<Download>) {
        known.queue.retain(|waiting| !Arc::ptr_eq(waiting, download));
        self.end(known, download, Stage::Failed(TransferError::Hub(HubError::Cut)));
        download.cut.cut();
    }

    /// Ends a download, unless it is over.
    fn end(&self, _known: &mut Known, download: &Download, stage: Stage) {
        debug_assert!(stage.is_last(), "an end is the last stage");
        let mut state = download.state();
        if state.ended_at.is_some() {
            return;
        }
        state.ended_at = Some(Instant::now());
        state.number += 1;
        state.stage = stage.clone();
        let workers = std::mem::take(&mut state.workers);
        drop(state);
        let id = &download.id;
        let counts = &self.counts;
        let count = match &stage {
            Stage::Failed(TransferError::Hub(HubError::Cut)) => &counts.cancelled,
            Stage::Failed(_) => &counts.failed,
            _ => &counts.complete,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match &stage {
            Stage::Failed(TransferError::Hub(HubError::Cut)) => info!("download cancelled download={id}"),
            Stage::Failed(why) => warn!("download failed download={id} why={why:?}"),
            _ => info!("download complete download={id}"),
        }
        self.watcher.changed(download, true);
        for worker in workers {
            let result = match &stage {
                Stage::Failed(why) => Err(why.to_string()),
                _ => Ok(()),
            };
            self.watcher.fetched(worker, id, result);
        }
    }
}

impl Known {
    fn active(&self) -> impl Iterator<Item = &Arc<Download>> {
        self.downloads.values().filter(|download| download.state().ended_at.is_none())
    }

    /// Forgets what ended long ago, and the oldest of what there is too much of.
    fn forget(&mut self) {
        let ended = |download: &Download| download.state().ended_at;
        self.downloads.retain(|_, download| ended(download).is_none_or(|at| at.elapsed() < DOWNLOAD_KEEP));
        while self.downloads.len() > DOWNLOADS_KEPT_MAX {
            let over = self.downloads.values().filter_map(|download| Some((ended(download)?, &download.id)));
            let Some((_, oldest)) = over.min() else { return };
            let oldest = oldest.clone();
            self.downloads.remove(&oldest);
        }
    }
}

impl Download {
    fn new(id: DownloadId, selection: Arc<Selection>, number: u64) -> Self {
        let stage = Stage::Downloading {
            bytes: 0,
            total_bytes: selection.bytes(),
            bytes_per_second: 0.0,
            file: 0,
            attempt: 1,
        };
        let state = State {
            number,
            stage,
            revisions: BTreeSet::new(),
            is_wanted: false,
            workers: BTreeSet::new(),
            ended_at: None,
            loud_at: None,
        };
        Self { id, selection, cut: Cut::default(), state: Mutex::new(state) }
    }

    /// Its name.
    pub fn id(&self) -> &DownloadId {
        &self.id
    }

    /// What it fetches.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// How far it is, and the number of that state.
    pub fn now(&self) -> (u64, Stage) {
        let state = self.state();
        (state.number, state.stage.clone())
    }

    /// Shows how far it is; gives whether that is to be told loudly, and nothing if it is as it was.
    fn show(&self, stage: Stage, now: Instant) -> Option<bool> {
        const LOUD: Duration = Duration::from_secs(1);
        let mut state = self.state();
        if state.ended_at.is_some() || state.stage == stage {
            return None;
        }
        let is_same_stage = std::mem::discriminant(&state.stage) == std::mem::discriminant(&stage);
        let loud = !is_same_stage || state.loud_at.is_none_or(|at| now.duration_since(at) >= LOUD);
        if loud {
            state.loud_at = Some(now);
        }
        state.number += 1;
        state.stage = stage;
        Some(loud)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
