//! An event stream that is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::io::Gone;
use super::{Connection, Desk, Phase};
use crate::http::encode::{self, After};
use crate::http::{Pull, Source};
use crate::limits;

pub(super) struct Streaming {
    source: Box<dyn Source>,
    chunked: bool,
    after: After,
    /// The source may have something.
    more: bool,
    /// What the source has now is the last.
    ending: bool,
    _permit: Permit,
}

impl Streaming {
    pub(super) fn new(source: Box<dyn Source>, chunked: bool, after: After, permit: Permit) -> Self {
        Self { source, chunked, after, more: true, ending: false, _permit: permit }
    }

    /// The source may have something new.
    pub(super) fn wake(&mut self) {
        self.more = true;
    }

    /// The stream ends with what its source has now, and the connection with it.
    pub(super) fn end(&mut self) {
        (self.more, self.ending, self.after) = (true, true, After::Close);
    }

    /// Appends a comment to `out`: nothing for the reader, a sign of life for everything between.
    pub(super) fn keep_alive(&self, out: &mut Vec<u8>) {
        self.frame(b":\n\n", out);
    }

    fn frame(&self, data: &[u8], out: &mut Vec<u8>) {
        if self.chunked {
            encode::chunk(out, data);
        } else {
            out.extend_from_slice(data);
        }
    }
}

impl Connection {
    /// Asks the source once, if it may have something. Called when the reader has taken what was there.
    /// `false` if there is nothing to do until the next wake.
    pub(super) fn pull(&mut self, desk: &mut Desk) -> Result<bool, Gone> {
        let Phase::Streaming(streaming) = &mut self.phase else { return Ok(false) };
        if self.hung_up {
            return Err(Gone);
        }
        if !std::mem::take(&mut streaming.more) {
            return Ok(false);
        }
        desk.events.clear();
        let said = streaming.source.pull(&mut desk.events, limits::STREAM_BUFFER_BYTES_MAX);
        streaming.frame(&desk.events, &mut desk.output);
        if said == Pull::End || streaming.ending {
            if streaming.chunked {
                desk.output.extend_from_slice(encode::LAST_CHUNK);
            }
            self.phase = match streaming.after {
                After::Keep => Phase::Reading,
                After::Close => Phase::Closing { linger: false },
            };
        } else {
            // A source that promises more and gives nothing would keep the loop busy: it is woken.
            streaming.more = said == Pull::More && !desk.events.is_empty();
        }
        Ok(true)
    }
}

/// How many streams there may be.
#[derive(Debug)]
pub(in crate::http) struct Permits {
    taken: AtomicUsize,
    most: usize,
}

impl Permits {
    pub(in crate::http) fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }
}

/// The right to one stream; dropping it gives it back.
pub(super) struct Permit(Arc<Permits>);

impl Permit {
    /// `None` if all are taken.
    pub(super) fn take(permits: &Arc<Permits>) -> Option<Self> {
        let one_more = |n| (n < permits.most).then_some(n + 1);
        permits.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(Arc::clone(permits)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
