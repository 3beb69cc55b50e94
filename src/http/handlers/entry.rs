//! Who is let in: each head is judged here, before a byte of its body is read.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::warn;

use crate::http::attempts::{Attempts, Source};
use crate::http::auth::{self, Who};
use crate::http::endpoints::{self, Access};
use crate::http::route;
use crate::http::{ApiError, Code, Head, Peer};
use crate::limits::{ATTEMPTS_LINE_INTERVAL, ATTEMPTS_MAX};
use crate::logging::Seldom;

use super::Api;

/// What the event loops remember of wrong tokens.
#[derive(Debug)]
pub struct Entry(Mutex<(Attempts, Seldom)>);

impl Default for Entry {
    fn default() -> Self {
        Self(Mutex::new((Attempts::default(), Seldom::every(ATTEMPTS_LINE_INTERVAL))))
    }
}

impl Entry {
    fn blocked_for(&self, source: Source) -> Option<Duration> {
        self.lock().0.blocked_for(source, Instant::now())
    }

    fn failed(&self, source: Source, peer: &Peer) {
        let now = Instant::now();
        let line = {
            let (attempts, lines) = &mut *self.lock();
            if attempts.failed(source, now) { lines.next(now) } else { None }
        };
        let Some(others) = line else { return };
        warn!(
            "address blocked: too many wrong tokens address={} tokens={ATTEMPTS_MAX} others={others}",
            peer.address
        );
    }

    fn lock(&self) -> MutexGuard<'_, (Attempts, Seldom)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// Judges a head as it comes in. Wrong tokens are counted here and nowhere else.
    ///
    /// From an address that is blocked the hive's token is not even compared, be it right: guessing would go on
    /// otherwise. Two are let in nevertheless: a worker, whose token is too long to be guessed, and whoever has shown
    /// the hive's token on this very connection before, so that a stranger behind the same address cannot lock out
    /// a queen that keeps its connections.
    pub(super) fn enter(&self, head: &Head, peer: &mut Peer) -> Result<Access, ApiError> {
        let guarded =
            route::needs_token(&head.path) && auth::bearer(head).is_some() && self.token.get().is_some();
        if !guarded {
            return self.admit(head).map(|admitted| admitted.endpoint().access);
        }
        let source = Source::new(peer.address, endpoints::is_callback(&head.path));
        if !peer.is_known
            && let Some(left) = self.entry.blocked_for(source)
            && !auth::is_worker(&self.picture.snapshot(), head)
        {
            return Err(too_many(left));
        }
        let who = self.identify(head);
        peer.is_known = who == Ok(Who::Queen);
        if who.is_err() {
            self.entry.failed(source, peer);
        }
        self.permit(who?, head).map(|admitted| admitted.endpoint().access)
    }
}

fn too_many(left: Duration) -> ApiError {
    let seconds = left.as_millis().div_ceil(1000);
    let message =
        format!("too many wrong tokens came from this address: it is listened to again in {seconds} s");
    ApiError::new(Code::TooManyAttempts, message).with_header("Retry-After", seconds.to_string())
}
