//! What the connections of a loop share.

use std::sync::Arc;
use std::time::Instant;

use super::streaming::Permits;
use crate::http::Service;
use crate::http::correlation::Correlations;
use crate::http::encode::Date;
use crate::http::pool::Pool;
use crate::http::server::Timeouts;
use crate::http::slots::Token;
use crate::http::ticket::Inbox;
use crate::id::SystemEntropy;
use crate::limits;
use crate::logging::Seldom;

/// What the connections of a loop share, and need only while it is their turn.
pub(in crate::http) struct Desk {
    pub(in crate::http) service: Arc<dyn Service>,
    pub(in crate::http) pool: Pool,
    pub(in crate::http) inbox: Arc<Inbox>,
    pub(in crate::http) timeouts: Timeouts,
    /// For the streams of all loops.
    pub(in crate::http) streams_open: Arc<Permits>,
    /// Connections that began a stream; some may have ended it.
    pub(in crate::http) streams: Vec<Token>,
    pub(in crate::http) correlations: Correlations,
    pub(in crate::http) date: Date,
    /// When this turn of the loop began.
    pub(in crate::http) now: Instant,
    /// Lines about requests that were not answered in time.
    pub(in crate::http) late_lines: Seldom,
    /// Every answer is the last of its connection.
    pub(in crate::http) draining: bool,
    /// Bytes of the connection whose turn it is: left from before, and read now.
    pub(in crate::http) input: Box<[u8]>,
    /// Answers of the connection whose turn it is; empty between turns.
    pub(in crate::http) output: Vec<u8>,
    /// What a source appended.
    pub(in crate::http) events: Vec<u8>,
}

impl Desk {
    pub(in crate::http) fn new(
        service: Arc<dyn Service>,
        pool: Pool,
        inbox: Arc<Inbox>,
        timeouts: Timeouts,
        streams_open: Arc<Permits>,
    ) -> Self {
        Self {
            service,
            pool,
            inbox,
            timeouts,
            streams_open,
            streams: Vec::new(),
            correlations: Correlations::new(Box::new(SystemEntropy::new())),
            date: Date::new(),
            now: Instant::now(),
            late_lines: Seldom::every(limits::LATE_LINE_INTERVAL),
            draining: false,
            input: vec![0; limits::READ_BYTES_MAX].into_boxed_slice(),
            output: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Gives back what an unusually long answer took.
    pub(in crate::http) fn shrink(&mut self) {
        self.output.shrink_to(2 * limits::WRITE_BATCH_BYTES);
        self.events.shrink_to(limits::WRITE_BATCH_BYTES);
    }
}
