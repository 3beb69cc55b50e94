//! The status page as a browser gets it. What it shows and does is tested in `tests/page/`, with a browser.

mod support;

use support::Hive;

#[test]
fn a_page_of_another_site_moves_nothing_where_there_is_no_token() {
    let hive = Hive::start();
    let own = hive.url.strip_prefix("http://").unwrap().to_owned();
    let status = |host: &str, origin: &str| {
        let head = format!(
            "POST /v1/drain HTTP/1.1\r\nHost: {host}\r\n{origin}Content-Length: 14\r\nConnection: close\r\n\r\n"
        );
        hive.raw(head + "{\"drain\":true}").status
    };
    // A browser tells of which page a request is, but not always.
    assert_eq!(status(&own, "Origin: https://evil.example\r\n"), 403);
    assert_eq!(status(&own, "Origin: null\r\n"), 403);
    assert_eq!(status(&own, "Sec-Fetch-Site: cross-site\r\n"), 403, "an image has no origin");
    assert_eq!(status("evil.example:8600", ""), 403, "its name leads here");
    assert_eq!(status("127.0.0.1.evil.example", "Origin: http://127.0.0.1.evil.example\r\n"), 403);
    assert_eq!(hive.get("/ready").status, 200, "nothing was drained");
    for host in [own.as_str(), "localhost:8600", "hive", "[::1]:8600", "127.0.0.1", "a.localhost"] {
        assert_eq!(status(host, ""), 200, "{host}");
    }
    assert_eq!(status(&own, &format!("Origin: http://{own}\r\n")), 200, "its own page");
    assert_eq!(status(&own, "Sec-Fetch-Site: same-origin\r\n"), 200, "its own page");
    let guarded = Hive::builder().token("s3cret").start();
    let answer = guarded.request(
        "POST",
        "/v1/drain",
        &[("Origin", "https://queen.example")],
        Some("{\"drain\":false}"),
    );
    assert_eq!(answer.status, 200, "whoever has the token may be of any site");
}

#[test]
fn everybody_gets_the_page_and_nothing_with_it() {
    let hive = Hive::builder().token("s3cret-of-the-hive").start();
    let stranger = [("Authorization", "")];
    let reply = hive.request("GET", "/", &stranger, None);
    assert_eq!((reply.status, reply.header("Content-Type")), (200, "text/html; charset=utf-8"));
    assert!(reply.text.starts_with("<!doctype html>") && !reply.text.contains("s3cret"));
    assert_eq!(reply.header("X-Content-Type-Options"), "nosniff");
    assert_eq!(reply.header("Referrer-Policy"), "no-referrer");
    assert_eq!(reply.header("Cache-Control"), "no-store");
    let policy = reply.header("Content-Security-Policy");
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.split("; ").any(|part| part == rule), "{rule} in {policy}");
    }
    let head = hive.raw("HEAD / HTTP/1.1\r\nHost: hive\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains(&format!("Content-Length: {}", reply.text.len())), "{}", head.head);
    for (method, path, status) in [("POST", "/", 405), ("GET", "/index.html", 404), ("GET", "/?x", 200)] {
        assert_eq!(hive.request(method, path, &stranger, None).status, status, "{method} {path}");
    }
}
