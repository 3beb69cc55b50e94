//! All who work on one file: up to eight lines, each with a connection, the hash that follows them, and the caller,
//! who decides how many lines there are and whether a failure is the end.
//!
//! What they share is under one lock, and nobody does anything slow while he holds it. A line that fails gives its
//! claim back to the others and is gone; the caller sends another one when the wait is over. A cut ends the
//! lines' reads, and the first of them ends the rest.

use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, Scope};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::partial::Partial;
use super::queue::Queue;
use super::ramp::{Ramp, Seen};
use super::retry::Retry;
use super::{Meter, TransferError, disk};
use crate::id::SystemEntropy;
use crate::limits::{
    CELL_BYTES, SMALL_FILE_BYTES, SYNC_BYTES, TRANSFER_CONNECTIONS_MAX, TRANSFER_FLUSH, UNSYNCED_BYTES_MAX,
};
use crate::models::remote::{HubError, Origin, RemoteFile};
use crate::net::Cut;

/// What a transfer needs.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub origin: &'a dyn Origin,
    pub file: &'a RemoteFile,
    pub cut: &'a Cut,
    pub meter: &'a Meter,
    /// The wait after the first failure.
    pub backoff_first: Duration,
    /// How many lines there are before it is known what they bring.
    pub lines_first: usize,
    /// How often the whole file was fetched before.
    pub refetches: u32,
}

/// The crew.
pub struct Crew<'a> {
    pub(super) task: Task<'a>,
    pub(super) partial: &'a Partial,
    state: Mutex<State>,
    /// There may be something to decide: the caller waits for it.
    changed: Condvar,
    /// There may be something to hash.
    grown: Condvar,
    /// The disk may have room for more.
    synced: Condvar,
}

struct State {
    queue: Queue,
    ramp: Ramp,
    retry: Retry,
    lines: [Line; TRANSFER_CONNECTIONS_MAX],
    knows_ranges: bool,
    /// Bytes that came.
    came: u64,
    /// What the processor worked for them.
    worked: Duration,
    /// How far the bytes without a gap are on the disk, or were when it began.
    synced_bytes: u64,
    /// Failures that counted.
    epoch: u32,
    /// No line is sent before.
    not_before: Instant,
    /// How much was hashed, while the hash waits for more.
    hash_waits: Option<u64>,
    ended: Option<TransferError>,
}

#[derive(Clone, Copy)]
struct Line {
    duty: Duty,
    /// When it last asked for something. A failure of an older epoch has been counted with another line's.
    epoch: u32,
    /// What of its work is counted.
    worked: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    Off,
    /// Nothing came yet.
    Opening,
    Flowing,
    /// Gets no claim any more.
    Leaving,
}

/// A line while its thread lives.
struct OnDuty<'a>(&'a Crew<'a>, usize);

impl<'a> Crew<'a> {
    /// A crew that fetches the `gaps` of `partial`.
    pub fn new(task: Task<'a>, partial: &'a Partial, gaps: Vec<Range<u64>>) -> Self {
        let now = Instant::now();
        let cores = thread::available_parallelism().map_or(1, Into::into);
        let queue = Queue::new(partial.cells(), gaps);
        task.meter.bytes.store(task.file.bytes - queue.left(), Relaxed);
        task.meter.attempt.store(1 + task.refetches, Relaxed);
        let synced_bytes = queue.frontier();
        let state = Mutex::new(State {
            queue,
            ramp: Ramp::new(now, task.lines_first, cores),
            retry: Retry::new(task.backoff_first),
            lines: [Line::off(); TRANSFER_CONNECTIONS_MAX],
            knows_ranges: true,
            came: 0,
            worked: Duration::ZERO,
            synced_bytes,
            epoch: 0,
            not_before: now,
            hash_waits: None,
            ended: None,
        });
        Self { task, partial, state, changed: Condvar::new(), grown: Condvar::new(), synced: Condvar::new() }
    }

    /// Fetches what is missing. Whether the file then is what it should be.
    ///
    /// # Errors
    /// If it cannot be fetched; what came of it is on the disk and in the record.
    pub fn run(&self) -> Result<bool, TransferError> {
        let agrees = if self.task.file.bytes < SMALL_FILE_BYTES {
            self.fetch_alone();
            self.follow()
        } else {
            thread::scope(|scope| {
                let hash = Builder::new().name("hash".into()).spawn_scoped(scope, || self.follow());
                let hash = hash.map_err(|error| self.end(disk(&error))).ok()?;
                self.lead(scope);
                hash.join().unwrap_or_else(|panic| resume_unwind(panic))
            })
        };
        agrees.ok_or_else(|| self.state().ended.expect("who stops the hash says why"))
    }

