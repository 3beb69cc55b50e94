//! Server-sent events, read one by one.

use std::io::{self, BufRead, Read as _};

use crate::limits;

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// What kind of event it is; `message` where the stream does not say.
    pub name: String,
    /// Its data; several lines are joined with `\n`.
    pub data: String,
}

/// The events of a stream, up to its end.
///
/// Comments and fields that nobody here asks for are passed over, and so is an event that the end of the
/// stream cut off. A line beyond [`limits::BODY_BYTES_MAX`] is an error.
pub struct Events<R>(R);

impl<R: BufRead> Events<R> {
    /// Reads events from `stream`.
    pub fn new(stream: R) -> Self {
        Self(stream)
    }

    /// A line without its end; `None` when the stream is over.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        (&mut self.0).take(limits::BODY_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            let cut = line.len() < limits::BODY_BYTES_MAX;
            return if cut { Ok(None) } else { Err(io::Error::other("an event's line is too long")) };
        }
        line.pop_if(|last| *last == b'\r');
        String::from_utf8(line).map(Some).map_err(io::Error::other)
    }
}

impl<R: BufRead> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<io::Result<Event>> {
        let (mut name, mut data) = (None, Vec::new());
        loop {
            let line = match self.line() {
                Ok(line) => line?,
                Err(error) => return Some(Err(error)),
            };
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "event" => name = Some(value),
                "data" => data.push(value),
                "" if line.is_empty() && !data.is_empty() => {
                    let name = name.unwrap_or_else(|| "message".to_owned());
                    return Some(Ok(Event { name, data: data.join("\n") }));
                }
                "" if line.is_empty() => name = None,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8]) -> Vec<Event> {
        Events::new(stream).map(Result::unwrap).collect()
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let stream = b"id: 1\nevent: worker\ndata: {\"a\":1}\n\ndata:bare\n\n";
        assert_eq!(events(stream), [event("worker", "{\"a\":1}"), event("message", "bare")]);
    }

    #[test]
    fn comments_and_empty_events_are_passed_over() {
        let stream = b": hello\n\nevent: nothing\n\n:\r\ndata: one\r\ndata:  two\r\n\r\n";
        assert_eq!(events(stream), [event("message", "one\n two")]);
    }

    #[test]
    fn what_the_end_cuts_off_is_no_event() {
        assert_eq!(events(b"data: whole\n\ndata: half"), [event("message", "whole")]);
        assert_eq!(events(b"data: half\n"), []);
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let long = [b"data: ", b"x".repeat(limits::BODY_BYTES_MAX).as_slice()].concat();
        assert!(Events::new(long.as_slice()).next().unwrap().is_err());
        assert!(Events::new(b"data: \xff\n\n".as_slice()).next().unwrap().is_err());
    }
}
