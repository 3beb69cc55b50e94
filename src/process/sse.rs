//! A log as server-sent events: one line, one event.

use crate::limits;
use crate::process::log::is_continuation;

/// Bytes in, events out. Lines end with `\n`, `\r\n` or `\r`, so that each step of a progress bar is an
/// event; invalid UTF-8 is replaced. The `id` of an event is the place in the log behind it. A line that is too
/// long comes in pieces, and a field `more`, which other clients pass over, tells that the next event goes on with it.
#[derive(Debug, Default)]
pub(super) struct LineEvents {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The last byte was a `\r` that ended a line: a `\n` belongs to it.
    after_return: bool,
    /// The next byte is the last one of an event that the reader has seen.
    is_seen: bool,
}

impl LineEvents {
    /// Events for who has seen the byte that comes first, and all before it.
    pub(super) fn resumed() -> Self {
        Self { is_seen: true, ..Self::default() }
    }

    /// Appends an event to `out` for each line that ends in `bytes`, or gets too long. `end_place`: the
    /// place behind them.
    pub(super) fn on_bytes(&mut self, mut bytes: &[u8], end_place: u64, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.is_seen) {
                self.after_return = bytes[0] == b'\r';
                bytes = &bytes[1..];
                continue;
            }
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let room = limits::FOLLOWER_LINE_BYTES_MAX - self.line.len();
            // What follows a line of just that length may be its end.
            let end = bytes.iter().take(room + 1).position(|b| matches!(b, b'\n' | b'\r'));
            let taken = end.unwrap_or(room.min(bytes.len()));
            self.line.extend_from_slice(&bytes[..taken]);
            let ended_by = end.map(|end| bytes[end]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            let place = end_place - bytes.len() as u64;
            match ended_by {
                Some(b'\r') => {
                    self.after_return = !self.line.is_empty();
                    if self.after_return {
                        self.emit(place, out);
                    }
                }
                Some(_) => self.emit(place, out),
                None if bytes.is_empty() => {}
                None => {
                    let whole = whole_characters(&self.line);
                    let rest = self.line.split_off(whole);
                    out.extend_from_slice(b"more: true\n");
                    self.emit(place - rest.len() as u64, out);
                    self.line = rest;
                }
            }
        }
    }

    /// What comes next stands at `place`, not at `expected`: what was between is lost, which an event says. A line
    /// that it cuts off is one of its own.
    pub(super) fn on_gap(&mut self, expected: u64, place: u64, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            self.emit(expected, out);
        }
        let lost = place.saturating_sub(expected + u64::from(self.is_seen));
        *self = Self::default();
        if lost > 0 {
            self.line.extend_from_slice(format!("--- {lost} bytes are lost ---").as_bytes());
            self.emit(place, out);
        }
    }

    /// Appends what is left as an event, and the one that says that there will be no other.
    pub(super) fn on_end(&mut self, place: u64, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            self.emit(place, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// Makes the line an event.
    fn emit(&mut self, place: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("id: {place}\ndata: ").as_bytes());
        out.extend_from_slice(String::from_utf8_lossy(&self.line).as_bytes());
        out.extend_from_slice(b"\n\n");
        self.line.clear();
    }
}