    /// Sends lines while something is missing, as many as the ramp says.
    fn lead<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut state = self.state();
        while !state.is_over() {
            let now = Instant::now();
            let before = state.wanted();
            let seen = state.seen();
            state.ramp.look(now, &seen);
            let wanted = state.wanted();
            if wanted > before {
                state.queue.share(wanted);
            }
            let is_short = state.working() < wanted && state.queue.has_gaps();
            let free = state.lines.iter().position(|line| line.duty == Duty::Off);
            if let Some(slot) = free.filter(|_| is_short && now >= state.not_before) {
                state.lines[slot].duty = Duty::Opening;
                state.lines[slot].epoch = state.epoch;
                let name = format!("transfer-{slot}");
                if let Err(error) = Builder::new().name(name).spawn_scoped(scope, move || self.line(slot)) {
                    self.failed(&mut state, slot, broken(&error));
                    state.lines[slot] = Line::off();
                }
            } else if state.lines.iter().all(|line| line.duty == Duty::Off) {
                drop(state);
                state = self.rest();
            } else {
                let backoff = Some(state.not_before).filter(|at| is_short && *at > now);
                let due = backoff.map_or(state.ramp.due(), |at| at.min(state.ramp.due()));
                let left = due.saturating_duration_since(now);
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        self.task.meter.verifying.store(state.ended.is_none(), Relaxed);
        self.grown.notify_one();
    }

    /// As [`Crew::lead`], with the caller as the only line.
    fn fetch_alone(&self) {
        let mut state = self.state();
        while !state.is_over() {
            drop(state);
            state = self.rest();
            if state.ended.is_none() {
                state.lines[0].duty = Duty::Opening;
                state.lines[0].epoch = state.epoch;
                drop(state);
                self.line(0);
                state = self.state();
            }
        }
        self.task.meter.verifying.store(state.ended.is_none(), Relaxed);
    }

    /// Nobody works: waits until somebody may again.
    fn rest(&self) -> MutexGuard<'_, State> {
        let left = self.state().not_before.saturating_duration_since(Instant::now());
        if self.task.cut.pause(left).is_err() {
            self.end(TransferError::Hub(HubError::Cut));
        }
        self.state()
    }

    /// Whoever drops it leaves nothing claimed and is missed by nobody.
    pub(super) fn on_duty(&self, slot: usize) -> impl Drop {
        OnDuty(self, slot)
    }

    /// The next bytes for `line`, and whether they are those that `stream` leads to, of which the rest is still to
    /// be read. `None` if there are none for it: it leaves.
    pub(super) fn claim(&self, slot: usize, stream: &Range<u64>) -> Option<(Range<u64>, bool)> {
        let state = &mut *self.state();
        let wanted = state.wanted();
        let may = !state.is_over() && state.working() <= wanted;
        let Some(mut claim) = may.then(|| state.queue.claim(slot, wanted)).flatten() else {
            state.lines[slot].duty = Duty::Leaving;
            return None;
        };
        state.lines[slot].epoch = state.epoch;
        let follows = stream.contains(&claim.start) && (claim.start == stream.start || !state.knows_ranges);
        if follows {
            state.queue.cut(slot, stream.end);
            claim.end = claim.end.min(stream.end);
        }
        Some((claim, follows))
    }

    /// The server knows no ranges. Whether this line goes on, for it is the only one.
    pub(super) fn goes_on_without_ranges(&self, slot: usize) -> bool {
        let mut state = self.state();
        state.knows_ranges = false;
        let alone = state.working() == 1;
        if !alone {
            state.lines[slot].duty = Duty::Leaving;
        }
        alone
    }

    /// So many bytes of the claim of a line are on the disk. What is left of it.
    ///
    /// # Errors
    /// If they are not wanted any more.
    pub(super) fn advance(&self, slot: usize, bytes: u64) -> Result<Option<Range<u64>>, TransferError> {
        let worked = thread_cpu();
        self.task.meter.bytes.fetch_add(bytes, Relaxed);
        self.task.meter.came.fetch_add(bytes, Relaxed);
        let mut guard = self.state();
        let state = &mut *guard;
        let left = state.queue.advance(slot, bytes);
        let line = &mut state.lines[slot];
        state.came += bytes;
        state.worked += worked.saturating_sub(line.worked);
        line.worked = worked;
        if line.duty == Duty::Opening && bytes > 0 {
            line.duty = Duty::Flowing;
            self.changed.notify_one();
        }
        if state.queue.is_done() {
            self.changed.notify_one();
        }
        let frontier = state.queue.frontier();
        let is_worth_it = |hashed| frontier >= hashed + CELL_BYTES || frontier == self.task.file.bytes;
        if state.hash_waits.take_if(|hashed| is_worth_it(*hashed)).is_some() {
            self.grown.notify_one();
        }
        // The disk is slower than the network: a sync of all that could not be stopped.
        while guard.queue.frontier() > guard.synced_bytes + UNSYNCED_BYTES_MAX {
            self.wanted(&guard)?;
            let waited = self.synced.wait_timeout(guard, TRANSFER_FLUSH);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.wanted(&guard).map(|()| left)
    }

    /// Whether anybody still wants the file.
    ///
    /// # Errors
    /// If not: why.
    pub(super) fn still_wanted(&self) -> Result<(), TransferError> {
        self.wanted(&self.state())
    }

    fn wanted(&self, state: &State) -> Result<(), TransferError> {
        let cut = self.task.cut.is_cut().then_some(TransferError::Hub(HubError::Cut));
        state.ended.or(cut).map_or(Ok(()), Err)
    }

    /// Brings to the disk what came since the last time, if it is enough. Called by who follows the lines.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn sync(&self) -> Result<(), TransferError> {
        let state = self.state();
        let frontier = state.queue.frontier();
        if frontier < state.synced_bytes + SYNC_BYTES {
            return Ok(());
        }
        drop(state);
        self.partial.sync().map_err(|error| disk(&error))?;
        self.state().synced_bytes = frontier;
        self.synced.notify_all();
        Ok(())
    }

