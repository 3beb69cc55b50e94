//! What a client meets at the connection layer: framing, order, limits, deadlines, streams, the end.

#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use rbee_hive::http::{ApiError, Code, Options};
use rbee_hive::limits;
use rustix::net::sockopt::set_socket_linger;
use wire::{PATIENCE, Rig, impatient, options, text};

#[test]
fn an_answer_is_framed_for_its_request() {
    let rig = Rig::start();
    let closes = Some("close");
    for (request, status, connection, body) in [
        ("GET /echo?a HTTP/1.1\r\nHost: a\r\n\r\n", 200, None, "GET /echo?a "),
        ("GET /thread?a HTTP/1.1\r\nHost: a\r\n\r\n", 200, None, "GET /thread?a "),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 200, None, "POST /echo? hi"),
        (
            "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x\r\ni\r\n0\r\n\r\n",
            200,
            None,
            "PUT /echo? hi",
        ),
        ("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200, closes, "GET /echo? "),
        ("GET /echo HTTP/1.0\r\n\r\n", 200, closes, "GET /echo? "),
        ("GET /echo HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 200, Some("keep-alive"), "GET /echo? "),
    ] {
        let mut client = rig.connect();
        client.send(request);
        let reply = client.reply();
        assert_eq!((reply.status, &*reply.body), (status, body), "{request:?}");
        assert_eq!(reply.header("connection"), connection, "{request:?}");
        assert!(reply.header("date").is_some_and(|d| d.ends_with(" GMT")), "{}", reply.head);
        assert!(reply.header("x-correlation-id").is_some_and(|id| id.len() == 36), "{}", reply.head);
        if connection == closes {
            client.is_closed();
        } else {
            client.get("/echo");
            assert_eq!(client.reply().status, 200, "kept after {request:?}");
        }
    }
}

#[test]
fn head_and_204_have_no_body() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.send("HEAD /big?5 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().header("content-length"), Some("5"));
    client.get("/nothing");
    let nothing = client.head();
    assert_eq!((nothing.status, nothing.header("content-length")), (204, None));
    client.send("HEAD /events HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().header("content-type"), Some("text/event-stream"));
    rig.feed().is_dropped();
    client.send("HEAD /forbidden HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().status, 403);
    client.get("/echo");
    assert_eq!(client.reply().body, "GET /echo? ");
}

#[test]
fn a_header_value_cannot_end_its_line() {
    let reply = Rig::start().get("/evil");
    assert_eq!((reply.header("x"), reply.header("injected")), (Some("a  Injected: yes"), None));
}

#[test]
fn the_correlation_of_the_request_comes_back() {
    let id = "0190c1f2-0000-4000-8000-00000000abcd";
    let rig = Rig::start();
    for (line, status) in [("GET /thread HTTP/1.1\r\nHost: a", 200), ("GET /thread HTTP/1.1", 400)] {
        let mut client = rig.connect();
        client.send(format!("{line}\r\nX-Correlation-Id: {id}\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("x-correlation-id")), (status, Some(id)));
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_closed() {
    let rig = Rig::start();
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(64 * 1024));
    let lines = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    let unread =
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000));
    for (request, status, code) in [
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "VERSION_NOT_SUPPORTED"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "VERSION_NOT_SUPPORTED"),
        ("\u{16}\u{3}\u{1}garbage", 400, "BAD_REQUEST"),
        ("GET /echo HTTP/1.1\r\n\r\n", 400, "BAD_REQUEST"),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000000\r\n\r\n", 413, "PAYLOAD_TOO_LARGE"),
        (&unread, 413, "PAYLOAD_TOO_LARGE"),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n", 400, "BAD_REQUEST"),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            400,
            "BAD_REQUEST",
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "BAD_REQUEST",
        ),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "NOT_IMPLEMENTED"),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417, "EXPECTATION_FAILED"),
        ("POST /forbidden HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 403, "FORBIDDEN"),
        (&endless, 431, "HEAD_TOO_LARGE"),
        (&lines, 431, "HEAD_TOO_LARGE"),
    ] {
        let mut client = rig.connect();
        client.send(request);
        let reply = client.reply();
        let shown = &request[..request.len().min(80)];
        assert_eq!(reply.status, status, "{shown:?}");
        assert!(reply.body.contains(&format!("\"code\":\"{code}\"")), "{shown:?}: {}", reply.body);
        assert_eq!(reply.header("connection"), Some("close"), "{shown:?}");
        client.is_closed(); // in order, although there was more to read

        let mut half_closed = rig.connect();
        half_closed.send(request);
        half_closed.shut_down();
        assert_eq!(half_closed.reply().status, status, "{shown:?}");
        half_closed.is_closed();
    }
    assert_eq!(rig.get("/echo").status, 200);
}

#[test]
fn a_te_header_full_of_nonsense_is_of_no_consequence() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.send(format!("GET /echo HTTP/1.1\r\nHost: a\r\nTE: {}\r\n\r\n", "gzip;q=NaN, ".repeat(30)));
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_client_that_expects_it_is_told_to_continue() {
    let rig = Rig::start();
    let head = |path| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    };
    let mut client = rig.connect();
    client.send(head("/echo"));
    assert_eq!(client.head().status, 100);
    client.send("hi");
    assert_eq!(client.reply().body, "POST /echo? hi");
    // The body is there already: nothing to wait for.
    client.send(head("/echo") + "ho");
    assert_eq!(client.reply().body, "POST /echo? ho");
    // Refused before the body.
    client.send(head("/forbidden"));
    assert_eq!(client.reply().status, 403);
    client.is_closed();
}

