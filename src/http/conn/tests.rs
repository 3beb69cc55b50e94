use proptest::prelude::*;

use super::pieces::{check, transcript};
use super::{Parser, Step};
use crate::http::Request;
use crate::http::correlation::Correlations;
use crate::id::SystemEntropy;
use crate::limits;

/// All requests in `bytes`, and the status of the refusal that ends them.
fn requests(bytes: &[u8]) -> (Vec<Request>, Option<u16>) {
    let mut correlations = Correlations::new(Box::new(SystemEntropy::new()));
    let (mut parser, mut rest, mut requests) = (Parser::new(), bytes, Vec::new());
    loop {
        match parser.advance(rest, &mut correlations) {
            Err(refusal) => return (requests, Some(refusal.error.code().wire().0)),
            Ok((used, step)) => {
                rest = &rest[used..];
                match step {
                    Step::More => return (requests, None),
                    Step::Head(_) => {}
                    Step::Request(request, _) => requests.push(request),
                }
            }
        }
    }
}

/// Whether `head` (without the empty line) is accepted on its own; else the status that refuses it.
fn verdict(head: &str) -> Result<(), u16> {
    let bytes = format!("{head}\r\n\r\n");
    check(bytes.as_bytes());
    match requests(bytes.as_bytes()) {
        (_, Some(status)) => Err(status),
        (whole, None) => {
            assert!(whole.len() <= 1, "{head:?} is one request at most");
            Ok(())
        }
    }
}

