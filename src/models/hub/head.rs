//! What heads of answers say: ranges, refusals, when to come back, where a list goes on. Pure.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use ureq::http::HeaderMap;

use crate::limits::RETRY_AFTER_MAX;
use crate::models::remote::{Digest, HubError, RemoteFile};

/// What a question is about: it decides what an answer without a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Repository,
    File,
}

/// A header that is there once and is plain text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Why the hub refuses, by its status and `X-Error-Code`; `with_token` is whether one was shown.
pub(super) fn refusal(
    status: u16,
    headers: &HeaderMap,
    about: About,
    with_token: bool,
    now: Timestamp,
) -> HubError {
    match text(headers, "x-error-code") {
        Some("RepoNotFound") => return HubError::NoRepository { with_token },
        Some("GatedRepo") => return HubError::Denied { with_token },
        Some("RevisionNotFound") => return HubError::NoRevision,
        Some("EntryNotFound") => return HubError::NoFile,
        _ => {}
    }
    match (status, about) {
        (401, About::Repository) if !with_token => HubError::NoRepository { with_token },
        (401 | 403, _) => HubError::Denied { with_token },
        (404 | 410, About::Repository) => HubError::NoRepository { with_token },
        (404 | 410, About::File) => HubError::NoFile,
        (408 | 429 | 500..=599, _) => {
            HubError::Busy { status, retry_after: retry_after(status, headers, now) }
        }
        (416, _) => HubError::BadAnswer("the file is shorter than its list says"),
        _ => HubError::BadAnswer("a status that means nothing here"),
    }
}

/// Refuses bytes that come packed, which was not asked for: their length and place would be others.
pub(super) fn check_unpacked(headers: &HeaderMap) -> Result<(), HubError> {
    match text(headers, "content-encoding") {
        Some(coding) if !coding.eq_ignore_ascii_case("identity") => {
            Err(HubError::BadAnswer("the bytes are packed, which was not asked for"))
        }
        _ => Ok(()),
    }
}

/// When to come back. A 429 for a rate that is used up says so in `RateLimit`; else it is `Retry-After`.
fn retry_after(status: u16, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    // What the hub's own clock says now, if it says: ours may be wrong.
    let its_now = text(headers, "date").and_then(|value| DateTimeParser::new().parse_timestamp(value).ok());
    let now = its_now.unwrap_or(now);
    let limit = || text(headers, "ratelimit").filter(|_| status == 429).and_then(rate_limit);
    limit().or_else(|| text(headers, "retry-after").and_then(|value| moment(value, now)))
}

/// Seconds, or a date of HTTP; at most [`RETRY_AFTER_MAX`].
fn moment(value: &str, now: Timestamp) -> Option<Duration> {
    let wait = if is_digits(value) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let then = DateTimeParser::new().parse_timestamp(value).ok()?;
        Duration::try_from(then.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// When a rate that is used up begins anew: `"api";r=0;t=55`.
fn rate_limit(value: &str) -> Option<Duration> {
    let number = |name: &str| {
        let mut fields = value.split(';').skip(1).filter_map(|field| field.split_once('='));
        let (_, number) = fields.find(|(field, _)| field.trim() == name)?;
        Some(number.trim()).filter(|number| is_digits(number))
    };
    let is_used_up = number("r")?.bytes().all(|b| b == b'0');
    let seconds = number("t")?.parse().unwrap_or(u64::MAX);
    is_used_up.then(|| Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The bytes of `Content-Range: bytes 0-4/10`, and the length of the whole, if it is told.
pub(super) fn content_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let number = |digits: &str| is_digits(digits).then(|| digits.parse::<u64>().ok()).flatten();
    let (unit, rest) = value.split_once(' ')?;
    let (range, whole) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = number(first)?..number(last)?.checked_add(1)?;
    let whole = if whole == "*" { None } else { Some(number(whole)?) };
    let good = unit.eq_ignore_ascii_case("bytes")
        && !range.is_empty()
        && whole.is_none_or(|whole| range.end <= whole);
    good.then_some((range, whole))
}

/// Where `Link: <…>; rel="next"` says that a list goes on.
pub(super) fn next_link(value: &str) -> Option<&str> {
    let is_next = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        })
    };
    let mut rest = value;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or_default();
        if parameters.split([';', ',']).any(is_next) {
            return Some(target);
        }
        rest = &after[parameters.len()..];
    }
}

/// Whether what the hub says of the file that it links to is what it listed.
pub(super) fn check_linked(headers: &HeaderMap, file: &RemoteFile) -> Result<(), HubError> {
    let size = text(headers, "x-linked-size");
    if size.is_some_and(|size| size.parse() != Ok(file.bytes)) {
        return Err(HubError::BadAnswer("the file has another length than its list says"));
    }
    let etag = text(headers, "x-linked-etag").map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    if etag.is_some_and(|etag| !is_name_of(etag, &file.digest)) {
        return Err(HubError::OTHER_FILE);
    }
    Ok(())
}