#[test]
fn pipelined_answers_come_in_order_whoever_makes_them() {
    const REQUESTS: usize = 4000;
    let rig = Rig::start();
    let mut client = rig.connect();
    let mut sender = client.socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..REQUESTS {
                let path = if n % 3 == 0 { "/thread" } else { "/echo" };
                let request = format!("GET {path}?{n} HTTP/1.1\r\nHost: a\r\n\r\n");
                std::io::Write::write_all(&mut sender, request.as_bytes()).unwrap();
            }
        });
        for n in 0..REQUESTS {
            let body = client.reply().body;
            assert!(body.ends_with(&format!("?{n} ")), "{body} is not {n}");
        }
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let rig = Rig::start();
    let mut client = rig.connect();
    let request =
        "\r\nPOST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    for byte in request.bytes() {
        client.send([byte]);
    }
    assert_eq!(client.reply().body, "POST /echo? hi");
}

#[test]
fn a_body_of_a_mebibyte_fits() {
    let rig = Rig::start();
    let body = "x".repeat(limits::BODY_BYTES_MAX);
    let mut client = rig.connect();
    client.send(format!("POST /thread HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert_eq!(client.reply().body.len(), body.len() + "POST /thread? ".len());
}

#[test]
fn a_client_that_shuts_its_side_still_gets_its_answers() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.get("/park");
    client.get("/echo");
    client.shut_down();
    rig.parked().answer(text("late".into()));
    assert_eq!(client.reply().body, "late");
    assert_eq!(client.reply().body, "GET /echo? ");
    client.is_closed();
}

#[test]
fn an_end_in_the_middle_is_just_an_end() {
    let rig = Rig::start();
    for part in [
        "",
        "GET",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel",
    ] {
        let mut client = rig.connect();
        client.send(part);
        client.shut_down();
        client.is_closed();
    }
}

#[test]
fn resets_harm_nobody() {
    let rig = Rig::start();
    for n in 0..1000 {
        let mut client = rig.connect();
        client.get(["/echo", "/thread", "/big?1000000", "/events", "/late-events"][n % 5]);
        set_socket_linger(&client.socket, Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(rig.get("/thread").status, 200);
}

#[test]
fn sixty_four_clients_at_once_are_all_answered() {
    let rig = Rig::start();
    for _ in 0..10 {
        let mut clients: Vec<_> = (0..64).map(|_| rig.connect()).collect();
        for client in &mut clients {
            client.get("/thread");
        }
        assert!(clients.iter_mut().all(|client| client.reply().status == 200));
    }
}

#[test]
fn a_handler_that_panics_or_forgets_answers_500() {
    let rig = Rig::start();
    for path in ["/panic", "/drop", "/panic", "/panic"] {
        let reply = rig.get(path);
        assert_eq!(reply.status, 500, "{path}");
        assert!(reply.body.contains("\"INTERNAL\""), "{}", reply.body);
    }
    assert_eq!(rig.get("/thread").status, 200, "the threads live on");
}

#[test]
fn a_ticket_may_be_answered_by_anybody_at_any_time() {
    let rig = Rig::start();
    let mut clients: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    for client in &mut clients {
        client.get("/park");
    }
    let tickets: Vec<_> = clients.iter().map(|_| rig.parked()).collect();
    assert_eq!(rig.get("/thread").status, 200, "no thread is held");
    clients.truncate(25); // the answers to the others find nobody
    for ticket in tickets {
        ticket.error(ApiError::new(Code::ShuttingDown, "later"));
    }
    assert!(clients.iter_mut().all(|client| client.reply().status == 503));
}

#[test]
fn slow_heads_and_bodies_are_cut_with_408() {
    let rig = Rig::with(impatient());
    for part in ["G", "GET / HTTP/1.1\r\nHost", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel"]
    {
        let mut client = rig.connect();
        client.send(part);
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("connection")), (408, Some("close")), "{part:?}");
        client.is_closed();
    }
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let rig = Rig::with(impatient());
    let (mut fresh, mut kept) = (rig.connect(), rig.connect());
    kept.get("/echo");
    assert_eq!(kept.reply().status, 200);
    fresh.is_closed();
    kept.is_closed();
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let rig = Rig::with(impatient());
    let mut client = rig.connect();
    client.get("/big?50000000");
    client.head();
    // The server's buffer and ours are full by now, or will be; then nothing moves.
    while rig.server.connections() > 0 {
        std::thread::yield_now();
    }
    client.is_gone();
}

#[test]
fn at_the_limit_the_connection_idle_longest_makes_room() {
    let rig = Rig::with(Options { max_connections: 4, ..options() });
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = rig.connect();
            client.get("/echo");
            client.reply();
            client
        })
        .collect();
    clients[0].send("GET /echo HTT"); // an unfinished head has begun later than the idle ones
    let mut late = rig.connect();
    late.get("/echo");
    assert_eq!(late.reply().status, 200);
    assert!(rig.server.connections() <= 4);
}

