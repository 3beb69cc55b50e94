//! One connection, from accept to close: what it has read, what it still has to write, and what it waits
//! for. Only its loop touches it.
//!
//! ```text
//!            request for a thread            reply
//!  Reading ──────────────────────▶ Serving ─────────▶ Reading
//!     │  ▲                            │
//!     │  └── end, on HTTP/1.1 ── Streaming ◀── stream
//!     ▼
//!  Closing ── output written ──▶ Lingering ──▶ closed
//! ```
//!
//! Invariants:
//! - what waits to be read is bounded by [`limits::READ_BYTES_MAX`]: nothing is read while an answer is
//!   pending;
//! - what waits to be written is bounded by a batch and one answer: no request is parsed while the
//!   reader is behind;
//! - an idle connection owns no buffer.

mod answering;
mod desk;
mod io;
mod streaming;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{Shutdown, shutdown};

pub(super) use self::desk::Desk;
use self::io::Gone;
pub(super) use self::streaming::Permits;
use self::streaming::Streaming;
use super::Peer;
use super::conn::{Framing, Parser, Step};
use super::server::Timeouts;
use super::slots::Token;
use super::ticket::Reply;
use crate::limits;

/// A client.
pub(super) struct Connection {
    socket: OwnedFd,
    peer: Peer,
    phase: Phase,
    parser: Parser,
    waits: Waits,
    deadline: Option<Instant>,
    /// What arrived and is not consumed.
    input: Vec<u8>,
    /// What could not be written yet, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// There may be something to read.
    readable: bool,
    /// The client will send no more.
    hung_up: bool,
    /// Accepted although there was no room, to be told so.
    surplus: bool,
    /// It has had an answer that was no refusal.
    served: bool,
    /// The request that is being read or answered: for which endpoint of the service, and since when.
    asked: Option<(Option<usize>, Instant)>,
}

enum Phase {
    /// Of requests.
    Reading,
    /// Whoever holds the ticket has the request.
    Serving(Serving),
    /// Events, as they come.
    Streaming(Box<Streaming>),
    /// The last answer is being written.
    Closing { linger: bool },
    /// It is written; so many bytes are still read and thrown away.
    Lingering { left: usize },
}

/// A request that is with a thread.
struct Serving {
    framing: Framing,
    name: &'static str,
    /// How long that may take.
    within: Duration,
    /// Then it is answered here.
    until: Instant,
    /// Set once it was: nobody is to begin with it any more.
    is_late: Arc<AtomicBool>,
}

/// What a deadline means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// It is not known yet.
    Nothing,
    Idle,
    Head,
    Body,
    /// For the ticket.
    Answer,
    Write,
    Stream,
    Linger,
}

/// What is to be done with a connection after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Wait for its next event or its deadline.
    Keep,
    /// It has more to do, after the others.
    Again,
    /// Close it.
    Gone,
}

impl Connection {
    /// A new client.
    pub(super) fn new(socket: OwnedFd, peer: Peer, desk: &Desk) -> Self {
        Self {
            socket,
            peer,
            phase: Phase::Reading,
            parser: Parser::new(),
            waits: Waits::Idle,
            deadline: desk.now.checked_add(desk.timeouts.idle),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            readable: false,
            hung_up: false,
            surplus: false,
            served: false,
            asked: None,
        }
    }

    /// A client too many: it is told so and closed.
    pub(super) fn surplus(socket: OwnedFd, peer: Peer, desk: &mut Desk) -> Self {
        let mut connection = Self { surplus: true, ..Self::new(socket, peer, desk) };
        connection.refuse_surplus(desk);
        std::mem::swap(&mut connection.output, &mut desk.output);
        connection
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn is_surplus(&self) -> bool {
        self.surplus
    }

    /// When [`on_deadline`](Self::on_deadline) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Since when nobody would miss it much: it has no whole request, or does not read its answer. That of one that
    /// was served a moment ago lies ahead.
    pub(super) fn expendable_since(&self, timeouts: &Timeouts) -> Option<Instant> {
        let patience = match self.waits {
            Waits::Idle => timeouts.idle,
            Waits::Head => timeouts.head,
            Waits::Body => timeouts.body,
            Waits::Write => timeouts.write_stall,
            Waits::Linger => timeouts.linger,
            Waits::Nothing | Waits::Answer | Waits::Stream => return None,
        };
        let since = self.deadline?.checked_sub(patience)?;
        Some(if self.served { since + limits::SERVED_GRACE } else { since })
    }

    /// The socket has changed.
    pub(super) fn on_event(&mut self, flags: EventFlags, token: Token, desk: &mut Desk) -> Fate {
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            return Fate::Gone;
        }
        self.hung_up |= flags.contains(EventFlags::RDHUP);
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.go_on(token, desk)
    }

    /// The ticket of the request under way has come back.
    pub(super) fn on_reply(&mut self, reply: Reply, token: Token, desk: &mut Desk) -> Fate {
        if let Phase::Serving(Serving { framing, .. }) = &self.phase {
            let framing = *framing;
            self.waits = Waits::Nothing;
            match reply {
                Reply::Answer(answer) => self.answer(&answer, &framing, desk),
                Reply::Stream(source) => self.begin_stream(source, &framing, token, desk),
            }
        }
        self.go_on(token, desk)
    }