    /// Waits for more bytes than the `hashed` ones, for which the processor `worked`: how far they go without a
    /// gap. `None` if it has ended.
    pub(super) fn more_to_hash(&self, hashed: u64, worked: Duration) -> Option<u64> {
        let mut state = self.state();
        state.worked += worked;
        loop {
            let frontier = state.queue.frontier();
            if state.ended.is_some() {
                return None;
            }
            if frontier >= hashed + CELL_BYTES || frontier == self.task.file.bytes {
                return Some(frontier);
            }
            state.hash_waits = Some(hashed);
            state = self.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the transfer, if nothing has.
    pub(super) fn end(&self, error: TransferError) {
        self.state().ended.get_or_insert(error);
        self.changed.notify_one();
        self.grown.notify_one();
    }

    /// A line is lost: whether the transfer goes on without it, waits, or ends.
    pub(super) fn lost(&self, slot: usize, error: TransferError) {
        self.failed(&mut self.state(), slot, error);
    }

    fn failed(&self, state: &mut State, slot: usize, error: TransferError) {
        let line = state.lines[slot];
        let others = state.working() - usize::from(line.works());
        let passing = match error {
            TransferError::Hub(hub) if hub.is_passing() && self.wanted(state).is_ok() => hub,
            _ => {
                let why = self.wanted(state).err().unwrap_or(error);
                state.ended.get_or_insert(why);
                return;
            }
        };
        let asked = match passing {
            HubError::Busy { retry_after, .. } => retry_after,
            _ => None,
        };
        if line.epoch == state.epoch {
            state.epoch += 1;
            let Some(wait) = state.retry.failed(state.came, asked, &mut SystemEntropy::new()) else {
                state.ended = Some(error);
                return;
            };
            state.not_before = Instant::now() + wait;
            self.task.meter.attempt.store(self.task.refetches + state.retry.attempt(), Relaxed);
        }
        if others == 0 {
            state.ramp.restart(state.not_before);
        } else if line.duty == Duty::Opening && matches!(passing, HubError::Busy { .. }) {
            state.ramp.limit(others);
        }
    }

    pub(super) fn frontier(&self) -> u64 {
        self.state().queue.frontier()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many lines there should be.
    fn wanted(&self) -> usize {
        if self.knows_ranges { self.ramp.lines() } else { 1 }
    }

    fn working(&self) -> usize {
        self.lines.iter().filter(|line| line.works()).count()
    }

    fn is_over(&self) -> bool {
        self.ended.is_some() || self.queue.is_done()
    }

    fn seen(&self) -> Seen {
        let flowing = self.lines.iter().filter(|line| line.duty == Duty::Flowing).count();
        Seen { came: self.came, left: self.queue.left(), flowing, worked: self.worked }
    }
}

impl Line {
    fn off() -> Self {
        Self { duty: Duty::Off, epoch: 0, worked: Duration::ZERO }
    }

    fn works(&self) -> bool {
        matches!(self.duty, Duty::Opening | Duty::Flowing)
    }
}

impl Drop for OnDuty<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.queue.give_back(self.1);
        state.lines[self.1] = Line::off();
        if thread::panicking() {
            state.ended.get_or_insert(TransferError::Disk(io::ErrorKind::Other));
        }
        drop(state);
        self.0.changed.notify_one();
        self.0.grown.notify_one();
    }
}

/// No descriptor or no thread to spare: may be better the next time.
pub(super) fn broken(error: &io::Error) -> TransferError {
    TransferError::Hub(HubError::Broken(error.kind()))
}

/// What the processor worked for this thread.
pub(super) fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
