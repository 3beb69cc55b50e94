//! A stream of events that outlives its connection.

use std::time::{Duration, Instant};

use super::sse::Event;
use super::stream::EventStream;
use super::transport::{events, failed};
use super::{ClientError, HiveClient};
use crate::api::BOOT_HEADER;
use crate::limits::{CLIENT_RETURN_FIRST, CLIENT_RETURN_MAX, CLIENT_RETURN_WITHIN};

/// The events of a stream. When its connection ends, it is asked for again, after the last event that had a number.
///
/// Ends when the hive says that nothing comes any more; with an error, if the hive refuses it, if it cannot be had again
/// within [`CLIENT_RETURN_WITHIN`], or at `until`.
#[derive(Debug)]
pub(super) struct Resuming {
    /// `None` once it is over.
    stream: Option<EventStream>,
    /// What is asked again; `None`: nothing.
    way: Option<(HiveClient, String)>,
    until: Option<Instant>,
    /// The number of the last event.
    pub last: Option<u64>,
    /// The start of the hive that the numbers are of, where they are of one.
    pub boot_id: Option<String>,
    /// The next event is the first of its connection.
    pub is_new: bool,
    connected_at: Instant,
    /// Since when no event came for want of a connection that lasts.
    broken_since: Option<Instant>,
    pause: Duration,
}

impl Resuming {
    /// Asks `client`'s hive for the stream at `path`.
    pub fn begin(
        client: &HiveClient,
        path: String,
        last: Option<u64>,
        until: Option<Instant>,
    ) -> Result<Self, ClientError> {
        let mut resuming = Self { last, until, ..Self::over() };
        resuming.way = Some((client.clone(), path));
        resuming.connect()?;
        Ok(resuming)
    }

    /// A stream that is not asked for again.
    pub fn once(stream: EventStream) -> Self {
        Self { stream: Some(stream), ..Self::over() }
    }

    fn over() -> Self {
        Self {
            stream: None,
            way: None,
            until: None,
            last: None,
            boot_id: None,
            is_new: true,
            connected_at: Instant::now(),
            broken_since: None,
            pause: CLIENT_RETURN_FIRST,
        }
    }

    /// From now on, an end of the connection is the end.
    pub fn forget_way(&mut self) {
        self.way = None;
    }

    /// Nothing comes any more.
    pub fn end(&mut self) {
        (self.stream, self.way) = (None, None);
    }

    /// Asks for the stream. Whoever has no way is told nothing.
    pub fn connect(&mut self) -> Result<(), ClientError> {
        let Some((client, path)) = &self.way else { return Ok(()) };
        let mut request = client.patient(client.getting(path), self.until)?;
        if let Some(last) = self.last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        if let Some(boot_id) = &self.boot_id {
            request = request.header(BOOT_HEADER, boot_id);
        }
        self.stream = Some(events(request.call().map_err(failed)?)?);
        (self.is_new, self.connected_at) = (true, Instant::now());
        Ok(())
    }

    /// Whether it may be asked for again.
    pub fn has_way(&self) -> bool {
        self.way.is_some()
    }

    fn come_back(&mut self, mut error: ClientError) -> Result<(), ClientError> {
        let now = Instant::now();
        if now.duration_since(self.connected_at) > CLIENT_RETURN_WITHIN {
            (self.broken_since, self.pause) = (None, CLIENT_RETURN_FIRST);
        }
        let give_up = *self.broken_since.get_or_insert(now) + CLIENT_RETURN_WITHIN;
        let give_up = self.until.map_or(give_up, |until| until.min(give_up));
        loop {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(ClientError::TimedOut);
            }
            if self.way.is_none() || !error.is_of_the_line() || Instant::now() >= give_up {
                return Err(error);
            }
            std::thread::sleep(self.pause.min(give_up.saturating_duration_since(Instant::now())));
            self.pause = (self.pause * 2).min(CLIENT_RETURN_MAX);
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(another) => error = another,
            }
        }
    }
}

impl Iterator for Resuming {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let error = match self.stream.as_mut()?.next() {
                Some(Ok(event)) => {
                    self.last = event.id.or(self.last);
                    (self.broken_since, self.pause) = (None, CLIENT_RETURN_FIRST);
                    return Some(Ok(event));
                }
                Some(Err(error)) => error,
                None => {
                    self.stream = None;
                    return None;
                }
            };
            if let Err(error) = self.come_back(error) {
                self.end();
                return Some(Err(error));
            }
        }
    }
}
