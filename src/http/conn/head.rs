//! Request line and headers, and what they say about the body.

use std::mem::MaybeUninit;

use uuid::Uuid;

use super::Framing;
use super::Refusal;
use super::body::Length;
use crate::http::correlation::Correlations;
use crate::http::{ApiError, Code, Head, Method};
use crate::limits;

/// A head with nothing left to ask of its bytes.
pub(super) struct Whole {
    pub(super) head: Head,
    pub(super) framing: Framing,
    pub(super) length: Length,
}

/// A head at the start of `input` and its length, or `None` if it is not whole. `scanned` is how much of
/// `input` was looked at before in vain.
///
/// Whole lines only are parsed, and only when there is a new one: a head that comes byte by byte is
/// parsed at most once a line, and [`limits::HEADERS_MAX`] bounds the lines.
pub(super) fn parse(
    input: &[u8],
    scanned: &mut usize,
    correlations: &mut Correlations,
) -> Result<Option<(usize, Whole)>, Box<Refusal>> {
    let mut refuse = |(code, message)| Refusal::new(code, message, correlations.fresh());
    // TLS, bare line ends, text of another protocol: no line end need ever follow.
    match *input {
        [] | [b'\r'] => return Ok(None),
        [first, ..] if !first.is_ascii_alphabetic() => return Err(refuse(NOT_HTTP)),
        _ => {}
    }
    let window = &input[..input.len().min(limits::HEAD_BYTES_MAX)];
    let new_line = window[*scanned..].iter().rposition(|&b| b == b'\n');
    if let Some(end) = new_line.map(|at| *scanned + at + 1) {
        *scanned = end;
        let lines = &window[..end];
        // What stands before a bare line end is judged first, as if the rest had not arrived.
        let bare = bare_newline(lines);
        let mut headers = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(&lines[..bare.unwrap_or(end)], &mut headers) {
            Ok(httparse::Status::Complete(length)) => {
                let whole = accept(&parsed, correlations)?;
                return Ok(Some((length, whole)));
            }
            Ok(httparse::Status::Partial) if bare.is_some() => return Err(refuse(BARE_NEWLINE)),
            Ok(httparse::Status::Partial) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(refuse(TOO_MANY)),
            Err(httparse::Error::Version) if speaks_another_version(lines) => {
                return Err(refuse(OTHER_VERSION));
            }
            Err(_) => return Err(refuse(NOT_HTTP)),
        }
    }
    if window.len() == limits::HEAD_BYTES_MAX {
        return Err(refuse(TOO_LARGE));
    }
    Ok(None)
}

const NOT_HTTP: (Code, &str) = (Code::BadRequest, "this is no HTTP/1.1 request");
const BARE_NEWLINE: (Code, &str) = (Code::BadRequest, "lines end with CR LF");
const TOO_MANY: (Code, &str) = (Code::HeadTooLarge, "too many header lines");
const TOO_LARGE: (Code, &str) = (Code::HeadTooLarge, "request line and headers are too long");
const OTHER_VERSION: (Code, &str) = (Code::VersionNotSupported, "this server speaks HTTP/1.1 and HTTP/1.0");

/// Where a line feed stands without its carriage return.
fn bare_newline(lines: &[u8]) -> Option<usize> {
    let mut before = 0;
    lines.iter().position(|&b| {
        let bare = b == b'\n' && before != b'\r';
        before = b;
        bare
    })
}

/// Whether the request line ends with `HTTP/` and a number.
fn speaks_another_version(lines: &[u8]) -> bool {
    let line = lines.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    last.strip_prefix(b"HTTP/").is_some_and(|v| {
        v.first().is_some_and(u8::is_ascii_digit) && v.iter().all(|b| b.is_ascii_digit() || *b == b'.')
    })
}

/// Judges what httparse has split.
fn accept(
    parsed: &httparse::Request<'_, '_>,
    correlations: &mut Correlations,
) -> Result<Whole, Box<Refusal>> {
    let lines = &*parsed.headers;
    let correlation = match correlation(lines) {
        Some(own) => own,
        None => correlations.fresh(),
    };
    let method = parsed.method.and_then(|m| m.parse().ok()).unwrap_or(Method::Get);
    let head_only = method == Method::Head;
    let refuse = |error| Box::new(Refusal { error, correlation, head_only });

    let http_1_1 = parsed.version == Some(1);
    let target = parsed.path.unwrap_or_default();
    let (path, query) = split_target(target).map_err(refuse)?;
    check_host(lines, http_1_1).map_err(refuse)?;
    let length = body_length(lines, http_1_1).map_err(refuse)?;
    let expects_continue = expectation(lines, http_1_1).map_err(refuse)?;
    let headers = lines.iter().map(header_text).collect::<Result<_, _>>().map_err(refuse)?;

    let says = |token| values(lines, "connection").any(|value| list_has(value, token));
    let framing = Framing {
        correlation,
        http_1_1,
        keep_alive: !says("close") && (http_1_1 || says("keep-alive")),
        head_only,
        has_body: length != Length::Known(0),
        expects_continue,
    };
    let head = Head { method, path: path.to_owned(), query: query.to_owned(), headers, correlation };
    Ok(Whole { head, framing, length })
}