fn is_name_of(etag: &str, digest: &Digest) -> bool {
    digest.to_string().eq_ignore_ascii_case(etag)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ureq::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn refused(status: u16, lines: &[(&'static str, &str)], about: About, with_token: bool) -> HubError {
        refusal(status, &headers(lines), about, with_token, "2015-10-21T07:27:00Z".parse().unwrap())
    }

    #[test]
    fn the_hubs_code_says_more_than_its_status() {
        for (status, code, meant) in [
            (404, "RepoNotFound", HubError::NoRepository { with_token: true }),
            (401, "RepoNotFound", HubError::NoRepository { with_token: true }),
            (403, "GatedRepo", HubError::Denied { with_token: true }),
            (404, "RevisionNotFound", HubError::NoRevision),
            (404, "EntryNotFound", HubError::NoFile),
            (403, "SomethingNew", HubError::Denied { with_token: true }),
        ] {
            assert_eq!(refused(status, &[("x-error-code", code)], About::Repository, true), meant, "{code}");
        }
    }

    #[test]
    fn without_a_code_it_depends_on_what_was_asked() {
        let (repository, file) = (About::Repository, About::File);
        for (status, about, with_token, meant) in [
            (401, repository, false, HubError::NoRepository { with_token: false }),
            (401, repository, true, HubError::Denied { with_token: true }),
            (401, file, false, HubError::Denied { with_token: false }),
            (403, file, true, HubError::Denied { with_token: true }),
            (404, repository, false, HubError::NoRepository { with_token: false }),
            (404, file, false, HubError::NoFile),
            (500, file, false, HubError::Busy { status: 500, retry_after: None }),
            (400, file, false, HubError::BadAnswer("a status that means nothing here")),
            (204, file, false, HubError::BadAnswer("a status that means nothing here")),
        ] {
            assert_eq!(refused(status, &[], about, with_token), meant, "{status}");
        }
    }

    #[test]
    fn who_is_busy_says_when_to_come_back() {
        let wait = |lines: &[_]| match refused(429, lines, About::File, false) {
            HubError::Busy { retry_after, .. } => retry_after.map(|wait| wait.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), Some(60));
        assert_eq!(wait(&[("retry-after", "Thu, 21 Oct 2010 07:28:00 GMT")]), Some(0));
        let dated =
            [("date", "Sat, 01 Jan 2050 00:00:00 GMT"), ("retry-after", "Sat, 01 Jan 2050 00:00:09 GMT")];
        assert_eq!(wait(&dated), Some(9), "the clock that counts is the hub's");
        let longest = RETRY_AFTER_MAX.as_secs();
        assert_eq!(wait(&[("retry-after", "99999999999999999999999")]), Some(longest));
        assert_eq!(wait(&[("retry-after", "Thu, 31 Dec 2099 23:59:59 GMT")]), Some(longest));
        assert_eq!(wait(&[("ratelimit", r#""api";r=0;t=55"#), ("retry-after", "7")]), Some(55));
        assert_eq!(wait(&[("ratelimit", r#""api"; r = 3; t = 55"#), ("retry-after", "7")]), Some(7));
        for wrong in ["", "soon", "-1", "1.5", "+3"] {
            assert_eq!(wait(&[("retry-after", wrong), ("ratelimit", wrong)]), None, "{wrong}");
        }
        let other = refused(503, &[("ratelimit", r#""api";r=0;t=55"#)], About::File, false);
        assert_eq!(other, HubError::Busy { status: 503, retry_after: None });
    }

    #[test]
    fn a_range_is_read_exactly() {
        assert_eq!(content_range("bytes 0-4/10"), Some((0..5, Some(10))));
        assert_eq!(content_range("Bytes 5-9/*"), Some((5..10, None)));
        let wrong =
            ["", "bytes", "bytes */10", "bytes 4-3/10", "bytes 0-10/10", "items 0-4/10", "bytes 0-4/x"];
        for wrong in
            wrong.into_iter().chain(["bytes -4/10", "bytes +0-4/10", "bytes 0-18446744073709551615/*"])
        {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next_link(r#"<https://h/a?b=1,2>; rel="next""#), Some("https://h/a?b=1,2"));
        assert_eq!(next_link(r#"</p>; rel="prev", </n>; title="x"; rel=next"#), Some("/n"));
        assert_eq!(next_link(r#"</n>; rel="first next""#), Some("/n"));
        for none in ["", "<", "</n>", r#"</n>; rel="nextish""#, r#"</n; rel="next""#, r#"</n>; title="next""#]
        {
            assert_eq!(next_link(none), None, "{none}");
        }
    }

    #[test]
    fn a_file_that_is_not_as_listed_is_refused() {
        let file = RemoteFile { path: "f".into(), bytes: 10, digest: Digest::Sha256([0xab; 32]) };
        let name = "ab".repeat(32);
        let check = |name, value: &str| check_linked(&headers(&[(name, value)]), &file).is_ok();
        assert!(check("x-linked-size", "10") && check("etag", "what the other host calls it"));
        assert!(!check("x-linked-size", "11") && !check("x-linked-size", ""));
        assert!(
            check("x-linked-etag", &format!("\"{name}\""))
                && check("x-linked-etag", &format!("W/\"{name}\""))
        );
        assert!(!check("x-linked-etag", &"ac".repeat(32)));
    }

    proptest! {
        #[test]
        fn no_header_breaks_a_parser(value in "[ -~]{0,60}", range in any::<Range<u32>>(), whole in any::<u32>()) {
            let _ = (next_link(&value), rate_limit(&value), moment(&value, Timestamp::UNIX_EPOCH));
            if let Some((range, whole)) = content_range(&value) {
                prop_assert!(!range.is_empty() && whole.is_none_or(|whole| range.end <= whole));
            }
            let written = format!("bytes {}-{}/{whole}", range.start, range.end);
            let good = range.start <= range.end && range.end < whole;
            prop_assert_eq!(content_range(&written).is_some(), good);
        }
    }
}
