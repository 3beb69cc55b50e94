//! Against a hive of a few lines.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;
use crate::api::Devices;

/// Asks for devices what answers every request with `answer`, and gives the request as well.
fn ask(answer: &str) -> (Result<Devices, ClientError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = HiveClient::new(&url).unwrap().with_token(Token::parse("s3cret").unwrap());
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            // The client may have enough of it before its end.
            let _ = stream.write_all(answer.as_bytes());
            String::from_utf8(request).unwrap()
        });
        let answer = client.devices();
        (answer, server.join().unwrap())
    })
}

fn json(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn devices_are_asked_for_with_the_token() {
    let body = r#"{"cpu":{"cores":8,"ram_gb":1,"ram_total_bytes":2,"ram_available_bytes":1},"gpus":[],
                   "models":0,"workers":0,"disk":null,"backends":["cpu"],"news":1}"#;
    let (devices, request) = ask(&json("200 OK", body));
    assert_eq!(devices.unwrap().cpu.cores, 8);
    assert!(request.starts_with("GET /v1/devices HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("\r\nauthorization: bearer s3cret\r\n"), "{request}");
}

#[test]
fn a_refusal_has_its_code_and_a_stranger_is_known() {
    let body = r#"{"error":{"code":"INVALID_API_KEY","message":"no\u001b[2J","correlation_id":"x"}}"#;
    let error = ask(&json("401 Unauthorized", body)).0.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused { status: 401, error: Some(e) } if e.code == "INVALID_API_KEY")
    );
    assert_eq!(error.to_string(), r"the hive says no: no\u{1b}[2J (INVALID_API_KEY)");
    for answer in ["302 Found\r\nLocation: http://elsewhere", "404 Not Found"] {
        let error = ask(&json(answer, "<html>")).0.unwrap_err();
        assert!(matches!(error, ClientError::Refused { error: None, .. }), "{error}");
    }
    for answer in [json("200 OK", "<html>"), json("200 OK", "{}"), "SSH-2.0-x\r\n".to_owned()] {
        let error = ask(&answer).0.unwrap_err();
        assert!(matches!(error, ClientError::BadAnswer(_)), "{error}");
    }
    let flood = " ".repeat(usize::try_from(limits::CLIENT_ANSWER_BYTES_MAX).unwrap() + 1);
    assert!(matches!(ask(&json("200 OK", &flood)).0, Err(ClientError::BadAnswer(_))));
}

#[test]
fn where_nobody_listens_no_hive_answers() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = HiveClient::new(&format!("http://{free}")).unwrap().devices().unwrap_err();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
}

#[test]
fn a_url_is_http_without_user_or_query() {
    for wrong in ["", "hive", "hive:8600", "ftp://hive", "http://u:p@hive", "http://hive?x", "http://hive#x"]
    {
        assert!(matches!(HiveClient::new(wrong), Err(ClientError::BadUrl)), "{wrong}");
    }
    assert_eq!(HiveClient::new("https://gate/hive-3/").unwrap().url, "https://gate/hive-3");
}
