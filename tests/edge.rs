//! Hosts of clients as no client should be, against the daemon: it neither grows nor stops answering, and has all of its
//! descriptors back. Their larger numbers, with times, are in `benches/edge.rs`.

#[path = "support/rude.rs"]
mod rude;
mod support;

use rude::{Attack, HALF_HEAD, Holds, Manner, PREFACE, Patient, SLOW_CHUNKS, STALLED_BODY, STREAM};
use support::{Hive, eventually};

const ATTACKS: [Attack; 9] = [
    Attack { name: "half-sent heads", clients: 300, manner: Manner::Stall(HALF_HEAD) },
    Attack { name: "silent clients", clients: 300, manner: Manner::Stall("") },
    Attack { name: "stalled bodies", clients: 64, manner: Manner::Stall(STALLED_BODY) },
    Attack { name: "stalled chunks", clients: 64, manner: Manner::Stall(SLOW_CHUNKS) },
    Attack { name: "idle streams", clients: 100, manner: Manner::Stall(STREAM) },
    Attack { name: "unread pipelines", clients: 4, manner: Manner::Pipeline(20_000) },
    Attack { name: "resets", clients: 300, manner: Manner::Reset },
    Attack { name: "half-closed connections", clients: 100, manner: Manner::HalfClose },
    Attack { name: "HTTP/2 prefaces", clients: 100, manner: Manner::Stall(PREFACE) },
];

/// More memory than this is no accident of an allocator.
const KIB_MAX: usize = 20 * 1024;

fn all_are_survived_by(mut hive: Hive) {
    let worker = hive.spawn("mock", "");
    hive.wait_state(&worker, "ready");
    let mut patient = Patient::new(hive.address);
    patient.ask();
    let idle = Holds::of(hive.pid());
    for attack in ATTACKS {
        let held = attack.begin(hive.address);
        let unanswered = patient.cut_off;
        patient.ask();
        assert!(patient.cut_off <= unanswered + 1, "{}: asked and not answered", attack.name);
        let meanwhile = Holds::of(hive.pid());
        assert_eq!(meanwhile.threads, idle.threads, "{}", attack.name);
        assert!(meanwhile.kib <= idle.kib + KIB_MAX, "{}: {meanwhile:?} {idle:?}", attack.name);
        drop(held);
        // Beside the connections there may be one of the worker's, which comes and goes.
        eventually(attack.name, || Holds::of(hive.pid()).descriptors <= idle.descriptors + 1);
    }
    assert_eq!(hive.worker(&worker)["state"], "ready");
    hive.signal(15);
    assert!(hive.wait_exit().success());
    assert!(!hive.log().contains("panicked"), "{}", hive.log());
}

#[test]
fn rude_clients_cost_neither_threads_nor_memory_nor_descriptors() {
    all_are_survived_by(Hive::start());
}

#[test]
fn nor_where_there_are_hardly_any_descriptors() {
    all_are_survived_by(Hive::builder().descriptors(64).start());
}

/// What breaks servers that repair, guess or believe: each is refused in one answer, and the connection closed.
#[test]
fn absurd_framing_is_refused_once_and_nothing_behind_it_is_a_request() {
    let hive = Hive::start();
    let idle = Holds::of(hive.pid());
    let behind = "GET /v1/health HTTP/1.1\r\nHost: hive\r\n\r\n";
    let post = "POST /v1/workers/spawn HTTP/1.1\r\nHost: hive\r\n";
    let mut others = Vec::new();
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n");
    for (request, status) in [
        (format!("{post}Content-Length: 50000000000\r\n\r\n"), 413),
        (format!("{post}Content-Length: 18446744073709551616\r\n\r\n"), 400),
        (format!("{post}Content-Length: -1\r\n\r\n"), 400),
        (format!("{post}Content-Length: +2\r\n\r\n{{}}"), 400),
        (format!("{post}Content-Length: 0x2\r\n\r\n{{}}"), 400),
        (format!("{post}Content-Length: 2, 2\r\n\r\n{{}}"), 400),
        (format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"), 400),
        (format!("{post}Content-Length : 2\r\n\r\n{{}}"), 400),
        (format!("{chunked}Content-Length: 2\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 501),
        (format!("{chunked}\r\nffffffffffffffff\r\n"), 413),
        (format!("{chunked}\r\n10000000000000000\r\n"), 413),
        (format!("{chunked}\r\n-1\r\n"), 400),
        (format!("{chunked}\r\n2\r\n{{}}x"), 400),
        (format!("{chunked}\r\n2;{}\r\n{{}}\r\n", "x".repeat(5000)), 400),
        (format!("{chunked}\r\n0\r\nX: {}\r\n", "x".repeat(20_000)), 431),
        ("GET /v1/health HTTP/2.0\r\nHost: hive\r\n\r\n".into(), 505),
        ("GET /v1/health HTTP/1.1\r\nHost: hive\r\nX: a\r\n b\r\n\r\n".into(), 400),
        ("GET /v1/health HTTP/1.1\r\nHost: hive\r\nX: a\0b\r\n\r\n".into(), 400),
        ("GET /v1/health\r\n\r\n".into(), 400),
        (PREFACE.into(), 505),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)), 431),
    ] {
        let reply = hive.raw(format!("{request}{behind}"));
        let shown = &request[..request.len().min(150)];
        if reply.status != status {
            others.push(format!("{} instead of {status} for {shown:?}: {}", reply.status, reply.body));
        }
        assert!(reply.head.contains("\r\nConnection: close"), "{shown:?}");
        assert!(!reply.body.contains("HTTP/1.1 200"), "{shown:?}: {}", reply.body);
    }
    assert!(others.is_empty(), "{others:#?}");
    eventually("all is given back", || Holds::of(hive.pid()).descriptors <= idle.descriptors);
    assert_eq!(Holds::of(hive.pid()).threads, idle.threads);
}

#[test]
fn odd_but_sound_requests_are_answered() {
    let hive = Hive::start();
    let last = "Connection: close\r\n";
    let weights = "gzip;q=NaN, deflate;q=-1, trailers;q=1e400, ".repeat(30);
    for request in [
        format!("GET /v1/health HTTP/1.1\r\nHost: hive\r\nTE: {weights}\r\n{last}\r\n"),
        format!("\r\n\r\nGET /v1/health HTTP/1.1\r\nHost: hive\r\n{last}\r\n"),
        format!("GET /v1/health HTTP/1.1\r\nhost:hive\r\n{}{last}\r\n", "X:\r\n".repeat(90)),
        "GET /v1/health HTTP/1.0\r\n\r\n".into(),
    ] {
        assert_eq!(hive.raw(&request).status, 200, "{request:?}");
    }
    let expects = format!(
        "POST /v1/workers/spawn HTTP/1.1\r\nHost: hive\r\nExpect: 100-continue\r\nContent-Length: 2\r\n{last}\r\n"
    );
    // The body is there already: there is nothing to wait for. What it asks for lacks an argument.
    assert_eq!(hive.raw(expects + "{}").status, 400);
}