#[test]
fn at_the_limit_who_sends_no_whole_request_or_reads_no_answer_makes_room() {
    for stalls in [
        "GET /echo HTT",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel",
        "GET /big?50000000 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let rig = Rig::with(Options { max_connections: 4, ..options() });
        let mut stalling: Vec<_> = (0..4).map(|_| rig.connect()).collect();
        for client in &mut stalling {
            client.send(stalls);
        }
        let unread = stalls.contains("/big");
        stalling.iter_mut().filter(|_| unread).for_each(|client| drop(client.head()));
        for _ in 0..10 {
            let mut late = rig.connect();
            late.get("/echo");
            assert_eq!(late.reply().status, 200, "{stalls:?}");
        }
    }
}

#[test]
fn a_flood_of_silent_clients_does_not_cost_others_their_connections() {
    let rig = Rig::with(Options { max_connections: 8, ..options() });
    let mut kept: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    let mut silent = Vec::new();
    for _ in 0..50 {
        for client in &mut kept {
            client.get("/echo");
            assert_eq!(client.reply().status, 200);
        }
        silent.extend((0..4).map(|_| rig.connect()));
        // Whoever comes with a whole request is answered, however many others come at the same time.
        assert_eq!(rig.get("/echo").status, 200);
    }
    assert!(rig.server.connections() <= 8);
}

