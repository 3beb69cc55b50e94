//! The network's edge: bytes become a [`Request`] in a parser that does no I/O, a [`Service`] answers it
//! on the event loop, from a request thread or later through a [`Ticket`], and the loop that owns the
//! connection writes the [`Answer`].
//!
//! Invariants:
//! - a connection belongs to one loop from accept to close; nobody else reads or writes it;
//! - one request of a connection is under way at a time: the next one is parsed when the answer is out;
//! - every ticket is answered exactly once: a dropped one answers 500, and one that is late finds nobody;
//! - every request has an answer in a stated time, whatever hangs.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::limits;

pub mod attempts;
pub mod auth;
mod conn;
mod connection;
mod correlation;
mod encode;
pub mod endpoints;
pub mod error;
mod event_loop;
pub mod events;
pub mod handlers;
mod listener;
pub mod metrics;
pub mod openapi;
pub mod page;
mod pool;
pub mod route;
mod server;
mod slots;
mod ticket;

pub use error::{ApiError, Code};
pub use server::{Options, Server, Timeouts};
pub(crate) use ticket::Pulse;
pub use ticket::{StreamWaker, Ticket};

/// What the fuzz target `conn` calls.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use conn::pieces::check as check_pieces;

/// The methods that some route has; any other is 405 or 404.
pub use tiny_http::Method;

/// What is known of a request before its body.
#[derive(Debug, Clone)]
pub struct Head {
    /// Method.
    pub method: Method,
    /// Path as sent, percent-encoded, without query; begins with `/` (or is `*`).
    pub path: String,
    /// Query as sent, without `?`; empty if there was none.
    pub query: String,
    /// Header lines in the order sent; names as sent, values valid UTF-8 without control characters
    /// but tabs.
    pub headers: Vec<(String, String)>,
    /// The request's `X-Correlation-Id` if it was a UUID, else a new one.
    pub correlation: Uuid,
}

impl Head {
    /// The value of the header `name` (any case) if it occurs exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let first = values.next()?;
        values.next().is_none().then_some(first.1.as_str())
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: IpAddr,
    /// The last token that was shown on this connection was the hive's. Kept for the service, which sets it.
    pub is_known: bool,
}

impl Peer {
    /// A stranger.
    pub(crate) fn new(address: Option<IpAddr>) -> Self {
        // The system tells it for every TCP connection.
        Self { address: address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), is_known: false }
    }
}

/// A whole request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Line and headers.
    pub head: Head,
    /// Body with its framing removed; at most [`limits::BODY_BYTES_MAX`].
    pub body: Vec<u8>,
}

/// An answer before it is framed: the loop adds `Content-Length`, `Connection`, `Date` and
/// `X-Correlation-Id`, and leaves the body out for HEAD.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header lines beside those that the loop adds.
    pub headers: Vec<(&'static str, String)>,
    /// Body; empty for 204.
    pub body: Body,
}

/// Bytes of an answer, either made for it or shared by many.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Made for this answer.
    Owned(Vec<u8>),
    /// Made once for a picture.
    Shared(Arc<[u8]>),
    /// Part of the program.
    Static(&'static [u8]),
}

impl Body {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Answer {
    /// `value` as JSON.
    ///
    /// # Panics
    /// If `value` cannot be written as JSON (a map whose keys are no strings).
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Self {
        let body = serde_json::to_vec(value).expect("wire types are valid JSON");
        Self::bytes(status, "application/json", Body::Owned(body))
    }

    /// Bytes of a `Content-Type`.
    pub fn bytes(status: u16, content_type: &'static str, body: Body) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.to_owned())], body }
    }

    /// Adds a header line.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What answers requests. Shared by all loops and request threads.
pub trait Service: Send + Sync + 'static {
    /// Called on an event loop as soon as a head is whole, before its body is read: auth, routing and
    /// method belong here, so that a stranger cannot make the hive hold a body. Must not block.
    ///
    /// # Errors
    /// The refusal, which is the answer; the connection is closed after it if a body was still to come.
    fn on_head(&self, head: &Head, peer: &mut Peer) -> Result<(), Answer>;

    /// Called on an event loop with a whole request. Must not block: what needs a disk, the supervisor
    /// or a computation of more than microseconds is handed back as [`Verdict::Thread`].
    fn on_loop(&self, request: Request) -> Verdict;

    /// Which of the service's endpoints a head is for, by a number of the service's; `None`: none of them.
    fn endpoint(&self, head: &Head) -> Option<usize> {
        let _ = head;
        None
    }

    /// Called on an event loop as an answer goes out, or a stream begins: whatever answers, and also what was no
    /// request. Must not block.
    fn answered(&self, endpoint: Option<usize>, status: u16, took: Duration) {
        let _ = (endpoint, status, took);
    }

    /// Called on a request thread. Answers through `ticket`, now or later, from any thread. A panic is
    /// answered 500.
    fn on_thread(&self, request: Request, ticket: Ticket);
}

/// What becomes of a whole request.
pub enum Verdict {
    /// This answer.
    Answer(Answer),
    /// An event stream (200, `text/event-stream`, chunked on HTTP/1.1), pulled by the loop.
    Stream(Box<dyn Source>),
    /// A request thread takes it; if too many wait already, 503.
    Thread(Request, Errand),
}

/// What is known beforehand of a request that a thread takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errand {
    /// What it is called in the log: nothing that the client sent.
    pub name: &'static str,
    /// Until it is answered 503, with whatever its ticket brings later dropped; the connection is closed then.
    pub within: Duration,
    /// It waits for neither disk nor driver: a thread of its own takes it, also while all others hang in one.
    pub is_quick: bool,
}

impl Errand {
    /// One that may wait for a disk.
    pub fn new(name: &'static str) -> Self {
        Self { name, within: limits::REQUEST_WAIT, is_quick: false }
    }
}

/// Where an event stream comes from. Called on the loop that owns the connection: must not block.
pub trait Source: Send {
    /// Appends bytes to `out`, at most about `room`.
    ///
    /// Called when the stream begins, when the reader has taken what was there, and after each wake of
    /// the server's [`StreamWaker`].
    fn pull(&mut self, out: &mut Vec<u8>, room: usize) -> Pull;
}

/// What a [`Source`] says of its future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// There is more as soon as there is room.
    More,
    /// Nothing more until the next wake.
    Wait,
    /// The stream ends after what was appended.
    End,
}
