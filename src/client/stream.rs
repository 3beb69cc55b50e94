//! Reading a stream of events as it comes.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read as _};

use ureq::BodyReader;

use super::ClientError;
use super::sse::{Event, Parser};
use super::transport::failed;
use crate::limits::CLIENT_READ_BYTES;

/// What says that there will be no other event.
const DONE: &str = "[DONE]";

/// The events of a stream. Waits for each; ends after the hive has said so, or with an error.
pub(super) struct EventStream {
    /// None once it is over.
    stream: Option<BodyReader<'static>>,
    parser: Parser,
    events: VecDeque<Event>,
    /// What is wrong with the stream after the events that came before it.
    wrong: Option<ClientError>,
}

impl EventStream {
    pub(super) fn new(stream: BodyReader<'static>) -> Self {
        Self { stream: Some(stream), parser: Parser::default(), events: VecDeque::new(), wrong: None }
    }

    /// Nothing comes any more.
    pub(super) fn end(&mut self) {
        (self.stream, self.wrong) = (None, None);
        self.events.clear();
    }

    /// Reads on; notes what is wrong.
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut bytes = [0; CLIENT_READ_BYTES];
        let read = loop {
            match stream.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let wrong = match read {
            Ok(0) => Some(ClientError::Unreachable(io::ErrorKind::UnexpectedEof)),
            Ok(count) => {
                let parsed = self.parser.on_bytes(&bytes[..count], &mut self.events);
                parsed.err().map(|wrong| ClientError::BadAnswer(wrong.to_string()))
            }
            Err(error) => Some(failed(error.into())),
        };
        if wrong.is_some() {
            self.wrong = wrong;
            self.stream = None;
        }
    }
}

impl Iterator for EventStream {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.events.pop_front() {
                Some(event) if event.data == DONE && event.id.is_none() => {
                    self.end();
                    return None;
                }
                Some(event) => return Some(Ok(event)),
                None if self.stream.is_none() => return self.wrong.take().map(Err),
                None => self.read(),
            }
        }
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("is_over", &self.stream.is_none()).finish_non_exhaustive()
    }
}
