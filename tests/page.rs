//! The status page as a browser gets it. What it shows and does is tested in `tests/page/`, with a browser.

mod support;

use support::Hive;

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
