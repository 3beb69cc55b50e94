//! What was asked, for who wants to know or to wait for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The hub itself.
    Hub,
    /// Where it keeps large files.
    Cdn,
}

/// A request, and what became of it so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it came to.
    pub side: Side,
    /// As sent.
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    /// The header `Range`, as sent.
    pub range: Option<String>,
    /// Whether it carried a token, a right one or not.
    pub with_token: bool,
    /// What it was answered with; 0 if it was not answered.
    pub status: u16,
    /// Bytes of the answer's body that went out.
    pub sent: u64,
    /// Whether nothing more comes.
    pub ended: bool,
}

impl fmt::Display for Seen {
    /// One line; what came from outside is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Hub => "hub",
            Side::Cdn => "cdn",
        };
        write!(f, "{side} {:?} {:?} status={} sent={}", self.method, self.path, self.status, self.sent)?;
        if let Some(range) = &self.range {
            write!(f, " range={range:?}")?;
        }
        write!(f, " token={}", if self.with_token { "yes" } else { "no" })
    }
}

/// The requests of a hub.
#[derive(Debug, Default)]
pub(super) struct Log {
    kept: Mutex<Kept>,
    changed: Condvar,
    cdn_saw_token: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of the first.
    first: usize,
    seen: VecDeque<Seen>,
}

/// Stands for a request in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number(usize);

impl Log {
    pub(super) fn begin(&self, seen: Seen) -> Number {
        if seen.side == Side::Cdn && seen.with_token {
            self.cdn_saw_token.store(true, Ordering::Relaxed);
        }
        let mut kept = self.lock();
        if kept.seen.len() == limits::MOCK_HUB_REQUESTS_KEPT {
            kept.seen.pop_front();
            kept.first += 1;
        }
        kept.seen.push_back(seen);
        self.changed.notify_all();
        Number(kept.first + kept.seen.len() - 1)
    }

    pub(super) fn sent(&self, number: Number, bytes: u64) {
        self.change(number, |seen| seen.sent += bytes);
    }

    /// The request as it ended, unless it was forgotten.
    pub(super) fn end(&self, number: Number) -> Option<Seen> {
        self.change(number, |seen| {
            seen.ended = true;
            seen.clone()
        })
    }

    fn change<T>(&self, number: Number, change: impl FnOnce(&mut Seen) -> T) -> Option<T> {
        let mut kept = self.lock();
        let at = number.0.checked_sub(kept.first)?;
        let changed = change(kept.seen.get_mut(at)?);
        self.changed.notify_all();
        Some(changed)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.iter().cloned().collect()
    }

    pub(super) fn forget(&self) {
        let mut kept = self.lock();
        while kept.seen.front().is_some_and(|seen| seen.ended) {
            kept.seen.pop_front();
            kept.first += 1;
        }
    }

    pub(super) fn wait_for(&self, timeout: Duration, mut wanted: impl FnMut(&[Seen]) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut kept = self.lock();
        loop {
            if wanted(kept.seen.make_contiguous()) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            kept = self.changed.wait_timeout(kept, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn cdn_saw_token(&self) -> bool {
        self.cdn_saw_token.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