/// How many of `bytes` do not belong to a character whose end is missing.
fn whole_characters(bytes: &[u8]) -> usize {
    let continuations = bytes.iter().rev().take(3).take_while(|b| is_continuation(**b)).count();
    let Some(lead) = bytes.len().checked_sub(continuations + 1) else { return bytes.len() };
    let needed = match bytes[lead] {
        0xC0..=0xDF => 1,
        0xE0..=0xEF => 2,
        0xF0..=0xF7 => 3,
        _ => 0,
    };
    if needed > continuations { lead } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of the events.
    fn events(pieces: &[&[u8]]) -> String {
        let text = with_ids(LineEvents::default(), pieces, 0);
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("id: "));
        lines.collect()
    }

    fn with_ids(mut events: LineEvents, pieces: &[&[u8]], mut place: u64) -> String {
        let mut out = Vec::new();
        for piece in pieces {
            place += piece.len() as u64;
            events.on_bytes(piece, place, &mut out);
        }
        events.on_end(place, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn who_comes_back_with_an_id_misses_nothing_and_sees_nothing_twice() {
        let long = "€".repeat(limits::FOLLOWER_LINE_BYTES_MAX / 2);
        let log = format!("eins\r\n\nzwölf\r10 %\r20 %\r\n{long}\nend");
        let whole = with_ids(LineEvents::default(), &[log.as_bytes()], 0);
        let events: Vec<&str> = whole.split_inclusive("\n\n").collect();
        assert!(events.len() > 8);
        for (at, event) in events[..events.len() - 1].iter().enumerate() {
            let id = event.split_once("id: ").unwrap().1.split('\n').next().unwrap();
            let seen = id.parse::<usize>().unwrap() - 1;
            let rest = with_ids(LineEvents::resumed(), &[&log.as_bytes()[seen..]], seen as u64);
            assert_eq!(rest, events[at + 1..].concat(), "after {id}");
        }
    }

    #[test]
    fn each_line_is_an_event_however_the_bytes_come() {
        let log = "eins\n\nzwölf\r\n10 %\r20 %\r\nrest".as_bytes();
        let expected = "data: eins\n\ndata: \n\ndata: zwölf\n\ndata: 10 %\n\ndata: 20 %\n\ndata: rest\n\ndata: [DONE]\n\n";
        assert_eq!(events(&[log]), expected);
        assert_eq!(events(&log.chunks(1).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn a_line_without_an_end_is_cut_between_characters() {
        let line = "€".repeat(limits::FOLLOWER_LINE_BYTES_MAX);
        let events = events(&[line.as_bytes()]);
        let pieces: Vec<&str> = events.split_terminator("\n\n").collect();
        let (last, goes_on) = pieces[..pieces.len() - 1].split_last().unwrap();
        let data = |event: &str| event.rsplit_once("data: ").unwrap().1.to_owned();
        assert!(goes_on.len() > 1 && goes_on.iter().all(|event| event.starts_with("more: true\ndata: ")));
        assert!(last.starts_with("data: "), "nothing goes on after it");
        assert!(pieces.iter().all(|event| data(event).len() <= limits::FOLLOWER_LINE_BYTES_MAX));
        assert_eq!(goes_on.iter().map(|event| data(event)).collect::<String>() + &data(last), line);
    }

    #[test]
    fn a_line_that_just_fits_is_one_event_however_the_bytes_come() {
        let line = "x".repeat(limits::FOLLOWER_LINE_BYTES_MAX);
        let log = format!("{line}\n{line}\r\nafter\n{line}");
        let expected =
            format!("data: {line}\n\ndata: {line}\n\ndata: after\n\ndata: {line}\n\ndata: [DONE]\n\n");
        for size in [1000, line.len(), log.len()] {
            let pieces: Vec<&[u8]> = log.as_bytes().chunks(size).collect();
            assert!(events(&pieces) == expected, "in pieces of {size}");
        }
    }

    #[test]
    fn where_bytes_are_lost_a_line_ends_and_an_event_says_so() {
        let (mut events, mut out) = (LineEvents::default(), Vec::new());
        events.on_bytes(b"one\ntw", 6, &mut out);
        events.on_gap(6, 106, &mut out);
        events.on_bytes(b"ee\n", 109, &mut out);
        let expected = "id: 4\ndata: one\n\nid: 6\ndata: tw\n\nid: 106\ndata: --- 100 bytes are lost ---\n\nid: 109\ndata: ee\n\n";
        assert_eq!(String::from_utf8(std::mem::take(&mut out)).unwrap(), expected);
        // Who comes back after one of these events, when the byte before it is gone.
        let mut events = LineEvents::resumed();
        events.on_gap(105, 106, &mut out);
        events.on_bytes(b"ee\n", 109, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "id: 109\ndata: ee\n\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(events(&[b"a\xffb\n"]), "data: a\u{fffd}b\n\ndata: [DONE]\n\n");
    }
}
