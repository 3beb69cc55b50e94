//! Threads for requests that take more than microseconds, behind bounded queues: one for those that may hang in a disk
//! or a driver, and another, with a thread of its own, for those that cannot.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::error;

use super::{Request, Service, Ticket};
use crate::limits;
use crate::thread::Joined;

/// The way into the pool; the threads end when the last of these is gone and the queue is empty.
#[derive(Clone)]
pub(crate) struct Pool {
    queue: Sender<(Request, Ticket)>,
    quick: Sender<(Request, Ticket)>,
}

/// The threads of a pool. Dropping it waits for them, but not for one that hangs.
pub(crate) struct Threads {
    threads: Vec<Joined>,
    /// Once it is set they take up nothing more.
    cut: Arc<AtomicBool>,
}

impl Pool {
    /// Starts `threads` threads, `request-0` and so on, and `request-quick`.
    pub(crate) fn start(threads: usize, service: &Arc<dyn Service>) -> io::Result<(Self, Threads)> {
        let cut = Arc::new(AtomicBool::new(false));
        // Declared before the queues and the senders: if a thread cannot be had, they go before the others are joined.
        let mut running = Threads { threads: Vec::new(), cut: Arc::clone(&cut) };
        let (queue, jobs) = bounded(limits::QUEUE_MAX);
        let (quick, quick_jobs) = bounded(limits::QUEUE_MAX);
        let spawn = move |name: &str, jobs: &Receiver<_>| {
            let (jobs, service) = (jobs.clone(), Arc::clone(service));
            let cut = Arc::clone(&cut);
            Joined::spawn(name, || {}, move || work(&jobs, &*service, &cut))
        };
        running.threads.push(spawn("request-quick", &quick_jobs)?);
        for n in 0..threads.clamp(1, limits::THREADS_MAX) {
            running.threads.push(spawn(&format!("request-{n}"), &jobs)?);
        }
        Ok((Self { queue, quick }, running))
    }

    /// Hands a request to the next free thread.
    ///
    /// # Errors
    /// The ticket, if too many requests wait already.
    pub(crate) fn submit(&self, request: Request, is_quick: bool, ticket: Ticket) -> Result<(), Ticket> {
        let queue = if is_quick { &self.quick } else { &self.queue };
        queue.try_send((request, ticket)).map_err(|e| match e {
            TrySendError::Full((_, ticket)) | TrySendError::Disconnected((_, ticket)) => ticket,
        })
    }
}

impl Threads {
    /// Waits for their end, a while. Tells whether they have ended; those that have not are left behind.
    ///
    /// All senders of the queues must be gone.
    pub(crate) fn end(&mut self) -> bool {
        self.cut.store(true, Ordering::Relaxed);
        let until = Instant::now() + limits::REQUEST_THREADS_END;
        let hanging =
            self.threads.drain(..).map(|thread| thread.join_by(until)).filter(|ended| !ended).count();
        hanging == 0
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end();
        }
    }
}

fn work(jobs: &Receiver<(Request, Ticket)>, service: &dyn Service, cut: &AtomicBool) {
    for (request, ticket) in jobs {
        if cut.load(Ordering::Relaxed) {
            continue;
        }
        let Some(ticket) = ticket.in_time() else { continue };
        let correlation = ticket.correlation();
        // The ticket is dropped in the unwinding, which answers 500.
        if catch_unwind(AssertUnwindSafe(|| service.on_thread(request, ticket))).is_err() {
            error!("request handler panicked cid={correlation}");
        }
    }
}