#[test]
fn heads_are_accepted_or_refused_by_the_letter() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a", Ok(())),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a", Ok(())),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a", Err(400)),
        ("\nGET / HTTP/1.1\r\nHost: a", Err(400)),
        ("GET / HTTP/1.0", Ok(())),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a", Err(400)),
        // Host
        ("GET / HTTP/1.1", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a", Err(400)),
        ("GET / HTTP/1.1\r\nHost:", Ok(())),
        ("GET / HTTP/1.1\r\nHost: [::1]:8600", Ok(())),
        ("GET / HTTP/1.1\r\nHost: a/b", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a b", Err(400)),
        ("GET / HTTP/1.1\r\nHost : a", Err(400)),
        // Lines
        ("GET / HTTP/1.1\nHost: a", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\nX: b", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded", Err(400)),
        ("GET / HTTP/1.1\r\n Host: a", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\n: no name", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(Y): b", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x1bb", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{85}b", Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\t!", Ok(())),
        // Request line
        ("GET  / HTTP/1.1\r\nHost: a", Err(400)),
        ("GET / HTTP/1.1 \r\nHost: a", Err(400)),
        ("GET /", Err(400)),
        ("G@T / HTTP/1.1\r\nHost: a", Err(400)),
        ("\u{16}\u{3}\u{1}", Err(400)),
        ("GET / FTP/1.1\r\nHost: a", Err(400)),
        ("GET / HTTP/x.1\r\nHost: a", Err(400)),
        ("GET / http/1.1\r\nHost: a", Err(400)),
        ("GET / HTTP/2.0\r\nHost: a", Err(505)),
        ("GET / HTTP/1.2\r\nHost: a", Err(505)),
        ("GET / HTTP/0.9", Err(505)),
        ("PRI * HTTP/2.0", Err(505)),
        // Target
        ("OPTIONS * HTTP/1.1\r\nHost: a", Ok(())),
        ("GET path HTTP/1.1\r\nHost: a", Err(400)),
        ("GET /caf\u{e9} HTTP/1.1\r\nHost: a", Err(400)),
        ("GET /#part HTTP/1.1\r\nHost: a", Err(400)),
        ("GET http://a/path HTTP/1.1\r\nHost: a", Ok(())),
        ("GET http:///path HTTP/1.1\r\nHost: a", Err(400)),
        ("GET https://a/path HTTP/1.1\r\nHost: a", Err(400)),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a", Err(400)),
    ] {
        assert_eq!(verdict(head), expected, "{head:?}");
    }
}

#[test]
fn framing_in_doubt_is_refused() {
    for (lines, expected) in [
        ("Content-Length: 0", Ok(())),
        ("Content-Length: 5\r\nContent-Length: 5", Err(400)),
        ("Content-Length: 5, 5", Err(400)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Err(400)),
        ("Content-Length: abc", Err(400)),
        ("Content-Length: -1", Err(400)),
        ("Content-Length: +5", Err(400)),
        ("Content-Length: 0x5", Err(400)),
        ("Content-Length:", Err(400)),
        ("Content-Length: 5 5", Err(400)),
        ("Content-Length: 18446744073709551616", Err(400)),
        ("Content-Length: 18446744073709551615", Err(413)),
        ("Content-Length: 50000000000", Err(413)),
        ("Content-Length: 1048577", Err(413)),
        ("Content-Length: 1048576", Ok(())),
        ("Transfer-Encoding: chunked", Ok(())),
        ("Transfer-Encoding: Chunked", Ok(())),
        ("Transfer-Encoding: chunked, chunked", Err(400)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err(400)),
        ("Transfer-Encoding: chunked, gzip", Err(400)),
        ("Transfer-Encoding: gzip, chunked", Err(501)),
        ("Transfer-Encoding: gzip", Err(501)),
        ("Transfer-Encoding: identity", Err(501)),
        ("Transfer-Encoding: chunked;q=1", Err(501)),
        ("Transfer-Encoding: xchunked", Err(501)),
        ("Transfer-Encoding:", Err(400)),
        ("Transfer-Encoding: ,chunked", Err(400)),
        ("Transfer-Encoding: \x0bchunked", Err(400)),
        ("Expect: 100-Continue", Ok(())),
        ("Expect: 200-ok", Err(417)),
        ("Expect: 100-continue, more", Err(417)),
        ("TE: chunked;q=NaN, gzip;q=NaN", Ok(())),
    ] {
        assert_eq!(verdict(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}")), expected, "{lines:?}");
    }
    assert_eq!(verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked"), Err(400));
    assert_eq!(verdict("POST / HTTP/1.0\r\nExpect: anything"), Ok(()));
}

#[test]
fn chunks_are_read_by_the_letter() {
    let long = "x".repeat(limits::CHUNK_LINE_BYTES_MAX);
    let trailer = format!("0\r\nX: {}\r\n\r\n", "x".repeat(limits::TRAILER_BYTES_MAX));
    for (chunks, expected) in [
        ("0\r\n\r\n", Ok("")),
        ("5\r\nhello\r\n0\r\n\r\n", Ok("hello")),
        ("2;a=b;c\r\nhe\r\n003\r\nllo\r\n0;d\r\nTrailer: x\r\n\r\n", Ok("hello")),
        ("A\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789")),
        ("\r\n", Err(400)),
        (";a\r\n", Err(400)),
        ("5 \r\nhello\r\n0\r\n\r\n", Err(400)),
        (" 5\r\nhello\r\n0\r\n\r\n", Err(400)),
        ("+5\r\n", Err(400)),
        ("0x5\r\n", Err(400)),
        ("g\r\n", Err(400)),
        ("5\nhello\r\n0\r\n\r\n", Err(400)),
        ("5\r\nhello\n0\r\n\r\n", Err(400)),
        ("5\r\nhello!\r\n0\r\n\r\n", Err(400)),
        ("5;\x01\r\nhello\r\n0\r\n\r\n", Err(400)),
        ("0\r\n\n", Err(400)),
        ("0\r\nX: y\n\r\n", Err(400)),
        ("0\r\n\rx", Err(400)),
        ("100001\r\n", Err(413)),
        ("ffffffffffffffffffff\r\n", Err(413)),
        (&format!("1;{long}\r\n"), Err(400)),
        (&format!("{}1\r\n", "0".repeat(limits::CHUNK_LINE_BYTES_MAX)), Err(400)),
        (&trailer, Err(431)),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        check(bytes.as_bytes());
        let got = match requests(bytes.as_bytes()) {
            (_, Some(status)) => Err(status),
            (whole, None) => Ok(whole.iter().map(|r| String::from_utf8_lossy(&r.body)).collect::<String>()),
        };
        assert_eq!(got, expected.map(str::to_owned), "{chunks:?}");
    }
}

#[test]
fn a_body_of_chunks_is_refused_where_it_grows_too_long() {
    let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..16 {
        bytes.extend_from_slice(b"10000\r\n");
        bytes.extend(std::iter::repeat_n(b'x', 0x1_0000));
        bytes.extend_from_slice(b"\r\n");
    }
    let fits = [&bytes[..], b"0\r\n\r\n"].concat();
    let (whole, refused) = requests(&fits);
    assert_eq!((whole[0].body.len(), refused), (limits::BODY_BYTES_MAX, None));
    assert_eq!(requests(&[&bytes[..], b"1\r\n"].concat()).1, Some(413));
}

#[test]
fn heads_are_bounded_in_bytes_and_lines() {
    let head = |lines: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(lines - 1));
    assert_eq!(verdict(head(limits::HEADERS_MAX).trim_end()), Ok(()));
    assert_eq!(verdict(head(limits::HEADERS_MAX + 1).trim_end()), Err(431));

    let fixed = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let sized = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(bytes - fixed));
    assert_eq!(verdict(&sized(limits::HEAD_BYTES_MAX)), Ok(()));
    assert_eq!(verdict(&sized(limits::HEAD_BYTES_MAX + 1)), Err(431));
    let endless = "A".repeat(limits::HEAD_BYTES_MAX);
    check(endless.as_bytes());
    assert_eq!(requests(endless.as_bytes()).1, Some(431));
}