/// The request's own correlation, if it is a UUID in its usual form.
fn correlation(lines: &[httparse::Header<'_>]) -> Option<Uuid> {
    const HYPHENATED: usize = 36;
    let mut all = values(lines, "x-correlation-id");
    let value = all.next().filter(|v| v.len() == HYPHENATED)?;
    if all.next().is_some() { None } else { Uuid::try_parse_ascii(value).ok() }
}

/// Path and query of `/path?query`, `http://host/path?query` or `*`.
fn split_target(target: &str) -> Result<(&str, &str), ApiError> {
    let wrong = || ApiError::new(Code::BadRequest, "the request target is not acceptable");
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(wrong());
    }
    let local = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            let rest = &target[7..];
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            if end == 0 {
                return Err(wrong());
            }
            &rest[end..]
        }
        _ if target.starts_with('/') || target == "*" => target,
        _ => return Err(wrong()),
    };
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// HTTP/1.1 has exactly one `Host`, HTTP/1.0 at most one; it names a host and perhaps a port.
fn check_host(lines: &[httparse::Header<'_>], http_1_1: bool) -> Result<(), ApiError> {
    let mut hosts = values(lines, "host");
    let host = hosts.next();
    let good = match host {
        None => !http_1_1,
        Some(host) => host.iter().all(|b| b.is_ascii_graphic() && !b"/?#@\\,".contains(b)),
    };
    if good && hosts.next().is_none() {
        return Ok(());
    }
    Err(ApiError::new(Code::BadRequest, "exactly one valid Host header is needed"))
}

/// How the end of the body is known; every doubt is an error.
fn body_length(lines: &[httparse::Header<'_>], http_1_1: bool) -> Result<Length, ApiError> {
    let bad = |message: &str| Err(ApiError::new(Code::BadRequest, message));
    let mut lengths = values(lines, "content-length");
    let stated = lengths.next();
    if lengths.next().is_some() {
        return bad("more than one Content-Length");
    }
    if !has(lines, "transfer-encoding") {
        let Some(digits) = stated else { return Ok(Length::Known(0)) };
        if !digits.iter().all(u8::is_ascii_digit) {
            return bad("Content-Length is not a number");
        }
        let Some(bytes) = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<u64>().ok()) else {
            return bad("Content-Length is not a number");
        };
        return match usize::try_from(bytes) {
            Ok(bytes) if bytes <= limits::BODY_BYTES_MAX => Ok(Length::Known(bytes)),
            _ => Err(ApiError::new(Code::PayloadTooLarge, "the body is too long")),
        };
    }
    if stated.is_some() {
        return bad("Content-Length and Transfer-Encoding exclude each other");
    }
    if !http_1_1 {
        return bad("HTTP/1.0 has no Transfer-Encoding");
    }
    let codings = || values(lines, "transfer-encoding").flat_map(list);
    let chunked = codings().filter(|c| c.eq_ignore_ascii_case(b"chunked")).count();
    let chunked_last = codings().last().is_some_and(|c| c.eq_ignore_ascii_case(b"chunked"));
    let all = codings().count();
    if codings().any(<[u8]>::is_empty) || chunked > 1 || (chunked == 1 && !chunked_last) {
        return bad("Transfer-Encoding must be chunked");
    }
    if (chunked, all) == (1, 1) {
        return Ok(Length::Chunked);
    }
    Err(ApiError::new(Code::NotImplemented, "the only transfer coding spoken here is chunked"))
}

/// Whether `100 Continue` is expected.
fn expectation(lines: &[httparse::Header<'_>], http_1_1: bool) -> Result<bool, ApiError> {
    let mut all = values(lines, "expect").filter(|_| http_1_1).peekable();
    let expects = all.peek().is_some();
    if all.all(|value| value.eq_ignore_ascii_case(b"100-continue")) {
        return Ok(expects);
    }
    Err(ApiError::new(Code::ExpectationFailed, "the only expectation met here is 100-continue"))
}

/// Name and value as text; a tab stays one, so that what asks for one space gets one.
fn header_text(line: &httparse::Header<'_>) -> Result<(String, String), ApiError> {
    let value = std::str::from_utf8(trim(line.value)).ok();
    let is_hazard = |c: char| c.is_control() && c != '\t';
    match value.filter(|v| !v.contains(is_hazard)) {
        Some(value) => Ok((line.name.to_owned(), value.to_owned())),
        None => Err(ApiError::new(Code::BadRequest, "header values are UTF-8 without control characters")),
    }
}

/// The values of the lines called `name`, in order.
fn values<'a>(lines: &'a [httparse::Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    lines.iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| trim(line.value))
}

fn has(lines: &[httparse::Header<'_>], name: &'static str) -> bool {
    values(lines, name).next().is_some()
}

/// The elements of a comma-separated list.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

fn list_has(value: &[u8], token: &str) -> bool {
    list(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// `value` without the spaces and tabs around it.
fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &value[start..end]
}