#[test]
fn streams_leave_half_of_the_connections_to_others() {
    let rig = Rig::with(Options { max_connections: 8, ..options() });
    let mut streams: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for client in &mut streams {
        client.get("/events");
        assert_eq!(client.head().status, 200);
    }
    let refused = rig.get("/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(rig.get("/thread").status, 200);
}

#[test]
fn at_the_limit_and_all_busy_the_next_gets_503() {
    let rig = Rig::with(Options { max_connections: 4, ..options() });
    let mut busy: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for client in &mut busy {
        client.get("/park");
    }
    let tickets: Vec<_> = busy.iter().map(|_| rig.parked()).collect();
    for _ in 0..20 {
        let mut late = rig.connect();
        late.get("/echo");
        let reply = late.reply();
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
        late.is_closed();
    }
    for ticket in tickets {
        ticket.answer(text("done".into()));
    }
    assert!(busy.iter_mut().all(|client| client.reply().body == "done"));
    assert_eq!(rig.get("/echo").status, 200, "there is room again");
}

#[test]
fn a_stream_is_sent_as_it_comes() {
    let rig = Rig::start();
    let waker = rig.server.stream_waker();
    for path in ["/events", "/late-events"] {
        let mut client = rig.connect();
        client.get(path);
        let head = client.head();
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        let feed = rig.feed();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            feed.put(event);
            waker.wake();
            assert_eq!(client.chunk(), event);
        }
        feed.put("");
        waker.wake();
        assert_eq!(client.chunk(), "");
        feed.is_dropped();
        client.get("/echo");
        assert_eq!(client.reply().status, 200, "the connection is kept");
    }
}

#[test]
fn a_stream_on_http_1_0_ends_with_its_connection() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.send("GET /events HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head();
    assert_eq!((head.header("connection"), head.header("transfer-encoding")), (Some("close"), None));
    let feed = rig.feed();
    feed.put("data: 1\n\n");
    feed.put("");
    rig.server.stream_waker().wake();
    assert_eq!(client.until("\n\n"), "data: 1\n\n");
    client.is_closed();
}

#[test]
fn a_quiet_stream_is_kept_open_with_comments() {
    let rig = Rig::with(impatient());
    let mut client = rig.connect();
    client.get("/events");
    client.head();
    assert_eq!([client.chunk(), client.chunk()], [":\n\n", ":\n\n"]);
}

#[test]
fn a_stream_whose_client_is_gone_drops_its_source() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.get("/events");
    client.head();
    drop(client);
    rig.feed().is_dropped();
}

#[test]
fn a_slow_reader_is_not_sent_more_than_it_takes() {
    const EVENTS: usize = 4000;
    let rig = Rig::start();
    let mut client = rig.connect();
    client.get("/events");
    let feed = rig.feed();
    let event = "x".repeat(10_000);
    (0..EVENTS).for_each(|_| feed.put(&*event));
    feed.put("");
    rig.server.stream_waker().wake();
    client.head();
    assert!(feed.waiting() > EVENTS / 4, "most is still where it came from");
    let mut received = 0;
    loop {
        match client.chunk().len() {
            0 => break,
            n => received += n,
        }
    }
    assert_eq!(received, EVENTS * event.len());
}

#[test]
fn a_reader_that_stops_loses_its_stream() {
    let rig = Rig::with(impatient());
    let mut client = rig.connect();
    client.get("/events");
    let feed = rig.feed();
    (0..4000).for_each(|_| feed.put("x".repeat(10_000)));
    rig.server.stream_waker().wake();
    feed.is_dropped();
    client.is_gone();
}

#[test]
fn streams_are_counted() {
    let rig = Rig::start();
    let streams: Vec<_> = (0..limits::STREAMS_MAX)
        .map(|_| {
            let mut client = rig.connect();
            client.get("/events");
            assert_eq!(client.head().status, 200);
            (client, rig.feed())
        })
        .collect();
    let refused = rig.get("/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let (client, feed) = streams.into_iter().next().unwrap();
    drop(client);
    feed.is_dropped();
    while rig.get("/events").status == 503 {}
}

#[test]
fn a_full_queue_answers_503_and_empties_again() {
    const TOO_MANY: usize = 50;
    let mut rig = Rig::with(Options { threads: 1, ..options() });
    let mut blocking = rig.connect();
    blocking.get("/block");
    let ticket = rig.parked(); // the only thread is in it now
    let mut clients: Vec<_> = (0..limits::QUEUE_MAX).map(|_| rig.connect()).collect();
    clients.iter_mut().for_each(|client| client.get("/thread"));
    let mut refused = 0;
    while refused < TOO_MANY {
        let mut late = rig.connect();
        late.get("/thread");
        late.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut first = [0];
        match late.socket.peek(&mut first) {
            Ok(_) => {
                let reply = late.reply();
                assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
                refused += 1;
            }
            Err(_) => clients.push(late), // it came before one of the others
        }
    }
    rig.gate = None;
    ticket.answer(text("at last".into()));
    assert_eq!(blocking.reply().body, "at last");
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.reply().status).collect();
    let served = statuses.iter().filter(|&&status| status == 200).count();
    assert_eq!(served, limits::QUEUE_MAX, "all that were queued are served");
    assert_eq!(rig.get("/thread").status, 200);
}

