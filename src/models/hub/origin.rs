//! The files of one commit: an [`Origin`] over HTTP.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::Inner;
use super::bytes::Bytes;
use super::head;
use super::url::{self, Url};
use super::wire::{Answer, Asked, Wire};
use crate::limits::TRANSFER_BUFFER_BYTES;
use crate::models::reference::HubRef;
use crate::models::remote::{Body, Connection, HubError, Origin, RemoteFile};
use crate::net::Cut;

const LENGTH: HubError = HubError::BadAnswer("the answer has another length than was asked for");

/// Where the files of one commit come from.
#[derive(Debug)]
pub(crate) struct HubOrigin {
    hub: Arc<Inner>,
    base: Arc<str>,
    cut: Cut,
}

/// A connection to the hub, and to where it sends for the bytes.
pub(super) struct HubConnection {
    pub(super) wire: Wire,
    base: Arc<str>,
    /// Where the hub sent for the file of this path the last time.
    location: Option<(String, Url)>,
}

/// The bytes that were asked for.
pub(super) struct Part {
    /// Where they begin.
    pub(super) from: u64,
    pub(super) bytes: Bytes,
}

/// The address of the files of `commit`, on the hub.
pub(super) fn base(hub: &HubRef, commit: &str) -> String {
    format!("/{}/{}/resolve/{}", hub.org(), hub.repo(), url::part(commit))
}

impl HubOrigin {
    /// Of the files below `base`, which begins with a slash, or is empty for all.
    pub(super) fn new(hub: &Arc<Inner>, base: &str, cut: &Cut) -> Self {
        Self { hub: Arc::clone(hub), base: base.into(), cut: cut.clone() }
    }
}

impl Origin for HubOrigin {
    fn connect(&self) -> io::Result<Box<dyn Connection + '_>> {
        let base = Arc::clone(&self.base);
        Ok(Box::new(HubConnection::new(&self.hub, base, &self.cut, None, TRANSFER_BUFFER_BYTES)?))
    }
}

impl Connection for HubConnection {
    fn open(&mut self, file: &RemoteFile, range: Range<u64>) -> Result<Body<'_>, HubError> {
        let end = range.end;
        let Part { from, bytes } = self.fetch(file, range, end)?;
        Ok(Body { from, bytes: Box::new(bytes) })
    }
}

impl HubConnection {
    /// As [`Wire::new`].
    pub(super) fn new(
        hub: &Arc<Inner>,
        base: Arc<str>,
        cut: &Cut,
        until: Option<Instant>,
        input_bytes: usize,
    ) -> io::Result<Self> {
        Ok(Self { wire: Wire::new(hub, cut, until, input_bytes)?, base, location: None })
    }

    /// The bytes `range` of `file`; from a server that knows no ranges, the first `whole_end` of it.
    ///
    /// Where the hub sent the last time is asked first. That address may have expired: if it refuses, the
    /// hub is asked anew.
    pub(super) fn fetch(
        &mut self,
        file: &RemoteFile,
        range: Range<u64>,
        whole_end: u64,
    ) -> Result<Part, HubError> {
        if let Some((_, at)) = self.location.take().filter(|(path, _)| *path == file.path) {
            match self.fetch_at(&at, file, &range, whole_end) {
                Err(HubError::Denied { .. } | HubError::NoRepository { .. } | HubError::NoFile) => {}
                done => return done,
            }
        }
        let at = self.wire.hub.url(&format!("{}/{}", self.base, url::path(&file.path)))?;
        self.fetch_at(&at, file, &range, whole_end)
    }

    fn fetch_at(
        &mut self,
        start: &Url,
        file: &RemoteFile,
        range: &Range<u64>,
        whole_end: u64,
    ) -> Result<Part, HubError> {
        let Answer { response, at } = self.wire.ask(start, &Asked::Bytes(file, range.clone()))?;
        let headers = response.headers();
        head::check_unpacked(headers)?;
        let length = response.body().content_length();
        let (from, end, expected) = if response.status() == 206 {
            let told = head::text(headers, "content-range").and_then(head::content_range);
            let good = told
                .is_some_and(|(told, whole)| told == *range && whole.is_none_or(|whole| whole == file.bytes));
            if !good {
                return Err(HubError::BadAnswer("the answer has another range than was asked for"));
            }
            (range.start, range.end, range.end - range.start)
        } else {
            (0, whole_end, file.bytes)
        };
        if length.is_some_and(|length| length != expected) {
            return Err(LENGTH);
        }
        self.location = Some((file.path.clone(), at));
        let bytes = Bytes::new(
            response.into_body(),
            end - from,
            &self.wire.deadline,
            self.wire.hub.config.times.stall,
        );
        Ok(Part { from, bytes })
    }
}
