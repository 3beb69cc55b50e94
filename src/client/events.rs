//! What happens in a hive, as it happens.

use std::time::Instant;

use serde::de::DeserializeOwned;

use super::resume::Resuming;
use super::{ClientError, HiveClient, sse};
use crate::api::{DownloadEvent, HiveEvent, Worker};

/// Something that happens in a hive.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The whole picture begins: whatever was known of workers and downloads is to be forgotten. One event for each
    /// that there is now follows, and an [`Event::Hive`] ends the picture. It is the first event, and comes again
    /// whenever changes were missed: the hive was started anew, or more happened than it keeps while there was no
    /// connection.
    Picture,
    /// A worker as it is now; at its end with the state [`Gone`](crate::api::State::Gone) and its `exit`.
    Worker(Box<Worker>),
    /// How far a download is.
    Download(DownloadEvent),
    /// What the hive does.
    Hive(HiveEvent),
}

/// The changes in a hive, each once and in order, from a whole [`Picture`](Event::Picture) on. Waits for each.
///
/// When the connection ends it comes back after the last change. What was seen already comes again only behind an
/// [`Event::Picture`]. Does not end by itself; ends with an error if the hive refuses, or is away for
/// [`CLIENT_RETURN_WITHIN`](crate::limits::CLIENT_RETURN_WITHIN).
#[derive(Debug)]
pub struct Events {
    stream: Resuming,
    /// What an [`Event::Picture`] was told for.
    held: Option<Event>,
}

impl HiveClient {
    /// `GET /v1/events`: the whole picture of workers and downloads, then each change.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    ///
    /// ```
    /// use rbee_hive::client::Event;
    /// # let hive = rbee_hive::mock::example::hive();
    /// let mut workers = std::collections::BTreeMap::new();
    /// for event in hive.events()? {
    ///     match event? {
    ///         Event::Picture => workers.clear(),
    ///         Event::Worker(worker) => drop(workers.insert(worker.worker_id.clone(), worker)),
    ///         Event::Download(download) => println!("{download:?}"),
    ///         Event::Hive(hive) => println!("{} workers, {:?}", workers.len(), hive.status),
    ///     }
    /// #   break;
    /// }
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn events(&self) -> Result<Events, ClientError> {
        Events::begin(self, None)
    }
}

impl Events {
    /// At most until then.
    pub(super) fn begin(client: &HiveClient, until: Option<Instant>) -> Result<Self, ClientError> {
        let stream = Resuming::begin(client, "/v1/events".to_owned(), None, until)?;
        Ok(Self { stream, held: None })
    }

    /// What an event means; `None` for one of a later version.
    fn read(&mut self, event: &sse::Event) -> Result<Option<Event>, ClientError> {
        Ok(Some(match event.name.as_str() {
            "worker" => Event::Worker(Box::new(parsed(event)?)),
            "download" => Event::Download(parsed(event)?),
            "hive" => Event::Hive(parsed(event)?),
            _ => return Ok(None),
        }))
    }

    /// Whether a picture begins with the first event of a connection, after the change numbered `last`: a change
    /// has the number after that, and is of the same start of the hive.
    fn is_picture(&self, last: Option<u64>, number: Option<u64>, event: Option<&Event>) -> bool {
        let goes_on = last.is_some() && number == last.and_then(|last| last.checked_add(1));
        let is_other = match event {
            Some(Event::Hive(hive)) => self.stream.boot_id.as_ref() != Some(&hive.boot_id),
            _ => false,
        };
        !goes_on || is_other
    }
}

fn parsed<T: DeserializeOwned>(event: &sse::Event) -> Result<T, ClientError> {
    serde_json::from_str(&event.data).map_err(|error| ClientError::BadAnswer(error.to_string()))
}

impl Iterator for Events {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(event) = self.held.take() {
            return Some(Ok(event));
        }
        loop {
            let before = self.stream.last;
            let raw = match self.stream.next()? {
                Ok(raw) => raw,
                Err(error) => return Some(Err(error)),
            };
            let event = match self.read(&raw) {
                Ok(event) => event,
                Err(error) => {
                    self.stream.end();
                    return Some(Err(error));
                }
            };
            let is_first = std::mem::take(&mut self.stream.is_new);
            let is_picture = is_first && self.is_picture(before, raw.id, event.as_ref());
            if is_picture {
                // Who loses the connection within the picture needs it again, from its beginning.
                self.stream.last = raw.id;
            }
            if let Some(Event::Hive(hive)) = &event {
                self.stream.boot_id = Some(hive.boot_id.clone());
            }
            match (is_picture, event) {
                (true, event) => {
                    self.held = event;
                    return Some(Ok(Event::Picture));
                }
                (false, Some(event)) => return Some(Ok(event)),
                (false, None) => {}
            }
        }
    }
}
