//! Answers become bytes: head and body in one buffer, so that they leave in one write.
//!
//! tiny_http's `Response::raw_print` is not used for it: it puts a `Content-Length` on a 204, drops
//! `Connection: close`, and boxes a reader and re-parses every header line for each answer. Its table of
//! reason phrases is.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tiny_http::StatusCode;

use super::Answer;
use super::conn::Framing;

/// What is left to do with the connection once an answer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    Keep,
    /// It is closed, and the answer says so.
    Close,
}

/// Appends `answer` to `out`, framed for the request that `framing` tells of.
pub(crate) fn answer(out: &mut Vec<u8>, answer: &Answer, framing: &Framing, after: After, date: &Date) {
    let body = answer.body.as_bytes();
    head(out, answer.status, framing, after, date);
    for (name, value) in &answer.headers {
        header(out, name, value);
    }
    if matches!(answer.status, 204 | 304) {
        out.extend_from_slice(b"\r\n");
        return;
    }
    write(out, format_args!("Content-Length: {}\r\n\r\n", body.len()));
    if !framing.head_only {
        out.extend_from_slice(body);
    }
}

/// Appends the head of an event stream to `out`.
pub(crate) fn stream_head(out: &mut Vec<u8>, framing: &Framing, after: After, date: &Date) {
    head(out, 200, framing, after, date);
    header(out, "Content-Type", "text/event-stream");
    header(out, "Cache-Control", "no-store");
    if framing.http_1_1 {
        header(out, "Transfer-Encoding", "chunked");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `data` as a chunk to `out`; nothing if there is none: an empty chunk would be the last.
pub(crate) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write(out, format_args!("{:x}\r\n", data.len()));
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// The chunk that ends a stream.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What a client that expects it gets before it sends its body.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Status line and the lines that every answer has.
fn head(out: &mut Vec<u8>, status: u16, framing: &Framing, after: After, date: &Date) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: ");
    } else {
        let reason = StatusCode(status).default_reason_phrase();
        write(out, format_args!("HTTP/1.1 {status} {reason}\r\nDate: "));
    }
    out.extend_from_slice(date.text.as_bytes());
    out.extend_from_slice(b"\r\nX-Correlation-Id: ");
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    out.extend_from_slice(framing.correlation.hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(match (after, framing.http_1_1) {
        (After::Keep, true) => b"\r\n",
        (After::Keep, false) => b"\r\nConnection: keep-alive\r\n",
        (After::Close, _) => b"\r\nConnection: close\r\n",
    });
}

/// A header line; what could end it early becomes a space.
fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    out[start..].iter_mut().filter(|b| b.is_ascii_control()).for_each(|b| *b = b' ');
    out.extend_from_slice(b"\r\n");
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all that is written");
}

/// The `Date` of answers, made anew when the second changes.
#[derive(Debug)]
pub(crate) struct Date {
    second: u64,
    text: String,
}

impl Date {
    pub(crate) fn new() -> Self {
        let mut date = Self { second: u64::MAX, text: String::new() };
        date.refresh();
        date
    }

    /// Looks at the clock.
    pub(crate) fn refresh(&mut self) {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        if since_1970.as_secs() != self.second {
            self.second = since_1970.as_secs();
            // A clock beyond the year 9999 gets no right date; the request still gets its answer.
            let second = i64::try_from(self.second).unwrap_or(i64::MAX);
            let now = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            self.text = DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap_or_default();
        }
    }
}
