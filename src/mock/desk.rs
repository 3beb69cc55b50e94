//! What the stand-ins share: a table of routes before a handler, and a bounded box for what came in.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::http::{
    Answer, ApiError, Code, Errand, Head, Method, Options, Peer, Request, Server, Service, Ticket, Timeouts,
    Verdict,
};
use crate::id::Token;
use crate::limits;

/// A path that is served.
#[derive(Debug, Clone)]
pub struct Route {
    /// How it is asked.
    pub method: Method,
    /// The path, whole.
    pub path: &'static str,
    /// Whether the token is asked for, where there is one.
    pub guarded: bool,
}

/// Answers whole requests that one of its routes admits; called on a request thread.
pub trait Handler: Send + Sync + 'static {
    /// All that is served.
    const ROUTES: &'static [Route];

    /// The answer to a request of one of the routes.
    ///
    /// # Errors
    /// The refusal, which is the answer.
    fn answer(&self, request: &Request) -> Result<Answer, ApiError>;
}

/// A [`Service`] of a [`Handler`].
struct Desk<H> {
    token: Option<Token>,
    handler: Arc<H>,
}

/// Serves `handler` on `listener` with `threads` request threads.
///
/// # Errors
/// If the system has no thread or descriptor to give.
pub fn serve<H: Handler>(
    listener: TcpListener,
    threads: usize,
    token: Option<Token>,
    handler: Arc<H>,
) -> io::Result<Server> {
    let options = Options { threads, max_connections: limits::MOCK_KEPT_MAX, timeouts: Timeouts::default() };
    Server::start(listener, options, Arc::new(Desk { token, handler }))
}

impl<H: Handler> Desk<H> {
    fn admit(&self, head: &Head) -> Result<(), ApiError> {
        let mut of_path = H::ROUTES.iter().filter(|route| route.path == head.path).peekable();
        if of_path.peek().is_none() {
            return Err(ApiError::new(Code::NotFound, "no such path"));
        }
        let Some(route) = of_path.clone().find(|route| route.method == head.method) else {
            let allow: Vec<_> = of_path.map(|route| route.method.as_str()).collect();
            let error = ApiError::new(Code::MethodNotAllowed, "the path has other methods");
            return Err(error.with_header("Allow", allow.join(", ")));
        };
        match &self.token {
            Some(token) if route.guarded => match bearer(head) {
                None => Err(ApiError::new(Code::MissingApiKey, "a bearer token is needed")),
                Some(sent) if token.matches(sent) => Ok(()),
                Some(_) => Err(ApiError::new(Code::InvalidApiKey, "the token is wrong")),
            },
            _ => Ok(()),
        }
    }
}

/// The bearer token of a request; none if it is absent, malformed or empty.
pub fn bearer(head: &Head) -> Option<&str> {
    head.header("Authorization")?.strip_prefix("Bearer ").filter(|token| !token.is_empty())
}

impl<H: Handler> Service for Desk<H> {
    fn on_head(&self, head: &Head, _peer: &mut Peer) -> Result<(), Answer> {
        self.admit(head).map_err(|e| e.into_answer(head.correlation))
    }

    fn on_loop(&self, request: Request) -> Verdict {
        Verdict::Thread(request, Errand::new("mock"))
    }

    fn on_thread(&self, request: Request, ticket: Ticket) {
        match self.handler.answer(&request) {
            Ok(answer) => ticket.answer(answer),
            Err(error) => ticket.error(error),
        }
    }
}

/// The body of a request.
///
/// # Errors
/// 400 if it is no `T`.
pub fn body<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    let body = if request.body.is_empty() { b"{}" } else { request.body.as_slice() };
    serde_json::from_slice(body)
        .map_err(|_| ApiError::new(Code::InvalidJson, "the body is not what is needed"))
}

/// Writes a line to standard output; a reader that is gone is no failure.
pub(super) fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// What came in, for who wants to wait for it. Holds [`limits::MOCK_KEPT_MAX`] and drops the oldest
/// beyond, so that nobody has to read it. Cheap to clone.
#[derive(Debug)]
pub struct Inbox<T>(Arc<(Mutex<VecDeque<T>>, Condvar)>);

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Inbox<T> {
    /// The oldest that was not taken yet; waits for it at most for `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let (queue, came) = &*self.0;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(item) = queue.pop_front() {
                return Some(item);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            queue = came.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first that `wanted` accepts; what comes before it is dropped. Waits at most for `timeout`.
    pub fn find(&self, timeout: Duration, mut wanted: impl FnMut(&T) -> bool) -> Option<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let item = self.next(deadline.saturating_duration_since(Instant::now()))?;
            if wanted(&item) {
                return Some(item);
            }
        }
    }

    pub(super) fn put(&self, item: T) {
        let (queue, came) = &*self.0;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == limits::MOCK_KEPT_MAX {
            queue.pop_front();
        }
        queue.push_back(item);
        came.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_that_nobody_reads_keeps_the_newest() {
        let inbox = Inbox::default();
        for n in 0..limits::MOCK_KEPT_MAX + 5 {
            inbox.put(n);
        }
        assert_eq!(inbox.next(Duration::ZERO), Some(5));
        assert_eq!(inbox.find(Duration::ZERO, |n| *n > 100), Some(101));
        assert_eq!(inbox.find(Duration::ZERO, |n| *n == 0), None);
        assert_eq!(inbox.next(Duration::ZERO), None);
    }
}