#[test]
fn an_answer_that_does_not_come_in_time_is_a_503_and_comes_to_nobody_later() {
    let rig = Rig::start();
    let mut client = rig.connect();
    client.get("/park?within_ms=100");
    client.get("/echo"); // what is sent behind it is not taken for another request
    let ticket = rig.parked();
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (503, Some("close")));
    assert!(reply.body.contains("\"OVERLOADED\""), "{}", reply.body);
    assert!(reply.header("retry-after").is_some());
    ticket.answer(text("too late".into()));
    client.is_closed();
    assert_eq!(rig.get("/thread").body, "GET /thread? ");
}

#[test]
fn while_all_threads_hang_what_waits_is_dropped_in_time_and_what_cannot_hang_is_served() {
    let mut rig = Rig::with(Options { threads: 1, ..options() });
    let (mut hanging, mut waiting) = (rig.connect(), rig.connect());
    hanging.get("/block?within_ms=100");
    let ticket = rig.parked(); // the only thread is in it now
    waiting.get("/park?within_ms=100");
    for client in [&mut hanging, &mut waiting] {
        assert_eq!(client.reply().status, 503);
        client.is_closed();
    }
    assert_eq!(rig.get("/echo").status, 200);
    assert_eq!(rig.get("/quick").status, 200);
    rig.gate = None;
    drop(ticket);
    assert_eq!(rig.get("/thread").status, 200, "the thread is back");
    assert!(rig.parked.try_recv().is_err(), "nobody began what its client was told is not done");
}

#[test]
fn a_thread_that_hangs_does_not_keep_the_server_from_ending() {
    let rig = Rig::with(Options { threads: 1, ..options() });
    let mut hanging = rig.connect();
    hanging.get("/block");
    let ticket = rig.parked();
    let Rig { server, gate, .. } = rig;
    assert!(!server.drain(Duration::from_millis(50)), "one is left behind");
    hanging.is_gone();
    drop((ticket, gate));
}

#[test]
fn draining_finishes_answers_under_way_and_ends_the_rest() {
    let rig = Rig::start();
    let address = rig.server.local_addr();
    let (mut idle, mut half, mut busy, mut stream) =
        (rig.connect(), rig.connect(), rig.connect(), rig.connect());
    idle.get("/echo");
    idle.reply();
    half.send("GET /ec");
    stream.get("/events");
    stream.head();
    busy.get("/park");
    let ticket = rig.parked();
    let feed = rig.feed();
    feed.put("data: last\n\n");
    let Rig { server, .. } = rig;
    std::thread::scope(|scope| {
        let drained = scope.spawn(move || server.drain(PATIENCE));
        idle.is_closed();
        half.is_gone();
        assert_eq!([stream.chunk(), stream.chunk()], ["data: last\n\n", ""]);
        stream.is_closed();
        feed.is_dropped();
        assert!(!drained.is_finished());
        ticket.answer(text("done".into()));
        let reply = busy.reply();
        assert_eq!((&*reply.body, reply.header("connection")), ("done", Some("close")));
        busy.is_closed();
    });
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
}

#[test]
fn draining_cuts_what_is_not_done_in_time() {
    let rig = Rig::start();
    let mut busy = rig.connect();
    busy.get("/park");
    let ticket = rig.parked();
    rig.server.drain(Duration::from_millis(50));
    busy.is_gone();
    ticket.answer(text("too late".into())); // finds nobody
}
