//! Threads for requests that take more than microseconds, behind a bounded queue.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::error;

use super::{Request, Service, Ticket};
use crate::limits;
use crate::thread::Joined;

/// The way into the pool; the threads end when the last of these is gone and the queue is empty.
#[derive(Clone)]
pub(crate) struct Pool {
    queue: Sender<(Request, Ticket)>,
}

impl Pool {
    /// Starts `threads` threads, `request-0` and so on. Once `cut` is set they take up nothing more.
    pub(crate) fn start(
        threads: usize,
        service: &Arc<dyn Service>,
        cut: &Arc<AtomicBool>,
    ) -> io::Result<(Self, Vec<Joined>)> {
        // Declared before the queue: if a thread cannot be had, the queue closes before the others are joined.
        let mut running = Vec::new();
        let (queue, jobs) = bounded(limits::QUEUE_MAX);
        let spawn = |n| {
            let (jobs, service, cut) = (jobs.clone(), Arc::clone(service), Arc::clone(cut));
            Joined::spawn(&format!("request-{n}"), || {}, move || work(&jobs, &*service, &cut))
        };
        for n in 0..threads.clamp(1, limits::THREADS_MAX) {
            running.push(spawn(n)?);
        }
        Ok((Self { queue }, running))
    }

    /// Hands a request to the next free thread.
    ///
    /// # Errors
    /// The ticket, if too many requests wait already.
    pub(crate) fn submit(&self, request: Request, ticket: Ticket) -> Result<(), Ticket> {
        self.queue.try_send((request, ticket)).map_err(|e| match e {
            TrySendError::Full((_, ticket)) | TrySendError::Disconnected((_, ticket)) => ticket,
        })
    }
}

fn work(jobs: &Receiver<(Request, Ticket)>, service: &dyn Service, cut: &AtomicBool) {
    for (request, ticket) in jobs {
        if cut.load(Ordering::Relaxed) {
            continue;
        }
        let correlation = ticket.correlation();
        // The ticket is dropped in the unwinding, which answers 500.
        if catch_unwind(AssertUnwindSafe(|| service.on_thread(request, ticket))).is_err() {
            error!("request handler panicked cid={correlation}");
        }
    }
}
