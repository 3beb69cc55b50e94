//! Server-sent events from pieces of bytes, as the HTML standard has them. Pure: it neither reads nor waits.

use std::collections::VecDeque;
use std::fmt;

use crate::limits::{CLIENT_EVENT_BYTES_MAX, CLIENT_EVENT_LINE_BYTES_MAX};

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, if it has one.
    pub id: Option<u64>,
    /// What kind of event it is; empty where the stream does not say.
    pub name: String,
    /// Its data; several lines are joined with `\n`.
    pub data: String,
    /// The next event goes on with this one's line: a field `more`, of a hive alone.
    pub more: bool,
}

/// A stream of events is no hive's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotEvents {
    /// A line of more than [`CLIENT_EVENT_LINE_BYTES_MAX`].
    LongLine,
    /// An event of more than [`CLIENT_EVENT_BYTES_MAX`].
    LongEvent,
}

impl fmt::Display for NotEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LongLine => "a line of an event is too long",
            Self::LongEvent => "an event is too long",
        })
    }
}

impl std::error::Error for NotEvents {}

/// Bytes in, events out, however the bytes are cut. Lines end with `\n`, `\r\n` or `\r`; comments, other fields
/// and events without data are passed over, and so is one that the end cuts off; what is no UTF-8 is replaced.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The last byte was a `\r` that ended a line: a `\n` belongs to it.
    after_return: bool,
    /// A line has ended: what comes now is not the stream's beginning, where a byte order mark may stand.
    is_begun: bool,
    id: Option<u64>,
    name: String,
    data: Option<String>,
    more: bool,
}

impl Parser {
    /// Appends to `events` those that end in `bytes`.
    ///
    /// # Errors
    /// If the stream goes beyond a limit; the events before that are appended. There is no going on after it.
    pub fn on_bytes(&mut self, mut bytes: &[u8], events: &mut VecDeque<Event>) -> Result<(), NotEvents> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + piece.len() > CLIENT_EVENT_LINE_BYTES_MAX {
                return Err(NotEvents::LongLine);
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { return Ok(()) };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.on_line(&String::from_utf8_lossy(&line), events)?;
        }
        Ok(())
    }

    fn on_line(&mut self, line: &str, events: &mut VecDeque<Event>) -> Result<(), NotEvents> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let line = if is_first { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        if line.is_empty() {
            let (id, name, more) =
                (self.id.take(), std::mem::take(&mut self.name), std::mem::take(&mut self.more));
            events.extend(self.data.take().map(|data| Event { id, name, data, more }));
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) if data.len() + 1 + value.len() > CLIENT_EVENT_BYTES_MAX => {
                    return Err(NotEvents::LongEvent);
                }
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" => self.id = value.parse().ok().filter(|_| value.bytes().all(|b| b.is_ascii_digit())),
            "event" => value.clone_into(&mut self.name),
            "more" => self.more = value == "true",
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(pieces: &[&[u8]]) -> (Vec<Event>, Option<NotEvents>) {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        let wrong = pieces.iter().find_map(|piece| parser.on_bytes(piece, &mut events).err());
        (events.into(), wrong)
    }

    fn event(id: Option<u64>, name: &str, data: &str) -> Event {
        Event { id, name: name.to_owned(), data: data.to_owned(), more: false }
    }

    #[test]
    fn an_event_has_its_number_name_and_data() {
        let stream = "\u{feff}id: 7\nevent: download\ndata: {\"a\":1}\n\n: alive\n\ndata:bare\r\rdata: zwölf\r\ndata:  two\r\n\r\n";
        let expected = [
            event(Some(7), "download", "{\"a\":1}"),
            event(None, "", "bare"),
            event(None, "", "zwölf\n two"),
        ];
        assert_eq!(parsed(&[stream.as_bytes()]), (expected.to_vec(), None));
    }

    #[test]
    fn what_has_no_data_or_no_end_is_no_event() {
        for stream in ["event: x\nid: 1\n\n", "data: half\n", "data: half", ":\n\n", "\n\n\n", "retry: 5\n\n"]
        {
            assert_eq!(parsed(&[stream.as_bytes()]), (vec![], None), "{stream:?}");
        }
        let more = parsed(&[b"more: true\ndata: x\n\nmore: no\ndata: x\n\ndata: x\n\n"]).0;
        assert_eq!(
            more,
            [Event { more: true, ..event(None, "", "x") }, event(None, "", "x"), event(None, "", "x")]
        );
        assert_eq!(parsed(&[b"id: 1\n\ndata\n\n"]).0, [event(None, "", "")], "data without a value is empty");
        for id in ["x", "", "+1", "-1", "1 ", "99999999999999999999"] {
            let stream = format!("id: {id}\ndata: x\n\n");
            assert_eq!(parsed(&[stream.as_bytes()]).0, [event(None, "", "x")], "{id:?}");
        }
    }

    #[test]
    fn a_line_and_an_event_have_an_end() {
        let flood = vec![b'x'; CLIENT_EVENT_LINE_BYTES_MAX + 1];
        assert_eq!(
            parsed(&[b"data: x\n\n", &flood]),
            (vec![event(None, "", "x")], Some(NotEvents::LongLine))
        );
        let line = [b"data:", &flood[..CLIENT_EVENT_LINE_BYTES_MAX - 5], b"\n"].concat();
        let lines = vec![line.as_slice(); CLIENT_EVENT_BYTES_MAX / CLIENT_EVENT_LINE_BYTES_MAX + 2];
        assert_eq!(parsed(&lines), (vec![], Some(NotEvents::LongEvent)));
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_events(
            stream in "((data|id|event|retry|):? ?[a-z0-9ö\u{feff}]{0,5}(\n|\r|\r\n)){0,12}[a-z:\r\n]{0,5}",
            cuts in proptest::collection::vec(0..100_usize, 0..9),
        ) {
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            prop_assert_eq!(parsed(&pieces), parsed(&[bytes]));
        }
    }
}
