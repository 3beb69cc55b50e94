//! The end of all threads, once the supervisor has ended.

use std::time::Instant;

use crate::http::Server;
use crate::limits::{HTTP_DRAIN, THREADS_END};
use crate::thread::Joined;

/// Threads that nobody gives work any more.
pub(super) struct Threads {
    pub(super) launch: Joined,
    pub(super) exits: Joined,
    pub(super) worker_io: Joined,
    pub(super) keep: Joined,
    pub(super) others: Vec<Joined>,
}

impl Threads {
    /// Waits for all of them, and answers meanwhile; what hangs for [`THREADS_END`] is left behind.
    pub(super) fn end(self, server: Server) {
        let until = Instant::now() + THREADS_END;
        let mut ended = self.launch.join_by(until);
        if ended {
            self.worker_io.join();
            self.exits.join();
        } else {
            // It holds what keeps them going.
            std::mem::forget([self.worker_io, self.exits]);
        }
        ended &= server.drain(HTTP_DRAIN);
        for thread in self.others.into_iter().chain([self.keep]) {
            if ended {
                ended = thread.join_by(until);
            } else {
                // What hangs may keep it going, and whatever that hangs in it may hang in too.
                std::mem::forget(thread);
            }
        }
    }

    /// The same while workers live that cannot be killed: their watcher would wait for them, and what cannot be killed
    /// cannot be waited for.
    pub(super) fn end_over_the_living(self, server: Server) {
        std::mem::forget([self.launch, self.exits, self.keep]);
        drop(server);
        drop((self.others, self.worker_io));
    }
}