    /// Whether an event stream is written to it.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming(_))
    }

    /// Sources may have something new. `false` if this connection has none.
    pub(super) fn on_wake(&mut self) -> bool {
        match &mut self.phase {
            Phase::Streaming(streaming) => {
                streaming.wake();
                true
            }
            _ => false,
        }
    }

    /// The hive stood still: who works for it has its time anew.
    pub(super) fn on_stood_still(&mut self, now: Instant) {
        if let (Phase::Serving(serving), Waits::Answer) = (&mut self.phase, self.waits) {
            serving.until = now + serving.within;
            self.deadline = Some(serving.until);
        }
    }

    /// What it waited for has not come.
    pub(super) fn on_deadline(&mut self, token: Token, desk: &mut Desk) -> Fate {
        match self.waits {
            Waits::Idle | Waits::Linger => return Fate::Gone,
            // The socket tells only once much is free: a reader that takes little at a time is not gone.
            Waits::Write => {
                if self.flush(desk).is_err() || self.waits == Waits::Write {
                    return Fate::Gone;
                }
            }
            Waits::Head | Waits::Body => self.refuse_slow(desk),
            Waits::Answer => {
                if let Phase::Serving(Serving { framing, name, is_late, .. }) = &self.phase {
                    is_late.store(true, Ordering::Relaxed);
                    let (framing, name) = (*framing, *name);
                    self.answer_late(&framing, name, desk);
                }
            }
            Waits::Stream => {
                if let Phase::Streaming(streaming) = &self.phase {
                    self.waits = Waits::Nothing;
                    streaming.keep_alive(&mut desk.output);
                }
            }
            Waits::Nothing => {}
        }
        self.go_on(token, desk)
    }

    /// The end has been announced: a request under way is finished, everything else ends.
    pub(super) fn on_drain(&mut self, token: Token, desk: &mut Desk) -> Fate {
        match &mut self.phase {
            Phase::Reading if self.parser.head().is_some() => {}
            Phase::Reading => self.phase = Phase::Closing { linger: false },
            Phase::Streaming(streaming) => streaming.end(),
            Phase::Serving(_) | Phase::Closing { .. } | Phase::Lingering { .. } => {}
        }
        self.go_on(token, desk)
    }

    /// Does what can be done without waiting.
    pub(super) fn go_on(&mut self, token: Token, desk: &mut Desk) -> Fate {
        let mut unread = 0..self.input.len();
        desk.input[unread.clone()].copy_from_slice(&std::mem::take(&mut self.input));
        let fate = self.turn(&mut unread, token, desk).unwrap_or(Fate::Gone);
        if fate == Fate::Gone {
            desk.output.clear();
        } else {
            self.input = desk.input[unread].to_vec();
            self.rearm(desk);
        }
        desk.shrink();
        fate
    }

    fn turn(&mut self, unread: &mut Range<usize>, token: Token, desk: &mut Desk) -> Result<Fate, Gone> {
        let (mut turns, mut requests) = (0, 0);
        loop {
            let behind = !self.output.is_empty() || desk.output.len() >= limits::WRITE_BATCH_BYTES;
            if behind && !self.flush(desk)? {
                return Ok(Fate::Keep);
            }
            if let Phase::Reading = self.phase {
                if requests >= limits::REQUESTS_PER_TURN {
                    // What is answered goes out now, for the sake of the others and of whoever waits for it.
                    return Ok(if self.flush(desk)? { Fate::Again } else { Fate::Keep });
                }
                let parsed = self.parser.advance(&desk.input[unread.clone()], &mut desk.correlations);
                unread.start += parsed.as_ref().map_or(0, |(used, _)| *used);
                match parsed {
                    Ok((_, Step::More)) => {}
                    Ok((_, Step::Head(framing))) => {
                        requests += 1;
                        self.on_head(&framing, Range::is_empty(unread), desk);
                        continue;
                    }
                    Ok((_, Step::Request(request, framing))) => {
                        self.waits = Waits::Nothing;
                        self.on_request(request, &framing, token, desk);
                        continue;
                    }
                    Err(refusal) => {
                        self.refuse(*refusal, desk);
                        continue;
                    }
                }
            }
            // Nothing more can be done with what is here.
            if !self.flush(desk)? {
                return Ok(Fate::Keep);
            }
            turns += 1;
            if turns > limits::READS_PER_TURN {
                return Ok(Fate::Again);
            }
            let moved = match &mut self.phase {
                Phase::Reading => self.read_more(unread, desk)?,
                Phase::Serving(_) => false,
                Phase::Streaming(_) => self.pull(desk)?,
                Phase::Closing { linger } => {
                    if !*linger {
                        return Err(Gone);
                    }
                    shutdown(&self.socket, Shutdown::Write)?;
                    self.phase = Phase::Lingering { left: limits::LINGER_BYTES_MAX };
                    true
                }
                Phase::Lingering { left } => {
                    let left = *left;
                    *unread = 0..0;
                    let read = self.read_more(unread, desk)?;
                    let left = left.checked_sub(unread.len()).ok_or(Gone)?;
                    *unread = 0..0;
                    self.phase = Phase::Lingering { left };
                    read
                }
            };
            if !moved {
                return Ok(Fate::Keep);
            }
        }
    }
}
