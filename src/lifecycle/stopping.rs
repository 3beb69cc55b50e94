//! A worker on its way out: asked, terminated, killed, and gone when nothing of its group is left.

use std::time::{Duration, Instant};

use crate::id::Pgid;
use crate::limits::LOG_TAIL_WAIT;

use super::event::{ExitStatus, Signal};
use super::state::{Effects, End, Process, StopReason, Worker};

/// On its way out, for good.
#[derive(Debug)]
pub struct Stopping {
    /// `None` if it was given up after an end of its own.
    pub(super) why: Option<StopReason>,
    pub(super) process: Process,
    pub(super) stage: Stage,
    pub(super) kill_at: Instant,
    /// The end waits so long for the last lines of the log.
    pub(super) tail_by: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// `POST /v1/shutdown` is under way; SIGTERM at this time.
    Asked(Instant),
    /// It had its SIGTERM, or has no process that could.
    Termed,
    /// It had its SIGKILL.
    Killed,
}

impl Worker<Stopping> {
    /// The news that the process runs came after the wish to stop it.
    pub(super) fn launched(&mut self, pgid: Pgid, now: Instant, out: &mut Effects) {
        if self.state.process != Process::Starting {
            return;
        }
        self.facts.started_at = Some(now);
        self.state.process = Process::Alive(pgid);
        let killed = self.state.kill_at <= now;
        self.state.stage = if killed { Stage::Killed } else { Stage::Termed };
        out.push(self.facts.signal(if killed { Signal::Kill } else { Signal::Term }));
    }

    /// There will be no process.
    pub(super) fn launch_failed(&mut self) {
        if self.state.process == Process::Starting {
            self.state.process = Process::Dead;
        }
    }

    /// The grace is over at `by`, if it was not before.
    pub(super) fn hurry(&mut self, by: Instant) {
        self.state.kill_at = self.state.kill_at.min(by);
    }

    /// `POST /v1/shutdown` failed: SIGTERM now, instead of after a third of the grace.
    pub(super) fn refused(&mut self, out: &mut Effects) {
        if let (Stage::Asked(_), Process::Alive(_)) = (self.state.stage, self.state.process) {
            self.state.stage = Stage::Termed;
            out.push(self.facts.signal(Signal::Term));
        }
    }

    /// The leader has ended.
    pub(super) fn exited(&mut self, status: ExitStatus, now: Instant, out: &mut Effects) {
        if let (Process::Alive(_) | Process::Starting, Some(why)) = (self.state.process, self.state.why) {
            self.state.process = Process::Dying;
            self.state.tail_by = Some(now + LOG_TAIL_WAIT);
            self.facts.end =
                Some(End { status: Some(status), reason: why.into(), message: None, log: Vec::new() });
            out.push(self.facts.read_log_tail());
        }
    }

    /// The last process of the group is gone.
    pub(super) fn group_dead(&mut self) {
        if self.state.process == Process::Dying {
            self.state.process = Process::Dead;
        }
    }

    /// The last lines of the log are here.
    pub(super) fn tail_read(&mut self) {
        self.state.tail_by = None;
    }

    /// Fires what is due.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Effects) {
        if self.state.tail_by.is_some_and(|at| at <= now) {
            self.state.tail_by = None;
        }
        let Process::Alive(_) = self.state.process else { return };
        match self.state.stage {
            Stage::Killed => {}
            _ if self.state.kill_at <= now => {
                self.state.stage = Stage::Killed;
                out.push(self.facts.signal(Signal::Kill));
            }
            Stage::Asked(term_at) if term_at <= now => {
                self.state.stage = Stage::Termed;
                out.push(self.facts.signal(Signal::Term));
            }
            Stage::Asked(_) | Stage::Termed => {}
        }
    }

    /// The machine slept: the log may have been read meanwhile.
    pub(super) fn slept(&mut self, gap: Duration) {
        self.state.tail_by = self.state.tail_by.map(|at| at + gap);
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        self.state.process == Process::Dead && self.state.tail_by.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let act_at = match (self.state.process, self.state.stage) {
            (Process::Alive(_), Stage::Asked(term_at)) => Some(term_at.min(self.state.kill_at)),
            (Process::Alive(_), Stage::Termed) => Some(self.state.kill_at),
            _ => None,
        };
        [act_at, self.state.tail_by].into_iter().flatten().min()
    }
}