#[test]
fn targets_are_reduced_to_path_and_query() {
    for (target, path, query) in [
        ("/a/b?c=d?e", "/a/b", "c=d?e"),
        ("/", "/", ""),
        ("*", "*", ""),
        ("HTTP://host:1/a?b", "/a", "b"),
        ("http://host", "/", ""),
        ("http://host?b", "/", "b"),
    ] {
        let (whole, _) = requests(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!((&*whole[0].head.path, &*whole[0].head.query), (path, query), "{target}");
    }
}

#[test]
fn a_request_keeps_its_own_correlation_only_if_it_is_a_uuid() {
    let own = "0190c1f2-0000-4000-8000-00000000abcd";
    let correlation = |lines: &str| {
        let (whole, _) = requests(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes());
        whole[0].head.correlation.to_string()
    };
    assert_eq!(correlation(&format!("X-Correlation-Id: {own}\r\n")), own);
    assert_ne!(correlation("X-Correlation-Id: 0190c1f2000040008000000000000000\r\n"), own);
    assert_ne!(correlation(&format!("X-Correlation-Id: {own}\r\nX-Correlation-Id: {own}\r\n")), own);
}

#[test]
fn pipelined_requests_come_out_one_by_one() {
    let (whole, refused) = requests(
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
          GET /b HTTP/1.1\r\nHost: a\r\n\r\n\
          PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nd\r\n0\r\n\r\n\r\n\
          GET /d HTTP/1.1\r\nHost: a\r\n\r\n rest",
    );
    let seen: Vec<_> = whole.iter().map(|r| (&*r.head.path, &*r.body)).collect();
    assert_eq!(seen, [("/a", &b"abc"[..]), ("/b", b""), ("/c", b"d"), ("/d", b"")]);
    assert_eq!(refused, Some(400));
}

/// Fragments that requests are made of, good and bad.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "HEAD * HTTP/1.0\r\n",
        "PRI * HTTP/2.0\r\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: close\r\n",
        "X: y\r\n",
        "\r\n",
        "\n",
        "\r",
        "5\r\nhello\r\n",
        "5;a=b\r\n",
        "0\r\n\r\n",
        "hello",
        " ",
        ":",
    ]);
    prop_oneof![
        9 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #[test]
    fn any_bytes_read_the_same_in_any_pieces(
        fragments in prop::collection::vec(fragment(), 0..40),
        lengths in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes = fragments.concat();
        check(&bytes);
        let whole = transcript(&bytes, [bytes.len().max(1)]);
        prop_assert_eq!(whole, transcript(&bytes, lengths.into_iter().cycle()));
    }
}
