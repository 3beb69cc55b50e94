//! The way back to a connection from any thread: tickets for one answer each, wakers for all streams.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};
use uuid::Uuid;

use super::slots::Token;
use super::{Answer, ApiError, Code, Peer, Source};

/// What a loop is told by other threads. Its eventfd is written only when there was nothing to read: a
/// thousand answers between two turns of the loop cost one system call.
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    bell: OwnedFd,
}

#[derive(Default)]
pub(crate) struct Mail {
    /// Answers of requests that left the loop. At most one for each connection.
    pub(crate) replies: Vec<(Token, Reply)>,
    /// Connections that another loop accepted and had no room for.
    pub(crate) strangers: Vec<Caller>,
    /// Streams have something new.
    pub(crate) streams_woken: bool,
    /// Somebody wants to know whether the loop turns. Who asked before has given up.
    pub(crate) asked: Option<Sender<()>>,
    /// The end has been announced.
    pub(crate) stop: bool,
    /// The loop is gone: nothing is delivered any more.
    closed: bool,
    rung: bool,
}

/// Somebody who was accepted.
pub(crate) struct Caller {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: Peer,
    /// Loops that had no room for him.
    pub(crate) tried: usize,
}

/// What a ticket brings back.
pub(crate) enum Reply {
    /// A whole answer.
    Answer(Answer),
    /// The beginning of an event stream.
    Stream(Box<dyn Source>),
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { mail: Mutex::default(), bell })
    }

    /// What the loop polls.
    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Puts something in and rings; what is put into a closed inbox is dropped.
    pub(crate) fn put(&self, put: impl FnOnce(&mut Mail)) {
        let mut mail = self.lock();
        if mail.closed {
            return;
        }
        put(&mut mail);
        let first = !std::mem::replace(&mut mail.rung, true);
        drop(mail);
        if first {
            // Fails only if the counter were full: then the loop is being woken anyway.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Everything that was put in since the last time.
    pub(crate) fn take(&self) -> Mail {
        let mut count = [0; 8];
        // Read before the mail is taken: what comes later rings again.
        let _ = rustix::io::read(&self.bell, &mut count);
        std::mem::take(&mut *self.lock())
    }

    /// Drops what is in it and whatever is still put in.
    pub(crate) fn close(&self) {
        let dropped = std::mem::replace(&mut *self.lock(), Mail { closed: true, ..Mail::default() });
        drop(dropped); // outside the lock: a source may hold tickets
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is told whose answer did not come in time.
pub(crate) fn late() -> ApiError {
    let message = "it took too long, and may still be done: look before you ask again";
    ApiError::new(Code::Overloaded, message).with_header("Retry-After", "10")
}

/// The right, and the duty, to answer one request, from any thread. Dropped without an answer, it
/// answers 500.
#[must_use = "a dropped ticket answers 500"]
pub struct Ticket {
    /// `None` once it is answered.
    inbox: Option<Arc<Inbox>>,
    token: Token,
    correlation: Uuid,
    /// Set when the connection has answered by itself.
    is_late: Arc<AtomicBool>,
}

impl Ticket {
    pub(crate) fn new(inbox: Arc<Inbox>, token: Token, correlation: Uuid, is_late: Arc<AtomicBool>) -> Self {
        Self { inbox: Some(inbox), token, correlation, is_late }
    }

    /// Itself, unless it is too late for an answer: then whoever begins with the request now would do what its client
    /// has been told is not done.
    pub fn in_time(self) -> Option<Self> {
        if !self.is_late.load(Ordering::Relaxed) {
            return Some(self);
        }
        self.forget();
        None
    }

    /// The request's correlation.
    pub fn correlation(&self) -> Uuid {
        self.correlation
    }

    /// Answers with `answer`. Does not block; a client that is gone by then gets nothing.
    pub fn answer(mut self, answer: Answer) {
        self.reply(Reply::Answer(answer));
    }

    /// Answers with an event stream that its loop pulls from `source`; with 503 if there are too many.
    pub fn stream(mut self, source: Box<dyn Source>) {
        self.reply(Reply::Stream(source));
    }

    /// Answers with a refusal.
    pub fn error(self, error: ApiError) {
        let answer = error.into_answer(self.correlation);
        self.answer(answer);
    }

    /// Gives the right back unused: the caller answers by itself.
    pub(crate) fn forget(mut self) {
        self.inbox = None;
    }

    fn reply(&mut self, reply: Reply) {
        if let Some(inbox) = self.inbox.take() {
            let token = self.token;
            inbox.put(|mail| mail.replies.push((token, reply)));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.inbox.is_some() {
            let error = ApiError::new(Code::Internal, "the request was dropped by mistake");
            self.reply(Reply::Answer(error.into_answer(self.correlation)));
        }
    }
}

/// Makes every stream of a server pull its source again. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct StreamWaker {
    inboxes: Arc<[Arc<Inbox>]>,
}

impl StreamWaker {
    pub(crate) fn new(inboxes: Arc<[Arc<Inbox>]>) -> Self {
        Self { inboxes }
    }

    /// There may be something new for some stream.
    pub fn wake(&self) {
        for inbox in &*self.inboxes {
            inbox.put(|mail| mail.streams_woken = true);
        }
    }
}

/// Asks every event loop of a server whether it turns.
pub(crate) struct Pulse {
    inboxes: Arc<[Arc<Inbox>]>,
}

impl Pulse {
    pub(crate) fn new(inboxes: Arc<[Arc<Inbox>]>) -> Self {
        Self { inboxes }
    }

    /// Whether all of them answer `within` that time.
    pub(crate) fn is_alive(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let (answer, answers) = bounded(self.inboxes.len());
        for inbox in &*self.inboxes {
            inbox.put(|mail| mail.asked = Some(answer.clone()));
        }
        self.inboxes.iter().all(|_| answers.recv_deadline(until).is_ok())
    }
}
