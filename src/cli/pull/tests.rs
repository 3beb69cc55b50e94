//! Against a hive of a few lines.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use super::*;

const BEGUN: &str = r#"{"download_id":"d-1","local_path":null}"#;
const HALF: &str = "id: 5\ndata: {\"stage\":\"downloading\",\"bytes_downloaded\":1,\"bytes_total\":2,\"speed_mbps\":0.1,\"file\":\"m\",\"attempt\":1}\n\n";
const DONE: &str = "id: 6\ndata: {\"stage\":\"complete\",\"local_path\":\"/hub/m.gguf\"}\n\ndata: [DONE]\n\n";

/// The next request, its body included, and where its answer goes.
fn accept(listener: &TcpListener) -> (String, TcpStream) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.to_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        request.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (request + std::str::from_utf8(&body).unwrap(), stream)
}

fn answer(mut stream: TcpStream, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
}

fn events(stream: &mut TcpStream, events: &str) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all((head.to_owned() + events).as_bytes()).unwrap();
}

fn error(code: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"no\u001b[2J","correlation_id":"x"}}}}"#)
}

/// Pulls from a hive that does as `script` has it; also what was shown on stdout and stderr.
fn pull(
    look: Look<'_>,
    script: impl FnOnce(TcpListener) + Send,
    meanwhile: impl FnOnce(Stop, HiveClient) + Send,
) -> (Result<String, Failure>, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = HiveClient::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| script(listener));
        let mut show = Show::new(&mut out, &mut err, look);
        let mut pull = Pull::new(&client, "hf:o/r");
        let stop = pull.stop.clone();
        let other = client.clone();
        scope.spawn(|| meanwhile(stop, other));
        pull.follow(&mut show)
    });
    (ended, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn nothing(_: Stop, _: HiveClient) {}

fn command(listener: &TcpListener, json: bool) -> Command {
    let hive = Hive { url: format!("http://{}", listener.local_addr().unwrap()), token: None };
    Command { hive, model: "hf:o/r".to_owned(), json, is_dumb: true }
}

#[test]
fn a_model_that_is_here_has_its_path() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let command = command(&listener, false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (request, stream) = accept(&listener);
            assert!(request.starts_with("post /v1/models/download http/1.1\r\n"), "{request}");
            assert!(request.ends_with(r#"{"model_ref":"hf:o/r"}"#), "{request}");
            answer(stream, "200 OK", r#"{"download_id":"cached","local_path":"/hub/m.gguf"}"#);
        });
        assert_eq!(command.run(), Ok("/hub/m.gguf\n".to_owned().into()));
    });
}

#[test]
fn a_broken_stream_is_gone_on_with_after_its_last_event() {
    let (ended, out, err) = pull(
        Look::Lines,
        |listener| {
            answer(accept(&listener).1, "202 Accepted", BEGUN);
            events(&mut accept(&listener).1, HALF);
            let (request, mut stream) = accept(&listener);
            assert!(request.starts_with("get /v1/models/download/progress?id=d%2d1 "), "{request}");
            assert!(request.contains("\r\nlast-event-id: 5\r\n"), "{request}");
            events(&mut stream, DONE);
        },
        nothing,
    );
    assert!(matches!(&ended, Ok(path) if path == "/hub/m.gguf"), "{ended:?}");
    assert!(out.is_empty() && err.starts_with("downloading 50%  1 B of 2 B  12.2 KiB/s  0s left\n"), "{err}");
    assert!(err.ends_with("; trying again\n"), "{err}");
}

#[test]
fn a_hive_that_was_started_anew_is_asked_anew() {
    let (ended, out, _) = pull(
        Look::Json,
        |listener| {
            answer(accept(&listener).1, "202 Accepted", BEGUN);
            answer(accept(&listener).1, "404 Not Found", &error("DOWNLOAD_NOT_FOUND"));
            answer(accept(&listener).1, "202 Accepted", &BEGUN.replace("d-1", "d-2"));
            let (request, mut stream) = accept(&listener);
            assert!(request.contains("?id=d%2d2 ") && !request.contains("last-event-id"), "{request}");
            events(&mut stream, DONE);
        },
        nothing,
    );
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(out, "{\"stage\":\"complete\",\"local_path\":\"/hub/m.gguf\"}\n");
}

#[test]
fn a_download_that_fails_says_why_and_what_to_do() {
    let (ended, ..) = pull(
        Look::Lines,
        |listener| {
            answer(accept(&listener).1, "202 Accepted", BEGUN);
            let end = r#"data: {"stage":"error","code":"INSUFFICIENT_DISK","message":"the disk is full"}"#;
            events(&mut accept(&listener).1, &format!("{end}\n\ndata: [DONE]\n\n"));
        },
        nothing,
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = command(&listener, false).explain(&ended.unwrap_err());
    let hint = "`rbee-hive models` tells what there is, `rbee-hive rm MODEL` deletes it";
    assert_eq!((error.exit_code, error.to_string()), (1, format!("error: the disk is full\nhint: {hint}")));
}

#[test]
fn a_hive_that_says_no_is_not_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let command = command(&listener, false);
    std::thread::scope(|scope| {
        scope.spawn(move || answer(accept(&listener).1, "404 Not Found", &error("MODEL_NOT_FOUND")));
        let error = command.run().unwrap_err();
        assert!(error.exit_code == 1 && error.message.contains(r"no\u{1b}[2J (MODEL_NOT_FOUND)"), "{error}");
    });
}

#[test]
fn ctrl_c_before_the_hive_has_answered_cancels_what_it_then_names() {
    let (asked, is_asked) = crossbeam_channel::bounded(1);
    let (stopped, is_stopped) = crossbeam_channel::bounded(1);
    let (ended, ..) = pull(
        Look::Lines,
        move |listener| {
            let begin = accept(&listener).1;
            asked.send(()).unwrap();
            is_stopped.recv().unwrap();
            answer(begin, "202 Accepted", BEGUN);
            let (request, cancel) = accept(&listener);
            assert!(request.starts_with("delete /v1/models/download?id=d%2d1 "), "{request}");
            answer(cancel, "202 Accepted", "{}");
        },
        move |stop, client| {
            is_asked.recv().unwrap();
            stop.stop(&client);
            stopped.send(()).unwrap();
        },
    );
    assert!(matches!(ended, Err(Failure::Stopped)), "{ended:?}");
}

#[test]
fn ctrl_c_cancels_the_download_on_the_hive() {
    let (begun, has_begun) = crossbeam_channel::bounded(1);
    let (ended, ..) = pull(
        Look::Lines,
        move |listener| {
            answer(accept(&listener).1, "202 Accepted", BEGUN);
            let mut stream = accept(&listener).1;
            events(&mut stream, HALF);
            begun.send(()).unwrap();
            let (request, cancel) = accept(&listener);
            assert!(request.starts_with("delete /v1/models/download?id=d%2d1 "), "{request}");
            answer(cancel, "202 Accepted", "{}");
            let end =
                "data: {\"stage\":\"error\",\"code\":\"CANCELLED\",\"message\":\"x\"}\n\ndata: [DONE]\n\n";
            stream.write_all(end.as_bytes()).unwrap();
        },
        move |stop, client| {
            has_begun.recv().unwrap();
            stop.stop(&client);
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = command(&listener, false).explain(&ended.unwrap_err());
    let expected = "error: cancelled\nhint: run it again to go on where it stopped";
    assert_eq!((error.exit_code, error.to_string().as_str()), (130, expected));
}
