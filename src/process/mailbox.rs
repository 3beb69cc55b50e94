//! A channel for a thread that waits in poll: each job rings a bell, and so does the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::sys::Bell;

/// Where jobs go in. The thread behind it begins to end when the last clone is dropped.
#[derive(Debug)]
pub struct Jobs<T> {
    /// Always there until `drop`.
    sender: Option<Sender<T>>,
    bell: Arc<Bell>,
}

impl<T> Jobs<T> {
    /// Hands a job to the thread. Never blocks: how many can wait is bounded by who asks, one of each sort
    /// for each worker.
    pub fn send(&self, job: T) {
        if let Some(sender) = &self.sender {
            // The thread lives until the last sender is gone, or the process is about to abort.
            let _ = sender.send(job);
            self.bell.ring();
        }
    }

    /// What wakes the thread, for who has something to tell it beside jobs.
    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }
}

impl<T> Clone for Jobs<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Drop for Jobs<T> {
    fn drop(&mut self) {
        // First the channel, then the bell: who is woken must see that it is closed.
        self.sender = None;
        self.bell.ring();
    }
}

/// Where jobs come out.
pub(super) struct Inbox<T> {
    receiver: Receiver<T>,
    bell: Arc<Bell>,
}

/// What an [`Inbox`] holds.
pub(super) enum Next<T> {
    Job(T),
    Empty,
    Closed,
}

impl<T> Inbox<T> {
    /// Forgets past rings. To be called before the jobs are taken, so that none is missed.
    pub(super) fn silence(&self) {
        self.bell.silence();
    }

    pub(super) fn next(&self) -> Next<T> {
        match self.receiver.try_recv() {
            Ok(job) => Next::Job(job),
            Err(TryRecvError::Empty) => Next::Empty,
            Err(TryRecvError::Disconnected) => Next::Closed,
        }
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// A mailbox's two ends.
pub(super) fn mailbox<T>() -> io::Result<(Jobs<T>, Inbox<T>)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let bell = Arc::new(Bell::new()?);
    Ok((Jobs { sender: Some(sender), bell: Arc::clone(&bell) }, Inbox { receiver, bell }))
}
